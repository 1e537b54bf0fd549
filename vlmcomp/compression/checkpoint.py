"""Saves and loads a VLM in the layout of transformers, with recipe.json beside its files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from vlmcomp import files
from vlmcomp.compression import model_card
from vlmcomp.compression.pruning import heads
from vlmcomp.compression.quantization import pack_quantized, stored_tensors
from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.compression.quantization.bitsandbytes import is_cpu_repacked, silence_bitsandbytes
from vlmcomp.compression.quantization.quantize import require_backend, set_quantization_config
from vlmcomp.compression.visual_tokens import pruner as token_pruner
from vlmcomp.hardware import usable_device
from vlmcomp.models import processor, registry, weight_files
from vlmcomp.models.checkpoint_settings import check_token_ids, overrule_generation_config_, read_config
from vlmcomp.models.dtypes import check_range, compute_dtype
from vlmcomp.models.processor_trial import try_processor
from vlmcomp.models.source_check import ADAPTER_FILE, RECIPE_FILE, config_problem
from vlmcomp.models.vlm import VLM
from vlmcomp.models.weight_files import UnusableWeights, check_files, load_complete, read_object, reading
from vlmcomp.recipe import Recipe
from vlmcomp.results.provenance import __version__
from vlmcomp.results.schema import PruningResult

FILE = RECIPE_FILE  # beside the files of transformers
_CONFIG_KEY = "vlmcomp_recipe"  # in config.json: the recipe of these weights, whatever recipe.json lies beside them


def is_checkpoint(folder: Path) -> bool:
    return (Path(folder) / FILE).is_file()


def custom_loading_reason(model: PreTrainedModel) -> str:
    """Why transformers' ``from_pretrained`` alone does not restore what ``save`` writes; empty if it does."""
    if hasattr(model.config.get_text_config(), heads.HEADS_CONFIG_KEY):
        return "transformers' class of this family has no configuration for this number of heads"
    if token_pruner.get_token_pruner(model):
        return "transformers loads these weights but keeps all image tokens"
    return ""


def loads_with_transformers(model: PreTrainedModel) -> bool:
    """Whether transformers' ``from_pretrained`` restores what ``save`` writes, with the same outputs."""
    return not custom_loading_reason(model)


def save(vlm: VLM, folder: Path) -> None:
    """Write ``vlm`` to a new folder in the layout of transformers, atomically.

    Raises:
        ValueError: the folder is not empty, or this INT4 model has already run on a CPU.
        OSError: the folder cannot be written, or the disk is full.
    """
    if is_cpu_repacked(vlm.model):
        raise ValueError(
            "this INT4 model has already answered on a CPU, which repacks its weights beyond exact saving: "
            "build it again and save it before generating"
        )
    with files.new_folder(Path(folder)) as partial:
        with _transformers_config(vlm.model), _float16_weights(vlm.model):
            vlm.model.save_pretrained(partial)
        dtype = "float16" if vlm.dtype == torch.float32 else vlm.compute_dtype
        _edit_config(partial / "config.json", {"dtype": dtype, _CONFIG_KEY: str(vlm.recipe)})
        vlm.processor.save_pretrained(partial)
        (partial / FILE).write_text(json.dumps(_metadata(vlm), indent=2) + "\n")
        card = model_card.render(vlm, custom_loading_reason(vlm.model))
        (partial / model_card.FILE).write_text(card, encoding="utf-8")


def _metadata(vlm: VLM) -> dict[str, Any]:
    """Content of recipe.json; its keys are a file format."""
    origin = {"source": vlm.source, "revision": vlm.revision}
    own_prompt = vlm.spec.prompt != registry.get_model_spec(vlm.spec.name).prompt
    return {
        "recipe": str(vlm.recipe),
        "vlmcomp": __version__,
        "dtype_stored": vlm.storage_dtype,
        "backend": vlm.quantization_backend,
        "build_seconds": round(vlm.build_seconds, 2),
        "pruned": [asdict(result) for result in vlm.pruned],
        **{name: value for name, value in origin.items() if value is not None},
    } | ({"prompt_template": vlm.spec.prompt} if own_prompt else {})


