"""Digests of a folder of dense weights: of the weights, and of the other files that change what a model answers."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from vlmcomp import files

_WEIGHTS = (".safetensors", ".bin")
_SETTINGS = (  # of model, generation, processor, tokenizer and chat template, in every layout of transformers
    *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "*.model", "chat_template.json", "*.jinja"),
    "additional_chat_templates/*.jinja",
)
_Stamped = tuple[tuple[str, files.Stamp | None], ...]  # path of a file in its folder, and its state


def weights_digest(folder: Path) -> str:
    """Digest of the weight files in ``folder``; those that have not changed are read once a process."""
    return _digest_of_weights(folder, _stamp(folder, {f for f in folder.iterdir() if f.suffix in _WEIGHTS}))


def settings_digest(folder: Path) -> str:
    """Digest of names and contents of the files beside the weights in ``folder`` that change answers: config,
    generation settings, processor, tokenizer and chat template."""
    return _digest_of_settings(folder, _stamp(folder, {file for name in _SETTINGS for file in folder.glob(name)}))


def _stamp(folder: Path, found: set[Path]) -> _Stamped:
    return tuple((file.relative_to(folder).as_posix(), files.stamp(file)) for file in sorted(found))


@lru_cache(maxsize=8)
def _digest_of_weights(folder: Path, stamped: _Stamped) -> str:
    return files.short_digest(folder / name for name, _ in stamped)


@lru_cache(maxsize=8)
def _digest_of_settings(folder: Path, stamped: _Stamped) -> str:
    contents = {name: files.sha256_of_files([folder / name]) for name, _ in stamped}
    return f"sha256:{hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]}"
