"""What can be used as dense weights of a model, judged by config.json before weights are downloaded or read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vlmcomp.feedback import error_summary
from vlmcomp.models.architecture import ARCHITECTURES, unsupported_decoder_reason, unsupported_reason
from vlmcomp.models.file_damage import file_damage
from vlmcomp.models.registry import MODELS, ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECIPE_FILE = "recipe.json"  # of our own checkpoints (``compression.checkpoint``)
ADAPTER_FILE = "adapter_config.json"  # of PEFT
_WEIGHTS = (".safetensors", ".bin")
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "non_lora_trainables.bin", "mm_projector.bin")
_TRAINER_FOLDER = re.compile(r"(checkpoint-\d+)(/|$)")  # of transformers' Trainer
# Keys and files in which libraries describe how they have quantized: transformers and llm-compressor, MLX; AutoGPTQ,
# AutoAWQ, ModelOpt and optimum-quanto.
_QUANTIZATION_KEYS = ("quantization_config", "compression_config", "quant_config", "quantization")
_QUANTIZATION_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json", "quanto_qmap.json")


def check_source(spec: ModelSpec, name: str, files: Collection[str], get_file: Callable[[str], Path]) -> None:
    """Check that a folder or repository has dense weights of the family of ``spec``.

    Args:
        spec: the model.
        name: the folder or repository, for messages.
        files: names of the files in it.
        get_file: the path of one of them, downloaded if necessary.

    Raises:
        ValueError: one sentence on what is there instead, and what to do.
    """
    _check_no_adapter(files, name)
    if any(file.endswith(".gguf") for file in files) and not any(file.endswith(_WEIGHTS) for file in files):
        _refuse_quantized("GGUF", spec, name)
    if "config.json" not in files:
        raise ValueError(f"{name} has no config.json that names a model: it is not a folder of weights{_hint(files)}")
    config_file = get_file("config.json")
    config = _read(config_file, name)
    if not isinstance(config.get("model_type"), str):
        raise ValueError(f"{name} has no config.json that names a model: it is not a folder of weights")
    _check_family(config["model_type"], spec, name)
    if RECIPE_FILE in files:
        _check_recipe(_read(get_file(RECIPE_FILE), name), name)
    if problem := config_problem(config):
        raise ValueError(f"{name} cannot be used: {problem}")
    _check_not_quantized(config, files, spec, name)
    _check_architecture(config_file, config, spec, name)


def config_problem(config: Mapping[str, Any]) -> str:
    """What is wrong with the dtype in a config.json, or with its description of a quantization; empty if nothing is."""
    for key, value in config.items():
        if key in ("dtype", "torch_dtype") and value is not None and value not in _DTYPES:
            return f"config.json says the dtype {value!r}: write that of the weights, one of {', '.join(_DTYPES)}"
        if key in _QUANTIZATION_KEYS:
            if value is not None and not isinstance(value, dict):
                return f"config.json has {value!r} as {key}, which must be an object: remove it from original weights"
        elif isinstance(value, dict) and (problem := config_problem(value)):
            return problem
    return ""


def _check_no_adapter(files: Collection[str], name: str) -> None:
    found = ADAPTER_FILE if ADAPTER_FILE in files else next((file for file in _ADAPTER_WEIGHTS if file in files), "")
    in_folders = sorted(file for file in files if file.rpartition("/")[2] == ADAPTER_FILE)
    if found := found or next(filter(_TRAINER_FOLDER.match, in_folders), ""):
        raise ValueError(
            f"{name} has an adapter ({found}), which is not applied: merge it into its base model with PEFT's "
            "merge_and_unload and give the folder of the result"
        )


def _hint(files: Collection[str]) -> str:
    """What to do with the output folder of a trainer, which has weights in its subfolders; empty for others."""
    folders = sorted({match[1] for match in map(_TRAINER_FOLDER.match, files) if match})
    return f", but a trainer's output: give one of its subfolders, such as {folders[-1]}" if folders else ""


def _read(file: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of the source ``name``; empty if it holds something else.

    Raises:
        ValueError: the file is damaged.
    """
    if damage := file_damage(file):
        raise ValueError(f"{name} cannot be used: {file.name} {damage}")
    data = json.loads(file.read_text(encoding="utf-8"))
    return data if isinstance(data, dict) else {}


def _check_family(family: str, spec: ModelSpec, name: str) -> None:
    if family == spec.family:
        return
    others = [m.name for m in MODELS.values() if m.family == family and not m.bundled]
    hint = f"choose {' or '.join(others)}" if others else f"it must be of the family '{spec.family}'"
    raise ValueError(f"{name} has a model of the family '{family}', which is not {spec.name}'s: {hint}")


def _check_recipe(recipe_file: dict[str, Any], name: str) -> None:
    recipe = recipe_file.get("recipe")
    if isinstance(recipe, str) and not recipe.endswith("/fp16"):
        raise ValueError(
            f"{name} is {recipe}, which is compressed already: ask or load it as it is, or give the original weights"
        )


def _check_not_quantized(config: dict[str, Any], files: Collection[str], spec: ModelSpec, name: str) -> None:
    described_in = [file for file in _QUANTIZATION_FILES if file in files]
    found = next(_quantization_settings(config), None)
    if found is None and not described_in:
        return
    _refuse_quantized(_quantization_method(found) if found else described_in[0], spec, name)


def _refuse_quantized(method: str, spec: ModelSpec, name: str) -> NoReturn:
    such_as = "" if spec.bundled else f", such as {spec.source}"
    raise ValueError(
        f"{name} is quantized already ({method}), and only original weights can be compressed: give the repository "
        f"that it was made from{such_as}"
    )


def _quantization_settings(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every description of a quantization in a config, nested ones included."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            if key in _QUANTIZATION_KEYS:
                yield value
            yield from _quantization_settings(value)


def _quantization_method(settings: dict[str, Any]) -> str:
    if settings.get("load_in_8bit") or settings.get("load_in_4bit"):
        return "bitsandbytes"
    method = settings.get("quant_method") or settings.get("quant_algo") or settings.get("format")
    return str(method or f"{settings.get('bits') or settings.get('w_bit') or 'some'} bits")


def _check_architecture(file: Path, config: dict[str, Any], spec: ModelSpec, name: str) -> None:
    """Raises ``ValueError`` if compression does not know the decoder or the modules of the model."""
    text_config = config.get("text_config")
    decoder = text_config.get("model_type") if isinstance(text_config, dict) else None
    reason = unsupported_decoder_reason(decoder, ARCHITECTURES[spec.family]) if decoder else ""
    if reason := reason or unsupported_reason(_meta_model(file, name)):
        raise ValueError(f"{name} cannot be compressed as {spec.name}: {reason}")


def _meta_model(file: Path, name: str) -> PreTrainedModel:
    """The model that a config.json describes, without weights."""
    import torch
    from transformers import AutoModelForImageTextToText

    from vlmcomp.models.checkpoint_settings import read_config  # imports transformers, which wrong arguments need not

    try:
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(read_config(file.parent))
    except ImportError:
        raise
    except Exception as error:  # each class validates its settings in its own way
        raise ValueError(
            f"{name} has a config.json from which transformers builds no model: {error_summary(error)}"
        ) from error
