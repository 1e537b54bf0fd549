"""Weights are read from a folder completely, or refused in one sentence that names the file or the tensors."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from vlmcomp.feedback import error_summary, format_count, is_out_of_memory
from vlmcomp.models.file_damage import AGAIN, file_damage

_NUM_NAMED = 3  # tensors that a sentence names
_SHARD = re.compile(r"[^/\\]+\.(safetensors|bin)")  # a name that an index may list
_SETTINGS = (  # files of transformers; it ignores some of them when they are damaged
    *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "tokenizer.model", "chat_template.json", "chat_template.jinja"),
)
_AS_TENSORS = "save the model's state_dict alone, or use its safetensors files"
_OF_ANOTHER = "use the config.json that belongs to these weights"
# In files of older versions: buffers that are computed now, and SigLIP's pooling head, which no model here has.
_UNUSED_TENSORS = re.compile(r"(^|\.)(position_ids|inv_freq)$|(^|\.)vision_(tower|model)\.(vision_model\.)?head\.")
_DENSE = ("F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16")  # in safetensors and in PyTorch


class StoredTensor(NamedTuple):
    """A tensor in a file: its dtype as the format names it, such as ``I8`` or ``int8``, and its shape."""

    dtype: str
    shape: tuple[int, ...]


class UnusableWeights(ValueError):
    """Says what is wrong with the weights in a folder, without naming the folder."""


@contextmanager
def reading(folder: Path, problem: str) -> Iterator[None]:
    """Errors of the libraries that read ``folder`` become a ``ValueError`` of one sentence.

    Args:
        folder: is searched for the damaged file, which few libraries name.
        problem: the sentence's beginning, such as ``the checkpoint in small is damaged``.
    """
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # each library and each kind of damage raises another type
        if is_out_of_memory(error):
            raise
        reason = "" if isinstance(error, UnusableWeights) else damaged_file(folder)
        raise ValueError(f"{problem}: {reason or error_summary(error)}") from error


def load_complete(model_class: Any, folder: Path, **settings: Any) -> Any:
    """``model_class.from_pretrained(folder)``, if every tensor of the model is in the files and no other.

    transformers draws missing tensors and those of another shape randomly and ignores superfluous ones.

    Args:
        model_class: of transformers.
        folder: in transformers' layout.
        settings: of ``from_pretrained``.

    Raises:
        UnusableWeights: tensors are missing, superfluous, or of another shape.
    """
    model, info = model_class.from_pretrained(
        folder, output_loading_info=True, ignore_mismatched_sizes=True, **settings
    )
    refuse_missing(info["missing_keys"])
    refuse_mismatched({name: (found, expected) for name, found, expected in info["mismatched_keys"]})
    if unexpected := [name for name in info["unexpected_keys"] if not _UNUSED_TENSORS.search(name)]:
        raise UnusableWeights(
            f"{_tensors_are(unexpected)} no part of the model that config.json describes: {_OF_ANOTHER}"
        )
    _keep_reversible_conversions_(model)
    return model


def _keep_reversible_conversions_(model: Any) -> None:
    """Drop transformers' conversions that have no inverse, which saving would ask for: those of quantizers only join
    tensors while they are read, and quantized Linears give their stored tensors themselves."""
    kept = []
    for conversion in getattr(model, "_weight_conversions", None) or []:
        with suppress(NotImplementedError):
            conversion.reverse_transform()
            kept.append(conversion)
    model._weight_conversions = kept


def refuse_missing(names: Collection[str]) -> None:
    """Raises ``UnusableWeights`` if there are tensors of these names."""
    if names:
        raise UnusableWeights(f"{_tensors_are(names)} missing: copy, download or build the weights again")


def refuse_mismatched(shapes: Mapping[str, tuple[Sequence[int], Sequence[int]]]) -> None:
    """Raises ``UnusableWeights`` if there are such tensors, given as name -> shape in the file and in the model."""
    if shapes:
        found, expected = (" x ".join(map(str, shape)) for shape in shapes[min(shapes)])
        raise UnusableWeights(
            f"{_tensors_are(shapes)} of another shape than in the model ({found} instead of {expected}): {_OF_ANOTHER}"
        )


def _tensors_are(names: Collection[str]) -> str:
    """The subject and verb of a sentence about tensors: the first names, and how many there are."""
    first = ", ".join(sorted(names)[:_NUM_NAMED])
    if len(names) <= _NUM_NAMED:
        return f"{first} {'is' if len(names) == 1 else 'are'}"
    return f"{format_count(len(names), 'tensor')} ({first}, ...) are"


def check_files(folder: Path) -> None:
    """Check the files of a model in ``folder`` without reading the weights.

    Raises:
        UnusableWeights: it has no weights, or one of its files is missing, damaged or a git-LFS pointer.
    """
    files, index = _weight_files(folder)
    if not files:
        raise UnusableWeights(f"it has no {SAFE_WEIGHTS_NAME} or {WEIGHTS_NAME}")
    if missing := [file.name for file in files if not file.is_file()]:
        raise UnusableWeights(f"{missing[0]}, which {index} lists, is missing: {AGAIN}")
    for file in (*files, *(folder / name for name in _SETTINGS if (folder / name).is_file())):
        if file.suffix == ".json":
            read_object(file)
        elif damage := file_damage(file):
            raise UnusableWeights(f"{file.name} {damage}")


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UnusableWeights: it is damaged, or holds something else.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UnusableWeights(f"{file.name} {file_damage(file)}") from None
    if not isinstance(data, dict):
        raise UnusableWeights(f"{file.name} holds no JSON object: {AGAIN}")
    return data


def refuse_packed(folder: Path) -> None:
    """Raises ``UnusableWeights`` if there are quantized tensors: others than floating-point ones of 16 bits or more."""
    stored = stored_tensors(folder) | _pickled_tensors(folder)
    packed = {name: tensor.dtype for name, tensor in stored.items() if tensor.dtype not in _DENSE}
    if packed := {name: dtype for name, dtype in packed.items() if not _UNUSED_TENSORS.search(name)}:
        dtype = packed[min(packed)]
        raise UnusableWeights(f"{_tensors_are(packed)} stored as {dtype}: give the weights before quantization")


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor in the safetensors files of ``folder``, by its name there; empty for files of another format."""
    stored: dict[str, StoredTensor] = {}
    for file in (file for file in _weight_files(folder)[0] if file.suffix == ".safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it has no __iter__
                view = tensors.get_slice(name)
                stored[name] = StoredTensor(view.get_dtype(), tuple(view.get_shape()))
    return stored


def _pickled_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor in the files of PyTorch in ``folder``, by its name there; empty for files of another format.

    Raises:
        UnusableWeights: a file is damaged, or holds more than tensors.
    """
    stored: dict[str, StoredTensor] = {}
    for file in (file for file in _weight_files(folder)[0] if file.suffix == ".bin"):
        try:
            content = torch.load(file, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(file))
        except Exception as error:  # each kind of damage raises another type
            if is_out_of_memory(error):
                raise
            unsafe = isinstance(error, UnpicklingError) and "nsupported" in str(error)
            reason = f"holds more than tensors: {_AS_TENSORS}" if unsafe else f"is cut off or damaged: {AGAIN}"
            raise UnusableWeights(f"{file.name} {reason}") from error
        if not isinstance(content, Mapping) or not all(isinstance(t, torch.Tensor) for t in content.values()):
            raise UnusableWeights(f"{file.name} holds more than tensors: {_AS_TENSORS}")
        for name, tensor in content.items():
            stored[name] = StoredTensor(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
    return stored


def damaged_file(folder: Path) -> str:
    """The first file of ``folder`` that cannot be read, and why; empty if all can."""
    try:
        weights = _weight_files(folder)[0]
    except UnusableWeights as error:
        return str(error)
    others = (file for file in sorted(folder.iterdir()) if file.suffix in (".json", ".jinja", ".model", ".txt"))
    for file in (*weights, *others):
        if damage := file_damage(file):
            return f"{file.name} {damage}"
    return ""


def _weight_files(folder: Path) -> tuple[list[Path], str]:
    """The files that transformers reads weights from, and the index that lists them (empty without one)."""
    for name, index in ((SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME), (WEIGHTS_NAME, WEIGHTS_INDEX_NAME)):
        if (folder / name).is_file():
            return [folder / name], ""
        if (folder / index).is_file():
            return [folder / shard for shard in _shards(folder / index)], index
    return [], ""


def _shards(index: Path) -> list[str]:
    if damage := file_damage(index):
        raise UnusableWeights(f"{index.name} {damage}")
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (KeyError, TypeError, AttributeError):
        shards = set()
    if not shards or not all(isinstance(shard, str) and _SHARD.fullmatch(shard) for shard in shards):
        raise UnusableWeights(f"{index.name} does not say which file has which tensor: {AGAIN}")
    return sorted(shards)
