"""Dense models: memory-mapped from their files and moved to the device layer by layer, never all at once."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin
from transformers.utils import logging as transformers_logging

from vlmcomp.feedback import Progress
from vlmcomp.models import architecture, download, processor
from vlmcomp.models.checkpoint_settings import check_token_ids, overrule_generation_config_, read_config
from vlmcomp.models.dtypes import check_range, compute_dtype
from vlmcomp.models.processor_trial import try_processor
from vlmcomp.models.registry import ModelSpec
from vlmcomp.models.weight_files import check_files, load_complete, reading, refuse_packed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DenseModel:
    """A model whose weights are still memory-mapped, in the dtype of their files, or on the meta device.

    ``revision`` is the commit on the Hub, None for local or random weights.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    revision: str | None


def load(spec: ModelSpec, source: str | None, progress: Progress) -> DenseModel:
    """Memory-map the dense weights of ``spec``.

    Args:
        spec: the model.
        source: folder or Hub id; None for the registry's own.
        progress: receives what is done and the fraction done.

    Raises:
        ValueError: the weights are not available, incomplete, damaged, quantized, or of another family.
    """
    folder, revision = download.download_weights(spec, source, progress)
    progress(f"loading {spec.title}", 0.0)
    if spec.bundled:
        transformers_logging.disable_progress_bar()  # loads in an instant
    origin = source or spec.name_or_path
    with reading(folder, f"the weights of {spec.name} in {origin} cannot be read"):
        check_files(folder)
        check_token_ids(folder)
        refuse_packed(folder)
        model: PreTrainedModel = load_complete(
            AutoModelForImageTextToText, folder, config=read_config(folder), dtype="auto"
        )
    architecture.get_architecture(model)
    with reading(folder, f"the processor of {spec.name} in {origin} cannot be read"):
        loaded_processor = processor.load(folder, model.config, spec.min_max_pixels)
        processor.match_tokens_(loaded_processor, model.config)
        try_processor(loaded_processor, model.config, spec.prompt.replace("{question}", ""))
    with reading(folder, f"the weights of {spec.name} in {origin} cannot be used"):
        overrule_generation_config_(model, loaded_processor.tokenizer)
    return DenseModel(model.eval(), loaded_processor, revision)


class SequentialLoader:
    """Moves memory-mapped weights to a device part by part, in the compute dtype; meta weights are drawn randomly.

    Where the compute dtype is not bfloat16, weights are rounded to float16, in which they are stored. Buffers keep
    their dtype, and so do the modules that transformers keeps in float32 when the rest is in 16 bits.

    Args:
        model: memory-mapped or on the meta device.
        device: where the weights go.
        spec: the model, for its compute dtype.
        float16_decoder: the decoder is quantized from float16 in any compute dtype, as bitsandbytes' INT8 is.

    ``load_non_decoder`` and ``load_layer`` raise ``ValueError`` for a weight that is not finite in its storage dtype.
    """

    def __init__(
        self, model: PreTrainedModel, device: str, spec: ModelSpec | None = None, float16_decoder: bool = False
    ) -> None:
        self.model = model
        self._float16_decoder = float16_decoder
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.device = torch.device(device)
        self.dtype = compute_dtype(device, spec)
        if spec is not None and spec.needs_bfloat16 and self.dtype == torch.float16:
            _log.warning("%s was trained in bfloat16, which this GPU lacks: in float16 answers may break", spec.title)
        self._float32_ids = {id(parameter) for parameter in self._float32_parameters()}
        self._loaded_ids: set[int] = set()
        self._generator: torch.Generator | None = None  # made when needed: ZeroGPU's main process has none for CUDA

    def _float32_parameters(self) -> list[nn.Parameter]:
        """The parameters that transformers keeps in float32 under this compute dtype."""
        modules: set[str] = set()
        if self.dtype != torch.float32:
            modules |= set(self.model._keep_in_fp32_modules_strict or ())
        if self.dtype == torch.float16:
            modules |= set(self.model._keep_in_fp32_modules or ())
        named = self.model.named_parameters()
        return [parameter for name, parameter in named if any(f".{m}." in f".{name}." for m in modules)]

    @torch.no_grad()
    def load_non_decoder(self) -> None:
        """Load everything outside the decoder layers."""
        decoder_prefix = f"{architecture.get_architecture(self.model).layers}."
        for name, module in self.model.named_modules():
            if not name.startswith(decoder_prefix):
                self._load_module(module)
        if any(parameter.is_meta for parameter in self.model.parameters()):
            self.model.tie_weights()

    @torch.no_grad()
    def load_layer(self, layer: architecture.DecoderLayer) -> None:
        """Load one decoder layer."""
        for module in layer.block.modules():
            self._load_module(module, torch.float16 if self._float16_decoder else None)

    def _load_module(self, module: nn.Module, storage_dtype: torch.dtype | None = None) -> None:
        """Load the parameters and buffers of ``module`` itself, without its children."""
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in self._loaded_ids:  # tied weights are loaded once
                self._load_parameter(module, name, parameter, storage_dtype or self._storage_dtype)
        for name, buffer in module.named_buffers(recurse=False):
            constant = getattr(module, f"scalar_{name}", None)
            if constant is not None:  # the files' dtype has rounded the buffer
                buffer = torch.tensor(constant, dtype=self.dtype)
            setattr(module, name, buffer.to(self.device))

    @property
    def _storage_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float16

    def _load_parameter(
        self, module: nn.Module, name: str, parameter: nn.Parameter, storage_dtype: torch.dtype
    ) -> None:
        dtype = torch.float32 if id(parameter) in self._float32_ids else self.dtype
        if parameter.is_meta:
            parameter = nn.Parameter(self._random_weight(name, parameter), requires_grad=False)
            setattr(module, name, parameter)
        else:
            check_range(self._names[id(parameter)], parameter, storage_dtype)
        self._loaded_ids.add(id(parameter))
        data = parameter.data.to(self.device)
        if self.dtype != torch.bfloat16:
            data = data.half()
        parameter.data = data.to(dtype, copy=data.data_ptr() == parameter.data_ptr())

    def _random_weight(self, name: str, parameter: nn.Parameter) -> torch.Tensor:
        """Matrices from a normal distribution as families initialize them, norms of one, biases of zero."""
        self._generator = self._generator or torch.Generator(self.device).manual_seed(0)
        empty = torch.empty(parameter.shape, device=self.device)  # drawing float16 is slow on a CPU
        if parameter.ndim == 1:
            return empty.fill_(float("bias" not in name))
        return empty.normal_(0, 0.02, generator=self._generator)