def _edit_config(file: Path, settings: dict[str, str]) -> None:
    """Write ``settings`` to a config.json: the recipe, and the dtype that loaders use, where transformers writes that
    of the first weight, which some families store in a wider dtype than the rest."""
    file.write_text(json.dumps(json.loads(file.read_text()) | settings, indent=2) + "\n")


@contextmanager
def _float16_weights(model: PreTrainedModel) -> Iterator[None]:
    """The weights of a model that computes in float32 are float16 inside the context; ``compress`` has rounded them."""
    wide = [p for p in model.parameters() if p.dtype == torch.float32 and model.dtype == torch.float32]
    originals = [p.data for p in wide]
    try:
        for parameter in wide:
            parameter.data = parameter.data.half()
        yield
    finally:
        for parameter, data in zip(wide, originals):
            parameter.data = data


@contextmanager
def _transformers_config(model: PreTrainedModel) -> Iterator[None]:
    """The model has a text config that transformers can load inside the context.

    Llama's config refuses a number of heads that does not divide the hidden size, 24 of 32 for one. Mistral's is
    the same block with an explicit head width, and loads the weights as they are.
    """
    text_config = model.config.get_text_config()
    if text_config.model_type != "llama" or text_config.hidden_size % text_config.num_attention_heads == 0:
        yield
        return
    if text_config.attention_bias or text_config.mlp_bias:
        raise ValueError(
            f"transformers has no class for a Llama decoder with biases and {text_config.num_attention_heads} heads"
        )
    known = MistralConfig().to_dict().keys() - {"model_type"}
    shared = {name: value for name, value in text_config.to_dict().items() if name in known}
    model.config.text_config = MistralConfig(**shared | {"sliding_window": None})
    try:
        yield
    finally:
        model.config.text_config = text_config


def _model_class(config: PreTrainedConfig, packed: pack_quantized.PackQuantizedConfig | None = None) -> Any:
    """The class of a checkpoint with ``config``: transformers' own, or a subclass with narrowed attention or with the
    tensors of ``packed`` weights."""
    original: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    has_narrow_attention = hasattr(config.get_text_config(), heads.HEADS_CONFIG_KEY)
    if not has_narrow_attention and packed is None:
        return original

    def init(self: PreTrainedModel, config: Any, *args: Any, **kwargs: Any) -> None:
        original.__init__(self, config, *args, **kwargs)
        if has_narrow_attention:
            heads.narrow_meta_attention(self)
        if packed is not None:
            pack_quantized.expect_stored_(self, packed)

    return type(original.__name__, (original,), {"__init__": init, "__module__": original.__module__})


def load(folder: Path, device: str | None = None) -> VLM:
    """Load what ``save`` wrote; it gives the outputs of the saved model.

    Args:
        folder: a checkpoint.
        device: a GPU if there is one, by default.

    Raises:
        ValueError: not a checkpoint, an incomplete or damaged one, or one that needs a library that is not installed.
    """
    folder = Path(folder)
    device = usable_device(device)
    if not is_checkpoint(folder):
        raise ValueError(f"{folder} is not a vlmcomp checkpoint: it has no {FILE}")
    silence_bitsandbytes()
    problem = f"the checkpoint in {folder} is damaged"
    with reading(folder, problem):
        metadata = _read_metadata(folder)
    recipe = metadata["recipe"]
    require_backend(recipe.precision)
    prompt_template = metadata.pop("prompt_template")
    spec = registry.with_prompt_template(registry.get_model_spec(recipe.model), prompt_template)
    dtype = compute_dtype(device, spec)
    with reading(folder, problem):
        check_files(folder)
        check_token_ids(folder)
        model = _load_model(folder, recipe, spec.family, dtype, device)
        loaded_processor = processor.load(folder, model.config)
        overrule_generation_config_(model, loaded_processor.tokenizer)
        try_processor(loaded_processor, model.config, spec.prompt.replace("{question}", ""))
    cast_weights_(model, dtype)
    if dtype == torch.float16:  # of weights that were stored in bfloat16 elsewhere
        for name, parameter in model.named_parameters():
            if parameter.dtype == torch.float16 and not torchao_tensors.tensor_class(parameter):
                check_range(name, parameter, dtype)
    if recipe.visual_tokens_pruned:
        token_pruner.attach_(model, recipe.visual_tokens_pruned)
    return VLM(
        model=model,
        processor=loaded_processor,
        spec=spec,
        compute_dtype=str(dtype).removeprefix("torch."),
        **metadata,
    )


