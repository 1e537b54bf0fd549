"""Builds the sprite sheets of ``assets/objects`` from the artists' sets on npm.

    pip install resvg-py
    npm install --prefix sets @lobehub/fluent-emoji-3d@1.1.0 @iconify-json/fluent-emoji-flat@1.2.6 ...
    python -m vlmcomp.training.sprite_sheets sets/node_modules

The packages and their versions are in ``SETS``. Nothing else needs them: the sheets are in the repository.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlmcomp import files
from vlmcomp.data.object_colors import main_color
from vlmcomp.data.object_sprites import COLUMNS, HELD_OUT, INDEX, SIDE, TRAIN, TRAIN_ONLY
from vlmcomp.data.object_things import COLOR, FOLDER, Thing, things

_RASTER = 256  # pixels a side of a vector picture before it is scaled down
_COLOR_STEP, _ALPHA_STEP = 4, 17  # sprites have 64 levels of each color and 16 of opacity: files of two thirds the size


@dataclass(frozen=True)
class EmojiSet:
    """One artist's set on npm. ``unlike``: things that it draws as something else, or names otherwise."""

    package: str
    version: str
    artist: str
    license: str
    role: str
    unlike: tuple[str, ...] = ()


_GUN = ("water gun",)  # drawn as a revolver
SETS = {
    "fluent-3d": EmojiSet("@lobehub/fluent-emoji-3d", "1.1.0", "Microsoft Corporation", "MIT", TRAIN),
    "fluent-flat": EmojiSet("@iconify-json/fluent-emoji-flat", "1.2.6", "Microsoft Corporation", "MIT", TRAIN),
    "noto": EmojiSet("@iconify-json/noto", "1.2.9", "Google Inc", "Apache-2.0", TRAIN),
    "noto-v1": EmojiSet("@iconify-json/noto-v1", "1.2.5", "Google Inc", "Apache-2.0", TRAIN, ("cricket", *_GUN)),
    "emojione": EmojiSet("@iconify-json/emojione", "1.2.3", "EmojiOne", "CC-BY-4.0", TRAIN, ("cricket", *_GUN)),
    "fxemoji": EmojiSet(
        "@iconify-json/fxemoji",
        "1.2.2",
        "Mozilla",
        "CC-BY-4.0",
        TRAIN,
        ("cricket", "window", "sunglasses", "clamp", "keyboard", "goal", *_GUN),
    ),
    "openmoji": EmojiSet(
        "@iconify-json/openmoji", "1.2.29", "the OpenMoji project", "CC-BY-SA-4.0", TRAIN_ONLY, ("scroll",)
    ),
    "twemoji": EmojiSet("@iconify-json/twemoji", "1.2.5", "Twitter, Inc and other contributors", "CC-BY-4.0", HELD_OUT),
}
Picture = Callable[[Thing], Image.Image | None]


def _plain_code(code: str) -> str:
    """A code sequence in lower case, without the variation selector that sets write or leave out."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def _slug(text: str) -> str:
    letters = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", "-", letters.replace("’", "")).strip("-")


def _raster_pictures(package: Path) -> Picture:
    """Pictures from files named by their code."""
    found = {_plain_code(file.stem): file for file in (package / "assets").glob("*.webp")}

    def picture(thing: Thing) -> Image.Image | None:
        file = found.get(_plain_code(thing.code))
        return Image.open(file).convert("RGBA") if file else None

    return picture


def _vector_pictures(package: Path) -> Picture:
    """Pictures from an icon set of Iconify: by code if it lists codes, else by Unicode's name or ours."""
    icons = json.loads((package / "icons.json").read_text(encoding="utf-8"))
    chars = package / "chars.json"
    listed = json.loads(chars.read_text(encoding="utf-8")) if chars.exists() else {}
    by_code = {_plain_code(code): name for code, name in listed.items()}
    aliases = {name: alias["parent"] for name, alias in icons.get("aliases", {}).items()}

    def picture(thing: Thing) -> Image.Image | None:
        code = _plain_code(thing.code)
        candidates = [by_code.get(code, "")] if by_code else _names(thing, code)
        for name in candidates:
            while name in aliases:
                name = aliases[name]
            if icon := icons["icons"].get(name):
                return _draw(icon, icons)
        return None

    return picture


