"""How an engine computes: one argument, and one environment variable that overrides its defaults."""

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
CAPTURE_AFTER_TOKENS = 16  # whoever asks little need not wait for a capture

_CHOICES = {
    "decode": DECODE_MODES,
    "linear_kernels": (LIBRARY,),
    "int8_kernel": INT8_KERNELS,
    "dense_kernel": DENSE_KERNELS,
}


@dataclass(frozen=True)
class RuntimeConfig:
    """Settings of an engine. ``auto`` takes what is fastest on the device; timings are measured once and kept.

    Args:
        decode: how tokens follow each other: ``generate`` of transformers, a loop over a ``static`` cache, a step
            ``captured`` once (CUDA graph, or FX graph on a CPU), or ``compiled`` by Inductor and captured.
        linear_kernels: ``library`` leaves every Linear as its library (PyTorch, bitsandbytes, torchao) made it.
        int8_kernel: what multiplies INT8 weights on a CPU.
        dense_kernel: what multiplies dense weights.
        capture_after_tokens: tokens to decode before the step is captured.

    Raises:
        ValueError: a value that a setting does not have.
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
        """The defaults with what ``$VLMCOMP_RUNTIME`` sets.

        Raises:
            ValueError: the variable is no list of ``name=value`` pairs, or sets what does not exist.
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
