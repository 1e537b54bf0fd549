"""The loaded thing: a model, its processor, and the recipe that made it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin

from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.compression.visual_tokens import pruner as token_pruner
from vlmcomp.models.registry import Model
from vlmcomp.recipe import Recipe
from vlmcomp.results.schema import Pruned

T = TypeVar("T")
# Held by whoever answers on a GPU, captures a graph there, waits for it or gives its memory back: a capture fails when
# another thread waits for the device meanwhile, and PyTorch makes one at a time.
GPU = threading.RLock()


@dataclass
class VLM:
    """A built recipe, ready to be asked."""

    model: PreTrainedModel
    processor: ProcessorMixin
    recipe: Recipe
    entry: Model
    dtype_stored: str
    dtype_computed: str
    backend: str
    pruned: list[Pruned] = field(default_factory=list)
    build_seconds: float = 0.0
    revision: str | None = None  # of the dense weights on the Hub
    settled: bool = False  # whether ``kernels.settle`` has chosen what multiplies
    kernel: str = ""  # what it chose, where there was a choice
    decoder: Any = None  # a ``decode.Decoder``, from the first question on

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in; some families keep single parts of the model wider."""
        return getattr(torch, self.dtype_computed)

    def synchronize(self) -> None:
        """Wait until the model's device has done what it was told."""
        synchronize(self.device)

    def encode(
        self, images: list[Image.Image], questions: list[str], answers: list[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """What the model is given for a batch, on its device: prompts padded on the left, or, with ``answers``, whole
        sequences padded on the right. Special tokens written in a question are taken out of it."""
        tokens = self.processor.tokenizer.all_special_tokens
        prompts = [self.entry.prompt.format(question=_without(q, tokens)) for q in questions]
        settings = {"return_tensors": "pt", "padding": len(prompts) > 1}
        if answers is not None:
            settings |= {"padding": True, "padding_side": "right"}
            if self.entry.suffix:
                settings["suffix"] = list(answers)
            else:
                prompts = [f"{p}{self.entry.joint}{a}" for p, a in zip(prompts, answers)]
        inputs = self.processor(images=images, text=prompts, **settings)
        inputs.pop("labels", None)
        if (seeing := token_pruner.of(self.model)) is not None:
            seeing.cut(inputs, self.processor.tokenizer.pad_token_id, left=answers is None)
        return inputs.to(self.device, self.dtype)


def _without(text: str, tokens: list[str]) -> str:
    for token in tokens:
        text = text.replace(token, " ")
    return text


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def synchronize(device: str | torch.device) -> None:
    """Wait until ``device`` has done what it was told; a CPU always has."""
    if torch.device(device).type == "cuda":
        with GPU:
            torch.cuda.synchronize(device)


@contextmanager
def current(device: torch.device) -> Iterator[None]:
    """Work meanwhile on ``device`` alone in this thread: kernels that are not PyTorch's, streams and graphs go to a
    thread's current GPU, which is the first one until told otherwise. On a CPU nothing is to be done."""
    if device.type != "cuda":
        yield
        return
    with GPU, torch.cuda.device(device):
        yield


def graphed(work: Callable[[], T]) -> tuple[Callable[[], None], T]:
    """What repeats ``work`` on a GPU without the host, and where its result then lies: a CUDA graph.

    Raises:
        RuntimeError: the work waits for the host, or asks what the GPU has computed.
    """
    side, before = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(before)
    with GPU:
        with torch.cuda.stream(side):
            for _ in range(2):  # libraries choose their kernels and take their workspaces
                work()
        before.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other models may be built meanwhile
                result = work()
        finally:
            torch.cuda.set_stream(before)  # a capture that fails leaves its own behind
    return graph.replay, result


def first_line(error: Exception) -> str:
    """What a library's error begins with, or its kind where it says nothing."""
    return str(error).strip().partition("\n")[0].strip() or type(error).__name__


def waits_for_host(module: nn.Module) -> bool:
    """Whether a graph cannot hold ``module``: on a GPU bitsandbytes' own LLM.int8() asks for outliers."""
    return any(type(part).__name__ == "Linear8bitLt" for part in module.modules())


def compute_dtype(device: str | torch.device, entry: Model | None = None) -> torch.dtype:
    """On a GPU float16, for a model that needs its range bfloat16 where the GPU has that (from Ampere on); on a CPU
    bfloat16 where it has instructions for it, else float32.

    Emulated 16-bit arithmetic is tens of times slower than float32 (measured on a CPU with AVX2 alone: 45 times).
    """
    if torch.device(device).type == "cuda":
        ranged = entry is not None and entry.bfloat16 and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if ranged else torch.float16
    return torch.bfloat16 if native_bfloat16() else torch.float32


def native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices itself (AVX512-BF16 or AMX)."""
    return cpu_has("avx512_bf16", "amx_tile")


def cpu_has(*features: str) -> bool:
    """Whether this CPU has one of ``features``, as ``torch.cpu`` calls them."""
    tests = (getattr(torch.cpu, f"_is_{feature}_supported", None) for feature in features)
    return any(test is not None and test() for test in tests)


def compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Let the 16-bit weights of a loaded model be of ``dtype``. Stock loaders leave those beside quantized ones as they
    were saved, whatever dtype they are asked for."""
    for parameter in model.parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16) and not torchao_tensors.kind(parameter):
            parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        if hasattr(module, "compute_dtype"):  # bitsandbytes' Linear4bit
            module.compute_dtype = dtype


@torch.no_grad()
def round_to_float16(module: nn.Module) -> None:
    """Round float32 weights in place to values that float16 holds: what is computed in 32 bits is stored in 16."""
    for parameter in module.parameters():
        if parameter.dtype == torch.float32:
            parameter.data = parameter.data.half().float()