def _names(thing: Thing, code: str) -> list[str]:
    """What an old set may call a thing; none for a sequence of codes, whose first is another thing."""
    if "-" in code:
        return []
    slug = _slug(unicodedata.name(chr(int(code, 16)), thing.name))
    names = [slug, _slug(thing.name), f"{slug}-face", slug.removesuffix("-face")]
    return names + [name.replace("-", "") for name in names]


def _draw(icon: dict[str, Any], icons: dict[str, Any]) -> Image.Image:
    import resvg_py  # spares everybody else a package that only this script needs

    left, top, width, height = (
        icon.get(key, icons.get(key, size)) for key, size in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{_RASTER}" height="{_RASTER}">{icon["body"]}</svg>'
    )
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")


def make_sprite(picture: Image.Image) -> np.ndarray:
    """The picture without its margin, scaled to ``SIDE`` and rounded: uint8 ``(SIDE, SIDE, 4)``, RGBA."""
    opaque = picture.getchannel("A").point(lambda value: 255 if value > 24 else 0)
    picture = picture.crop(opaque.getbbox()).convert("RGBa")
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    scaled = picture.resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    sprite = Image.new("RGBA", (SIDE, SIDE))
    sprite.paste(scaled, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    pixels = np.asarray(sprite).astype(np.int32)
    steps = np.array([_COLOR_STEP] * 3 + [_ALPHA_STEP])
    rounded = np.minimum((pixels + steps // 2) // steps * steps, 255)
    rounded[rounded[..., 3] == 0] = 0
    return rounded.astype(np.uint8)


def _sheet(sprites: list[np.ndarray]) -> bytes:
    rows = -(-len(sprites) // COLUMNS)
    sheet = np.zeros((rows * COLUMNS, SIDE, SIDE, 4), np.uint8)
    sheet[: len(sprites)] = sprites
    pixels = sheet.reshape(rows, COLUMNS, SIDE, SIDE, 4).swapaxes(1, 2).reshape(rows * SIDE, COLUMNS * SIDE, 4)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "WEBP", lossless=True, quality=100, method=6)
    return content.getvalue()


def build(packages: Path, out: Path) -> None:
    """Write the sheets and their index.

    Args:
        packages: folder of the npm packages, ``node_modules``.
        out: ``assets/objects``; its table of things is read from the repository.
    """
    index = {}
    for name, emoji_set in SETS.items():
        package = packages / emoji_set.package
        picture = _vector_pictures(package) if (package / "icons.json").exists() else _raster_pictures(package)
        drawn = {thing.name: picture(thing) for thing in things().values() if thing.name not in emoji_set.unlike}
        sprites = {thing: make_sprite(image) for thing, image in drawn.items() if image is not None}
        content = _sheet(list(sprites.values()))
        files.write_bytes(out / f"{name}.webp", content)
        colors = {name: main_color(sprite) for name, sprite in sprites.items() if COLOR not in things()[name].unclear}
        index[name] = {
            "artist": emoji_set.artist,
            "license": emoji_set.license,
            "source": f"npm {emoji_set.package} {emoji_set.version}",
            "role": emoji_set.role,
            "sha256": hashlib.sha256(content).hexdigest(),
            "names": list(sprites),
            "colors": {name: color for name, color in colors.items() if color},
        }
        print(f"{name}: {len(sprites)} things, {len(content) / 1e6:.1f} MB")
    files.write_text(out / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the sprite sheets of assets/objects.")
    parser.add_argument("packages", type=Path, help="node_modules with the artists' sets")
    build(parser.parse_args().packages, FOLDER)
