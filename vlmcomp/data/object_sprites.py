"""The pictures of things: one sheet of sprites for each rendering, that is, for each artist's set.

``assets/objects/renderings.json`` says what is in the sheets, where it is from and whose it is. The sheets are
lossless and checked by their digests, so everybody has the same pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from vlmcomp.data.object_things import FILE, FOLDER, get_thing, things
from vlmcomp.data.unicode_text import escape

INDEX = "renderings.json"
SIDE = 64  # pixels, width and height of a sprite
COLUMNS = 32  # sprites in a row of a sheet
TRAIN, TRAIN_ONLY, HELD_OUT = "train", "train-only", "held-out"
_RESTORE = "restore assets/objects from the repository"


@dataclass(frozen=True)
class Rendering:
    """One artist's pictures.

    Attributes:
        role: ``train``: in training and in the held-out scenes; ``train-only``: share-alike, so not in the scenes that
            the project shows; ``held-out``: never in training.
        sha256: hex digest of its sheet.
        names: the things that it has, in the order of the sheet, row by row.
        colors: the main color of those that have one.
    """

    name: str
    role: str
    sha256: str
    names: tuple[str, ...]
    colors: Mapping[str, str]

    @property
    def file(self) -> str:
        return f"{self.name}.webp"


@cache
def renderings(folder: Path = FOLDER) -> Mapping[str, Rendering]:
    """All renderings by name.

    Raises:
        OSError: the index cannot be read.
        ValueError: it is damaged.
    """
    file = folder / INDEX
    try:
        rows = json.loads(_read(file))
        found = {name: _parse(name, row) for name, row in rows.items()}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{file} is damaged: {_RESTORE}") from None
    if unknown := {thing for rendering in found.values() for thing in rendering.names} - things(folder).keys():
        raise ValueError(f"{folder / FILE} lacks '{min(unknown)}' of {INDEX}: {_RESTORE}")
    return MappingProxyType(found)


def rendering_names(*roles: str) -> tuple[str, ...]:
    """The renderings with one of the roles."""
    return tuple(name for name, rendering in renderings().items() if rendering.role in roles)


@cache
def drawn_by(thing: str, *roles: str) -> tuple[str, ...]:
    """The renderings with one of the roles that have a picture of ``thing``.

    Raises:
        ValueError: no thing has that name.
    """
    get_thing(thing)
    return tuple(name for name in rendering_names(*roles) if thing in renderings()[name].names)


@cache
def load_sheet(rendering: str, folder: Path = FOLDER) -> np.ndarray:
    """The sprites of a rendering: uint8 ``(things, SIDE, SIDE, 4)``, RGBA, in the order of its names.

    Raises:
        OSError: the sheet cannot be read.
        ValueError: there is no such rendering, or its sheet is damaged.
    """
    if rendering not in renderings(folder):
        raise ValueError(f"there is no rendering '{escape(rendering)}': choose from {', '.join(renderings(folder))}")
    row = renderings(folder)[rendering]
    file = folder / row.file
    content = _read(file)
    if hashlib.sha256(content).hexdigest() != row.sha256:
        raise ValueError(f"{file} is damaged: {_RESTORE}")
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))
    height, width = (size // SIDE for size in pixels.shape[:2])
    tiles = pixels.reshape(height, SIDE, width, SIDE, 4).swapaxes(1, 2)
    return tiles.reshape(-1, SIDE, SIDE, 4)[: len(row.names)]


@cache
def load_sprite(rendering: str, thing: str) -> np.ndarray:
    """The sprite of a thing: uint8 ``(SIDE, SIDE, 4)``, RGBA.

    Raises:
        OSError: the sheet cannot be read.
        ValueError: there is no such thing or rendering, the rendering lacks the thing, or its sheet is damaged.
    """
    get_thing(thing)
    sheet = load_sheet(rendering)
    names = renderings()[rendering].names
    if thing not in names:
        raise ValueError(f"the rendering {rendering} has no picture of '{thing}'")
    return sheet[names.index(thing)]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} is missing: {_RESTORE}") from None


def _parse(name: str, row: dict[str, Any]) -> Rendering:
    return Rendering(name, row["role"], row["sha256"], tuple(row["names"]), MappingProxyType(row["colors"]))
