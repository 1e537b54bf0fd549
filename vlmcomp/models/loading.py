"""The dense model, mapped from its files and brought to the device part by part, so that it is never there whole."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin
from transformers.utils import logging as transformers_logging

from vlmcomp.feedback import Progress, first_line
from vlmcomp.models import architecture, download, processor
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.models.registry import ModelSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dense:
    """A model whose weights still lie in their files, in the dtype they were saved in; ``revision`` on the Hub."""

    model: PreTrainedModel
    processor: ProcessorMixin
    revision: str | None


def load(entry: ModelSpec, source: str | None, say: Progress) -> Dense:
    """Map the dense weights of ``entry`` from ``source`` (folder or Hub id) or the zoo's own place.

    Raises:
        ValueError: they cannot be had, are damaged, or belong to another family.
    """
    folder, revision = download.fetch(entry, source, say)
    say(f"loading {entry.title}", 0.0)
    if entry.embedded:
        transformers_logging.disable_progress_bar()  # loads in no time
    place = source or entry.location
    try:
        reader = processor.load(folder, entry.pixels)
        model, found = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", output_loading_info=True)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # each kind of damage raises another one
        raise ValueError(f"the weights of {entry.name} in {place} cannot be read: {first_line(error)}") from error
    if absent := sorted(found["missing_keys"]):
        raise ValueError(f"the weights of {entry.name} in {place} are not whole: {absent[0]} is missing")
    architecture.of(model)
    return Dense(model.eval(), reader, revision)


class Arrival:
    """Brings parts of a mapped model to ``device``, in what is computed in there; weights that lie nowhere are drawn.

    Where 32 bits are computed in, weights are rounded to values that float16 holds, in which they are stored. Buffers
    keep their dtype, and so do the parts that a family's class keeps in float32 when the rest is in 16 bits.
    """

    def __init__(self, model: PreTrainedModel, device: str, entry: ModelSpec | None = None) -> None:
        self.model, self.device, self.dtype = model, torch.device(device), compute_dtype(device, entry)
        if entry is not None and entry.bfloat16 and self.dtype == torch.float16:
            _log.warning("%s was trained in bfloat16, which this GPU lacks: in float16 answers may break", entry.title)
        kept = set(model._keep_in_fp32_modules_strict or ()) if self.dtype != torch.float32 else set()
        if self.dtype == torch.float16:
            kept |= set(model._keep_in_fp32_modules or ())
        wide = (p for n, p in model.named_parameters() if any(f".{k}." in f".{n}." for k in kept))
        self._wide, self._here = {id(p) for p in wide}, set()
        self._chance: torch.Generator | None = None  # made when needed: ZeroGPU's main process has none for CUDA

    @torch.no_grad()
    def rest(self) -> None:
        """Everything outside the decoder's layers."""
        inside = f"{architecture.of(self.model).layers}."
        for name, module in self.model.named_modules():
            if not name.startswith(inside):
                self._bring(module)
        if any(p.is_meta for p in self.model.parameters()):
            self.model.tie_weights()

    @torch.no_grad()
    def layer(self, layer: architecture.Layer) -> None:
        for module in layer.block.modules():
            self._bring(module)

    def _bring(self, module: nn.Module) -> None:
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in self._here:  # tied weights come once
                dtype = torch.float32 if id(parameter) in self._wide else self.dtype
                if parameter.is_meta:
                    parameter = nn.Parameter(self._drawn(name, parameter), requires_grad=False)
                    setattr(module, name, parameter)
                self._here.add(id(parameter))
                there = parameter.data.to(self.device)
                if self.dtype != torch.bfloat16:
                    there = there.half()
                parameter.data = there.to(dtype, copy=there.data_ptr() == parameter.data_ptr())
        for name, buffer in module.named_buffers(recurse=False):
            exact = getattr(module, f"scalar_{name}", None)
            if exact is not None:  # a constant, which the files' dtype has rounded
                buffer = torch.tensor(exact, dtype=self.dtype)
            setattr(module, name, buffer.to(self.device))

    def _drawn(self, name: str, parameter: nn.Parameter) -> torch.Tensor:
        """Matrices from a normal distribution as families are initialized, norms of one, biases of zero."""
        self._chance = self._chance or torch.Generator(self.device).manual_seed(0)
        empty = torch.empty(parameter.shape, device=self.device)  # float16 is drawn slowly on a CPU
        if parameter.ndim == 1:
            return empty.fill_(float("bias" not in name))
        return empty.normal_(0, 0.02, generator=self._chance)
