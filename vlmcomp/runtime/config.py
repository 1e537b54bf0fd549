"""Runtime settings: one argument of the Engine, and one environment variable that overrides its defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

ENV_RUNTIME = "VLMCOMP_RUNTIME"  # environment: settings such as "decode=static,int8_kernel=fbgemm"
AUTO = "auto"
GENERATE, STATIC, CAPTURED, COMPILED = DECODE_MODES = ("generate", "static", "captured", "compiled")
BITSANDBYTES, FBGEMM, ONEDNN = INT8_KERNELS = ("bitsandbytes", "fbgemm", "onednn")
PYTORCH, PREPACKED, TRITON_DENSE = DENSE_KERNELS = ("pytorch", "prepacked", "triton-dense")
LIBRARY = "library"
CAPTURE_AFTER_TOKENS = 16  # a capture takes longer than a few tokens do

_CHOICES = {
    "decode": DECODE_MODES,
    "linear_kernels": (LIBRARY,),
    "int8_kernel": INT8_KERNELS,
    "dense_kernel": DENSE_KERNELS,
}


@dataclass(frozen=True)
class RuntimeConfig:
    """Settings of an Engine.

    ``auto`` selects the fastest on the device; kernels are timed once, and the timings are stored in the cache folder.

    Args:
        decode: how tokens are decoded: ``generate`` of transformers, a loop over a ``static`` cache, a ``captured``
            step (CUDA graph, or FX graph on a CPU), or a step ``compiled`` by Inductor and then captured.
        linear_kernels: ``library`` keeps every Linear of PyTorch, bitsandbytes and torchao as it is.
        int8_kernel: kernel for INT8 weights on a CPU.
        dense_kernel: kernel for dense weights.
        capture_after_tokens: tokens to decode before the step is captured.

    Raises:
        ValueError: a value that its setting does not have.
    """

    decode: str = AUTO
    linear_kernels: str = AUTO
    int8_kernel: str = AUTO
    dense_kernel: str = AUTO
    capture_after_tokens: int = CAPTURE_AFTER_TOKENS

    def __post_init__(self) -> None:
        for name, values in _CHOICES.items():
            if (value := getattr(self, name)) not in (AUTO, *values):
                raise ValueError(f"{name} is '{value}': use {AUTO}, {', '.join(values)}")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> RuntimeConfig:
        """The defaults with the settings of ``$VLMCOMP_RUNTIME``.

        Raises:
            ValueError: the variable is not a list of ``name=value`` pairs, or has an invalid name or value.
        """
        text = (os.environ if environ is None else environ).get(ENV_RUNTIME, "")
        pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
        settings: dict[str, str | int] = {name.strip(): value.strip() for name, _, value in pairs}
        names = [field.name for field in fields(cls)]
        if unknown := [name for name in settings if name not in names]:
            raise ValueError(f"{ENV_RUNTIME} sets '{unknown[0]}': use {', '.join(names)}")
        try:
            if "capture_after_tokens" in settings:
                settings["capture_after_tokens"] = int(settings["capture_after_tokens"])
            return cls(**settings)  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(f"{ENV_RUNTIME}: {error}") from None