def _load_model(folder: Path, recipe: Recipe, family: str, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """The model in ``folder``, all of whose tensors are there."""
    if (folder / ADAPTER_FILE).exists():  # transformers would apply it
        raise UnusableWeights(f"{ADAPTER_FILE} belongs to no checkpoint of vlmcomp: move it elsewhere")
    if problem := config_problem(read_object(folder / "config.json")):
        raise UnusableWeights(problem)
    config = read_config(folder)
    precision = recipe.precision
    if config.model_type != family:
        raise UnusableWeights(f"{FILE} is of a {family} model, and config.json of a {config.model_type} model")
    if (built := getattr(config, _CONFIG_KEY, str(recipe))) != str(recipe):  # missing in checkpoints of older versions
        raise UnusableWeights(f"{FILE} says {recipe}, and config.json {built}: copy or build it again")
    if (precision == "fp16") != (getattr(config, "quantization_config", None) is None):
        raise UnusableWeights(f"{FILE} says {precision}, and config.json describes other weights")
    if precision in pack_quantized.PRECISIONS:
        return _load_packed(folder, config, precision, dtype, device)
    model_class = _model_class(config)
    if precision == "fp16":
        weight_files.refuse_packed(folder)
    elif stored := weight_files.stored_tensors(folder):
        with torch.device("meta"):
            skeleton = model_class._from_config(config)
        stored_tensors.check(stored, skeleton, precision)
    return load_complete(model_class, folder, config=config, dtype=dtype, device_map={"": device}).eval()


def _load_packed(
    folder: Path, config: PreTrainedConfig, precision: str, dtype: torch.dtype, device: str
) -> PreTrainedModel:
    """The model of a ``pack-quantized`` checkpoint, which transformers would make dense at its first forward pass."""
    packed = pack_quantized.PackQuantizedConfig.read(config.quantization_config)
    if packed.precision != precision:
        raise UnusableWeights(f"{FILE} says {precision}, and config.json describes {packed.precision}")
    del config.quantization_config
    model_class = _model_class(config, packed)
    model = load_complete(model_class, folder, config=config, dtype=dtype, device_map={"": device}).eval()
    pack_quantized.unpack_stored_(model)
    set_quantization_config(model, precision, dtype)
    return model


def _read_metadata(folder: Path) -> dict[str, Any]:
    """The fields of a ``VLM`` that ``_metadata`` has written, and the prompt template, None for the registry's."""
    data = json.loads((folder / FILE).read_text(encoding="utf-8"))
    try:
        prompt_template = data.get("prompt_template")
        if not isinstance(data["recipe"], str):
            raise TypeError("recipe")
        recipe = Recipe.parse(data["recipe"])
        if [result["step"] for result in data["pruned"]] != [str(step) for step in recipe.steps]:
            raise UnusableWeights(f"{FILE} says {recipe}, and lists other steps as pruned: copy or build it again")
        return {
            "prompt_template": None if prompt_template is None else str(prompt_template),
            "recipe": recipe,
            "storage_dtype": data["dtype_stored"],
            "quantization_backend": data["backend"],
            "build_seconds": data["build_seconds"],
            "pruned": [PruningResult(**result) for result in data["pruned"]],
            "source": data.get("source"),
            "revision": data.get("revision"),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UnusableWeights(f"{FILE} lacks what was written there ({error}): copy or build it again") from None


def cast_weights_(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the 16-bit weights of a loaded model to ``dtype``: transformers leaves those beside quantized ones in the
    dtype of the checkpoint, whatever dtype is requested."""
    for parameter in model.parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16) and not torchao_tensors.tensor_class(parameter):
            parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        if hasattr(module, "compute_dtype"):  # bitsandbytes' Linear4bit
            setattr(module, "compute_dtype", dtype)  # noqa: B010 - modules are typed as tensors
