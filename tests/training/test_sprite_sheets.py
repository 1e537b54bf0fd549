"""Building sprite sheets from the artists' packages: what the repository has can be made again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vlmcomp.data import object_sprites
from vlmcomp.data.object_sprites import HELD_OUT, SIDE, TRAIN_ONLY, renderings
from vlmcomp.data.object_things import things
from vlmcomp.training import sprite_sheets
from vlmcomp.training.sprite_sheets import SETS, EmojiSet, make_sprite


def _picture(color: str, box: tuple[int, int, int, int] = (40, 60, 200, 180)) -> Image.Image:
    picture = Image.new("RGBA", (256, 256))
    ImageDraw.Draw(picture).ellipse(box, fill=color)
    return picture


def test_the_index_says_whose_the_pictures_are() -> None:
    index = json.loads((object_sprites.FOLDER / object_sprites.INDEX).read_text())
    credits_page = (object_sprites.FOLDER / "README.md").read_text()
    assert list(index) == list(SETS)
    for name, row in index.items():
        given = SETS[name]
        assert (row["artist"], row["license"], row["role"]) == (given.artist, given.license, given.role)
        assert row["source"] == f"npm {given.package} {given.version}"
        [line] = [line for line in credits_page.splitlines() if line.startswith(f"| `{name}.webp` |")]
        assert f"npm `{given.package}` {given.version} |" in line
        assert row["license"].replace("-", " ") in line.replace("-", " ")
        assert ("SA" in row["license"]) == (row["role"] == TRAIN_ONLY)  # in no picture that is shown
        assert not set(given.unlike) & set(row["names"])
        assert not any("color" in things()[name].unclear for name in row["colors"])
    assert [row.name for row in renderings().values() if row.role == HELD_OUT] == ["twemoji"]


def test_a_sprite_fills_its_square_and_keeps_its_proportions() -> None:
    sprite = make_sprite(_picture("red"))
    opaque = sprite[..., 3] > 127
    assert sprite.shape == (SIDE, SIDE, 4) and opaque.any(0).sum() == SIDE
    assert abs(opaque.any(1).sum() - SIDE * 121 / 161) <= 2
    assert not sprite[sprite[..., 3] == 0].any()


def test_sheets_are_built_from_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emoji_set = EmojiSet("@mine/raster", "1.0.0", "me", "MIT", "train", unlike=("wolf",))
    monkeypatch.setattr(sprite_sheets, "SETS", {"mine": emoji_set})
    assets = tmp_path / "sets" / emoji_set.package / "assets"
    assets.mkdir(parents=True)
    for name, color in (("fox", "orange"), ("wolf", "gray"), ("umbrella", "blue"), ("cat", "red")):
        code = things()[name].code.lower()
        _picture(color).save(assets / f"{code}{'-fe0f' if name == 'umbrella' else ''}.webp", lossless=True)
    out = tmp_path / "out"
    out.mkdir()
    (out / "things.csv").write_bytes((object_sprites.FOLDER / "things.csv").read_bytes())
    sprite_sheets.build(tmp_path / "sets", out)
    row = object_sprites.renderings.__wrapped__(out)["mine"]
    assert row.names == ("fox", "cat", "umbrella") and row.colors["cat"] == "red" and row.colors["umbrella"] == "blue"
    sheet = object_sprites.load_sheet.__wrapped__("mine", out)
    assert sheet.shape == (3, SIDE, SIDE, 4)
    assert np.array_equal(sheet[1], make_sprite(_picture("red")))
