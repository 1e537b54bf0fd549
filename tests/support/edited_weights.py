"""Folders whose weights are edited: what a copy that stopped, a wrong file or an old version leaves behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"


def edited_copy(folder: Path, copy: Path, edit: Callable[[Tensors], object]) -> Path:
    """A copy of ``folder`` whose tensors ``edit`` has changed in place; an index stays as it is."""
    shutil.copytree(folder, copy)
    for file in copy.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            metadata = tensors.metadata()
        weights = load_file(file)
        edit(weights)
        save_file(weights, file, metadata=metadata)
    return copy


def edited_config(folder: Path, **settings: object) -> Path:
    """``folder`` with ``settings`` in its config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder
