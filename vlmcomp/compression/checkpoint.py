"""A built VLM <-> a directory: the stock Hugging Face layout, and recipe.json beside it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    MistralConfig,
    PreTrainedModel,
)

from vlmcomp import __version__
from vlmcomp.compression.pruning import heads
from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.compression.quantization.bitsandbytes import is_cpu_repacked, silence_bitsandbytes
from vlmcomp.compression.quantization.quantize import require_backend
from vlmcomp.compression.visual_tokens import pruner as token_pruner
from vlmcomp.hardware import default_device
from vlmcomp.models import processor, registry
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.results.schema import Pruned

_FILE = "recipe.json"


def is_checkpoint(folder: Path) -> bool:
    return (Path(folder) / _FILE).is_file()


def beyond_stock(model: PreTrainedModel) -> str:
    """Why ``load`` alone brings back what ``save`` writes, and stock ``from_pretrained`` does not; empty if it does."""
    if hasattr(model.config.get_text_config(), heads.KEPT):
        return "stock classes of this family hold no such number of heads"
    return "stock classes take these weights but see all image tokens" if token_pruner.of(model) else ""


def stock(model: PreTrainedModel) -> bool:
    """Whether stock ``from_pretrained`` takes what ``save`` writes and answers alike."""
    return not beyond_stock(model)


def save(vlm: VLM, folder: Path) -> None:
    """Write ``vlm`` to a new folder in the stock layout; all of it appears at once or not at all.

    Raises:
        ValueError: the folder holds something already, or this INT4 model has already answered on a CPU.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: give a new folder")
    if is_cpu_repacked(vlm.model):
        raise ValueError(
            "this INT4 model has already answered on a CPU, which repacks its weights beyond exact saving: "
            "build it again and save it before asking"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with _stock_config(vlm.model), _sixteen_bits(vlm.model):
            vlm.model.save_pretrained(half)
        _name_dtype(half / "config.json", "float16" if vlm.dtype == torch.float32 else vlm.dtype_computed)
        vlm.processor.save_pretrained(half)
        facts = {
            "recipe": str(vlm.recipe),
            "vlmcomp": __version__,
            "dtype_stored": vlm.dtype_stored,
            "backend": vlm.backend,
            "build_seconds": round(vlm.build_seconds, 2),
            "pruned": [asdict(p) for p in vlm.pruned],
        }
        (half / _FILE).write_text(json.dumps(facts, indent=2) + "\n")
        half.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _name_dtype(file: Path, dtype: str) -> None:
    """Loaders take the dtype that the config names; transformers names that of the first weight, which some families
    keep wider than the rest."""
    config = json.loads(file.read_text())
    config["dtype"] = dtype
    file.write_text(json.dumps(config, indent=2) + "\n")


@contextmanager
def _sixteen_bits(model: PreTrainedModel) -> Iterator[None]:
    """A model that computes in float32, stored in float16 for the time of saving; ``build`` rounded its weights."""
    wide = [p for p in model.parameters() if p.dtype == torch.float32 and model.dtype == torch.float32]
    kept = [p.data for p in wide]
    try:
        for p in wide:
            p.data = p.data.half()
        yield
    finally:
        for p, data in zip(wide, kept):
            p.data = data


@contextmanager
def _stock_config(model: PreTrainedModel) -> Iterator[None]:
    """A text config that stock loaders accept, for the time of saving.

    Llama's config refuses a number of heads that does not divide the hidden size, 24 of 32 for one. Mistral's is
    the same block with a head width of its own, and takes the weights as they are.
    """
    text = model.config.get_text_config()
    if text.model_type != "llama" or text.hidden_size % text.num_attention_heads == 0:
        yield
        return
    if text.attention_bias or text.mlp_bias:
        raise ValueError(f"no stock class holds a Llama decoder with biases and {text.num_attention_heads} heads")
    shared = {k: v for k, v in text.to_dict().items() if k in MistralConfig().to_dict() and k != "model_type"}
    model.config.text_config = MistralConfig(**shared | {"sliding_window": None})
    try:
        yield
    finally:
        model.config.text_config = text


def _class(folder: Path) -> Any:
    """The class that loads the checkpoint in ``folder``: the stock one, or one whose attention is as narrow."""
    config = AutoConfig.from_pretrained(folder)
    if not hasattr(config.get_text_config(), heads.KEPT):
        return AutoModelForImageTextToText
    kind = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]

    def make(self: PreTrainedModel, config: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, config, *args, **kwargs)
        heads.fit(self)

    return type(kind.__name__, (kind,), {"__init__": make, "__module__": kind.__module__})


def load(folder: Path, device: str | None = None) -> VLM:
    """Load what ``save`` wrote; its answers are those of the model that was saved.

    Raises:
        ValueError: not such a folder, one that is damaged, or one that needs a library that is not installed.
    """
    folder, device = Path(folder), device or default_device()
    if not is_checkpoint(folder):
        raise ValueError(f"{folder} is not a vlmcomp checkpoint: it has no {_FILE}")
    silence_bitsandbytes()
    try:
        facts = json.loads((folder / _FILE).read_text())
        recipe = Recipe.parse(facts["recipe"])
        require_backend(recipe.precision)
        entry = registry.find(recipe.model)
        dtype = compute_dtype(device, entry)
        pruned = [Pruned(**p) for p in facts["pruned"]]
        reader = processor.load(folder)
        model = _class(folder).from_pretrained(folder, dtype=dtype, device_map={"": device}).eval()
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"the checkpoint in {folder} is damaged: {str(error).splitlines()[0]}") from error
    compute_in(model, dtype)
    if recipe.unseen:
        token_pruner.attach(model, recipe.unseen)
    return VLM(
        model=model,
        processor=reader,
        recipe=recipe,
        spec=entry,
        dtype_stored=facts["dtype_stored"],
        dtype_computed=str(dtype).removeprefix("torch."),
        backend=facts["backend"],
        pruned=pruned,
        build_seconds=facts["build_seconds"],
    )


def compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Let the 16-bit weights of a loaded model be of ``dtype``. Stock loaders leave those beside quantized ones as they
    were saved, whatever dtype they are asked for."""
    for parameter in model.parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16) and not torchao_tensors.kind(parameter):
            parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        if hasattr(module, "compute_dtype"):  # bitsandbytes' Linear4bit
            module.compute_dtype = dtype
