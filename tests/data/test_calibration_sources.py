"""Calibration sources: every form that can be written, its samples and weights, and one sentence for what cannot."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from vlmcomp.data.calibration_data import DEFAULT_QUESTION, short_digest
from vlmcomp.data.calibration_set import CalibrationSet, load_sources
from vlmcomp.data.calibration_source import HubSource, Source, parse_sources

ROWS = [{"image": f"{color}.png", "question": "What color?", "answer": color} for color in ("red", "blue")]


def write(folder: Path, name: str = "mine.jsonl", rows: list[dict] = ROWS) -> Path:
    folder.mkdir(exist_ok=True)
    for row in rows:
        Image.new("RGB", (96, 96), row["image"].partition(".")[0]).save(folder / row["image"])
    (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder / name


def load(text: object, **options: str) -> CalibrationSet:
    return load_sources(str(text), 3, progress=lambda text, fraction: None, **options)


def test_a_file_its_folder_and_a_task_are_the_same_samples(tmp_path: Path) -> None:
    file = write(tmp_path / "a")
    task = write(tmp_path / "b", "task.jsonl", [row | {"id": f"{n}", "type": "color"} for n, row in enumerate(ROWS)])
    found = [load(place) for place in (file, file.parent, task.parent)]
    assert {one.description for one in found} == {f"own samples, {short_digest(found[0].samples)}"}
    assert [sample[1:] for sample in found[0].samples] == [("What color?", "red"), ("What color?", "blue")]


def test_answers_of_several_people_are_their_most_common_one(tmp_path: Path) -> None:
    rows = [{"image": "red.png", "question": "?", "answers": ["Red", "crimson", "red"]}, ROWS[1]]
    assert load(write(tmp_path, rows=rows)).samples[0][2] == "Red"


def test_sources_with_weights(tmp_path: Path) -> None:
    file = write(tmp_path)
    found = load(f"shapes, {file}*2.5")
    assert found.weights == (1, 1, 1, 2.5, 2.5) and len(found.samples) == 5
    assert found.description == f"drawn scenes + own samples x2.5, {found.digest}"
    assert load("shapes").description == "drawn scenes"


def test_a_path_may_contain_what_separates_sources(tmp_path: Path) -> None:
    file = write(tmp_path, "a,b*3.jsonl")
    assert parse_sources(str(file)) == [Source(file)] and load(file).weights == (1, 1)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hub:owner/name", HubSource("owner/name")),
        ("hub:owner/name@v1.0", HubSource("owner/name", "v1.0")),
        (
            "hub:owner/name@main?config=a b&split=val&image=img&question=q.text&answer=a&samples=5&skip=2",
            HubSource("owner/name", "main", "a b", "val", "img", "q.text", "a", 5, 2),
        ),
        ("hub:owner/name?question=a%2Cb", HubSource("owner/name", question="a,b")),
    ],
)
def test_a_data_set_on_the_hub(text: str, source: HubSource) -> None:
    assert parse_sources(text) == [Source(source)]
    assert parse_sources(f"shapes, {text}*3") == [Source("shapes"), Source(source, 3.0)]


def test_a_hub_source_is_written_as_it_is_read() -> None:
    text = "hub:owner/name@v1?config=a&samples=5"
    assert [str(source.place) for source in parse_sources(text)] == [text]


def test_the_original_model_needs_no_answers_and_no_questions(tmp_path: Path) -> None:
    file = write(tmp_path, rows=[{"image": "red.png", "question": "Why?"}, {"image": "blue.png"}])
    for answers in ("given", "mine"):
        with pytest.raises(ValueError, match=r"has no (answer|question)|must be given or self"):
            load(file, answers=answers)
    found = load(file, answers="self")
    assert [sample[1:] for sample in found.samples] == [("Why?", ""), (DEFAULT_QUESTION, "")]
    assert found.description.endswith(", answers of the original model")


def test_a_folder_of_images_alone_is_described(tmp_path: Path) -> None:
    write(tmp_path).unlink()
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"has images alone: .*--answers self"):
        load(tmp_path)
    assert [sample[1] for sample in load(tmp_path, answers="self").samples] == [DEFAULT_QUESTION] * 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "there is no calibration source ''"),
        ("mixtures", "no calibration source 'mixtures': give mixture, shapes, a JSON Lines file"),
        ("none.jsonl", "the calibration file none.jsonl cannot be read"),
        ("owner/name", "no file or folder owner/name: write hub:owner/name"),
        ("shapes*0", "has the weight '0': give a number above 0"),
        ("shapes*x", "has the weight 'x'"),
        ("shapes*inf", "has the weight 'inf'"),
        ("shapes,shapes*2", "names a calibration source twice"),
        ("shapes,", "no calibration source ''"),
        ("hub:", "is no data set on the Hub"),
        ("hub:a/b?colour=x", "'colour=x' .* is no option: give NAME=VALUE with config, split, image"),
        ("hub:a/b?split=", "is no option"),
        ("hub:a/b?samples=few", "'samples=few' .* is no number"),
        ("hub:a/b?samples=0", "asks for no samples"),
        ("empty", "has neither a JSON Lines file nor images"),
        ("two", "has 2 JSON Lines files"),
    ],
)
def test_what_cannot_be_a_source(text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("empty")
    write(tmp_path / "two", "one.jsonl")
    write(tmp_path / "two", "two.jsonl")
    with pytest.raises(ValueError, match=sentence) as error:
        parse_sources(text)
    assert "\n" not in str(error.value)
