"""Things, their pictures and scenes of them: the same on every machine, whole, and apart from what is held out."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlmcomp.data import object_sprites, object_things
from vlmcomp.data.object_colors import COLORS, main_color
from vlmcomp.data.object_rendering import draw, patch_labels, render_scene
from vlmcomp.data.object_scenes import CANVAS, Scene, sample_scene
from vlmcomp.data.object_sprites import HELD_OUT, SIDE, TRAIN, TRAIN_ONLY, drawn_by, load_sheet, load_sprite, renderings
from vlmcomp.data.object_things import FOLDER, KINDS, get_thing, things
from vlmcomp.data.task_registry import get_task

# Of the first pictures of the benchmark, on every machine.
DIGEST = "ec09781ce4354e3740b9ccbba3a1d657855a656562021c50f43656be6e2de3c9"


def _scenes(count: int, seed: str = "scenes", roles: tuple[str, ...] = (TRAIN, TRAIN_ONLY)) -> list[Scene]:
    rng = random.Random(seed)
    return [sample_scene(rng, roles) for _ in range(count)]


def benchmark_digest() -> str:
    digest = hashlib.sha256()
    for sample in get_task("objects-vqa").all_samples[:160:2]:
        digest.update(sample.image.tobytes())
    return digest.hexdigest()


def test_there_are_hundreds_of_things_with_a_name_of_their_own() -> None:
    names = [name.lower() for name in things()]
    assert len(set(names)) == len(names) >= 500
    assert all(len(name.split()) <= 3 and name.strip() == name for name in names)
    assert set(KINDS) <= {thing.category for thing in things().values()}
    assert all(not thing.yes & thing.unclear for thing in things().values())
    assert {get_thing(name).phrase for name in ("owl", "UFO", "fox", "x-ray", "rice", "scissors", "unicorn")} == {
        "an owl",
        "a UFO",
        "a fox",
        "an x-ray",
        "rice",
        "scissors",
        "a unicorn",
    }


def test_every_thing_is_drawn_by_several_artists_and_by_the_held_out_one() -> None:
    for name in things():
        assert len(drawn_by(name, TRAIN)) >= 3 and len(drawn_by(name, HELD_OUT)) == 1
    assert len({load_sprite(rendering, "cat").tobytes() for rendering in renderings()}) == len(renderings())


@pytest.mark.parametrize("rendering", renderings())
def test_a_sheet_has_the_pictures_and_colors_that_the_index_says(rendering: str) -> None:
    row = renderings()[rendering]
    sheet = load_sheet(rendering)
    assert sheet.shape == (len(row.names), SIDE, SIDE, 4) and len(set(row.names)) == len(row.names)
    assert (FOLDER / row.file).stat().st_size < 2e6
    for name, sprite in zip(row.names, sheet, strict=True):
        opaque = sprite[..., 3] > 127
        assert opaque.any(0).sum() > SIDE * 0.6 or opaque.any(1).sum() > SIDE * 0.6, name
        assert row.colors.get(name, main_color(sprite)) == main_color(sprite)
    assert set(row.colors.values()) <= set(COLORS)


def test_a_seed_names_a_scene_and_its_pixels() -> None:
    for one, other in zip(_scenes(30), _scenes(30), strict=True):
        assert one == other and render_scene(one).tobytes() == render_scene(other).tobytes()
    assert _scenes(30) != _scenes(30, "others")


def test_pictures_are_the_same_in_another_process_and_on_every_machine() -> None:
    code = "from tests.data.test_objects import benchmark_digest; print(benchmark_digest())"
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == benchmark_digest() == DIGEST


def test_scenes_keep_their_promises() -> None:
    scenes = _scenes(300)
    assert {len(scene.objects) for scene in scenes} == set(range(1, 7))
    for scene in scenes:
        assert len({t.name for t in scene.objects}) == len(scene.objects)
        owners = draw(scene)[1]
        for number, obj in enumerate(scene.objects, start=1):
            alone = np.count_nonzero(draw(replace(scene, objects=(obj,)))[1])
            assert np.count_nonzero(owners == number) > 0.55 * alone, (obj, scene)


def test_patch_labels_name_every_center() -> None:
    names = list(things())
    for scene in _scenes(60):
        image, owners = draw(scene)
        assert image.size == (CANVAS, CANVAS) and image.mode == "RGB"
        labels = patch_labels(scene, owners, 16)
        assert np.count_nonzero(labels["center_thing"]) == len(scene.objects)
        assert set(labels["thing"]) - {0} <= {names.index(t.name) + 1 for t in scene.objects}
        for obj in scene.objects:
            spot = min(obj.y // 16, 7) * 8 + min(obj.x // 16, 7)
            assert names[labels["center_thing"][spot] - 1] == obj.name


def test_a_table_without_a_thing_that_is_drawn_is_refused(folder: Path) -> None:
    file = folder / "things.csv"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("fox,")))
    with pytest.raises(ValueError, match=r"things.csv lacks 'fox' of renderings.json: restore .* repository$"):
        object_sprites.renderings.__wrapped__(folder)


def test_unknown_names_are_refused_in_a_sentence() -> None:
    scene = _scenes(1)[0]
    unknown = replace(scene, objects=(replace(scene.objects[0], name="fo\nx"),))
    with pytest.raises(ValueError, match=r"there is no thing 'fo\\nx' among the \d+ of"):
        render_scene(unknown)
    with pytest.raises(ValueError, match="there is no rendering 'mine': choose from fluent-3d"):
        load_sprite("mine", "fox")
    with pytest.raises(ValueError, match="the rendering fxemoji has no picture of 'fox'"):
        load_sprite("fxemoji", "fox")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for file in ("things.csv", object_sprites.INDEX, "fxemoji.webp"):
        shutil.copy(FOLDER / file, tmp_path)
    return tmp_path


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "another"])
def test_a_damaged_file_is_one_sentence(folder: Path, damage: str) -> None:
    for name, read in (
        ("fxemoji.webp", lambda: object_sprites.load_sheet.__wrapped__("fxemoji", folder)),
        (object_sprites.INDEX, lambda: object_sprites.renderings.__wrapped__(folder)),
        ("things.csv", lambda: object_things.things.__wrapped__(folder)),
    ):
        read()
        file = folder / name
        content = file.read_bytes()
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes({"empty": b"", "cut": content[: len(content) // 2 - 3], "another": b"\xff\xfe[]"}[damage])
        with pytest.raises((OSError, ValueError), match=r"assets/objects from the repository$") as caught:
            read()
        assert name in str(caught.value) and "\n" not in str(caught.value)
        file.write_bytes(content)
