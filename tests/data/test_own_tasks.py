"""Tasks of the user: any editor's text, images as part of the task, and bad rows that are told before any work."""

from __future__ import annotations

import codecs
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.support.bad_images import encoded
from vlmcomp.cli import main
from vlmcomp.data.task_registry import get_checked_task, get_task
from vlmcomp.data.tasks import Sample, Task
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.evaluation.provenance import prediction_logs
from vlmcomp.evaluation.quality import measure, score
from vlmcomp.recipe import Recipe
from vlmcomp.results import store
from vlmcomp.runtime.engine import Engine

ROW = {"image": "red.png", "question": "What color is it?", "answer": "red"}
RECIPE = "llava-shapes/fp16"


def _write(folder: Path, *lines: object) -> str:
    Image.new("RGB", (40, 30), "red").save(folder / "red.png")
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "task.jsonl").write_text(text, encoding="utf-8")
    return str(folder)


def test_a_folder_of_ones_own_is_a_task(tmp_path: Path, built) -> None:
    one = {"image": "red.png", "question": "What color is it?", "answer": "Red"}
    many = {"image": "red.png", "question": "And now?", "answers": ["red"] * 2 + ["Crimson"], "id": "x", "type": "hard"}
    task = get_task(_write(tmp_path, one, "", many))
    first, second = task.sample()
    assert (first.id, first.type, first.reference, first.references) == ("1", "question", "Red", ("Red",))
    assert (second.id, second.type, second.reference) == ("x", "hard", "red") and len(second.references) == 3
    assert first.image.size == (40, 30) and task.num_samples(None) == 2 and task.name == tmp_path.name
    quality, rows = measure(Engine(built("llava-shapes/fp16")), task, encoder="minilm")
    assert quality.samples == 2 and quality.metric == task.metric == "VQA accuracy"  # one question has several answers
    assert rows[1]["references"] == many["answers"] and score(task, rows, 0, "minilm") == quality


def test_one_answer_beside_those_of_ten_people_keeps_them(tmp_path: Path) -> None:
    ten = ["teal"] * 4 + ["green"] * 6
    (sample,) = get_task(_write(tmp_path, ROW | {"answer": "teal", "answers": ten})).sample()
    assert sample.references == tuple(ten)
    assert sample.reference == "teal"  # as VQAv2 has its multiple-choice answer beside the ten


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 1: it must be a JSON object"),
        ('["image"]', "line 1: it must be a JSON object"),
        ('{"image": "red.png", "question": "?"}', "line 1: it must be a JSON object with image, question and answer"),
        ('{"image": "red.png", "question": "?", "answer": " "}', "line 1: .* must be non-empty strings"),
        ('{"image": "red.png", "question": "?", "answers": 5}', "line 1: it must be a JSON object"),
        ('{"image": "red.png", "question": "?", "answers": "yes"}', "line 1: it must be a JSON object"),
        ('{"image": "red.png", "question": "?", "answers": []}', "line 1: .* must be non-empty strings"),
        ('{"image": "blue.png", "question": "?", "answer": "a"}', "line 1: there is no image"),
        ("", "it has no questions"),
    ],
)
def test_a_bad_folder_names_its_line(line: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        get_task(_write(tmp_path, line))


def test_a_folder_with_one_id_twice_or_without_a_task(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        get_task(str(tmp_path))
    row = {"image": "red.png", "question": "?", "answer": "a", "id": "same"}
    with pytest.raises(ValueError, match="line 2: it has the same id as line 1"):
        get_task(_write(tmp_path, row, row))


def facts(task: Task) -> list[Sample]:
    return [replace(s, load_image=repr) for s in task.sample()]


TEXTS = ("a \u2028 b", "a \u2029 b", "a \x85 b", "Ünïcödé 形 🟦", "a \x1c b")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-16-le", b""),
        ("utf-16-be", b""),
        ("utf-32-le", codecs.BOM_UTF32_LE),
    ],
)
def test_a_task_is_the_same_in_every_encoding_and_with_every_line_end(
    encoding: str, mark: bytes, end: str, tmp_path: Path
) -> None:
    rows = [ROW | {"question": text} for text in TEXTS[:-1]] + [ROW | {"question": TEXTS[-1].replace("\x1c", "|")}]
    lines = ["", *(json.dumps(row, ensure_ascii=False) for row in rows[:2]), "  ", *map(json.dumps, rows[2:])]
    expected = get_task(_write(tmp_path, *lines))
    for last in ("", end, end * 2):
        (tmp_path / "task.jsonl").write_bytes(mark + (end.join(lines) + last).encode(encoding))
        found = get_task(str(tmp_path))
        assert facts(found) == facts(expected)
        assert (found.version, found.sha256) == (expected.version, expected.sha256)
    assert [s.question for s in found.sample()] == [row["question"] for row in rows]


def test_files_with_marks_may_be_joined(tmp_path: Path) -> None:
    _write(tmp_path, ROW)
    one = codecs.BOM_UTF8 + json.dumps(ROW).encode() + b"\n"
    (tmp_path / "task.jsonl").write_bytes(one + one)
    assert len(get_task(str(tmp_path)).sample()) == 2


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (json.dumps(ROW | {"answer": "Grün"}, ensure_ascii=False).encode("latin-1"), "line 1: its text is not valid"),
        (b'{"image": "red.png", "question": "\\ud83d", "answer": "a"}', "line 1: its text is not valid Unicode"),
        (codecs.BOM_UTF16_LE + b"{", "is not text in UTF-8 or UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "line 1: it must be a JSON object"),
        (json.dumps([ROW]).encode(), "line 1: it must be a JSON object"),
        (b"[" * 100_000, "line 1: it must be a JSON object"),
        (b'{"image": "red\\u0000.png", "question": "?", "answer": "a"}', "line 1: there is no image"),
        (b'{"image": ".", "question": "?", "answer": "a"}', "line 1: there is no image"),
        (codecs.BOM_UTF8, "it has no questions"),
    ],
)
def test_what_is_no_text_is_one_sentence(data: bytes, sentence: str, tmp_path: Path) -> None:
    _write(tmp_path, ROW)
    (tmp_path / "task.jsonl").write_bytes(data)
    with pytest.raises(ValueError, match=sentence) as refused:
        get_task(str(tmp_path))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize("keep_time", [False, True])
def test_images_are_part_of_a_task(keep_time: bool, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    name = _write(folder, ROW, ROW)
    image = folder / "red.png"
    Image.new("RGB", (40, 30), "red").save(image, compress_level=0)
    first, again = get_task(name), get_task(name)
    assert first is again  # files that have not changed are not read again
    copy = shutil.copytree(folder, tmp_path / "copy" / "mine")
    assert (get_task(str(copy)).version, get_task(str(copy)).sha256) == (first.version, first.sha256)
    log = prediction_logs(Recipe.parse(RECIPE), BenchmarkConfig((name,), device="cpu"), tmp_path)
    log(first).append([{"id": "1"}])
    assert log(again).batches
    before = image.stat()
    Image.new("RGB", (40, 30), "blue").save(image, compress_level=0)
    assert image.stat().st_size == before.st_size
    if keep_time:
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = get_task(name)
    assert changed.version != first.version and changed.sha256 != first.sha256 and not log(changed).batches
    assert [s.question for s in changed.sample()] == [s.question for s in first.sample()]
    assert {s.image.getpixel((5, 5)) for s in changed.sample()} == {(0, 0, 255)}


def _bench(folder: Path, out: Path, *options: str) -> int:
    words = ["bench", RECIPE, "--task", str(folder), "--out", str(out), "--bertscore-model", "minilm"]
    return main.main([*words, "--device", "cpu", *options])


def test_a_score_about_replaced_images_is_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, out = tmp_path / "mine", tmp_path / "results"
    folder.mkdir()
    _write(folder, ROW)
    for color, reused in (("red", False), ("red", True), ("blue", False)):
        Image.new("RGB", (96, 96), color).save(folder / "red.png")
        assert _bench(folder, out) == 0
        assert capsys.readouterr().out.splitlines()[0].endswith("(reused)") == reused
        (report,) = store.load_all(out)
        assert report.quality["mine"].version == get_task(str(folder)).version


def _with_bad_rows(folder: Path) -> None:
    """Six rows: the second has no answer, the third's image is cut, the fifth's is missing, the last repeats an id."""
    cut = encoded(Image.effect_noise((64, 64), 50), "PNG")
    (folder / "cut.png").write_bytes(cut[: len(cut) // 2])
    bad = [ROW | {"answer": ""}, ROW | {"image": "cut.png"}, ROW, ROW | {"image": "gone.png"}, ROW | {"id": "1"}]
    _write(folder, ROW, *bad)


def test_bad_rows_are_named_and_counted_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    _with_bad_rows(tmp_path)
    assert _bench(tmp_path, tmp_path / "results") == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "task.jsonl, line 2: image, question and answer must be non-empty strings" in said[0]
    assert said[0].endswith("; 4 of 6 rows are bad: correct what is wrong, or skip such rows with --bad-rows skip")
    assert not list((tmp_path / "results").rglob("*.json"))


def test_an_image_that_cannot_be_decoded_is_named_before_any_work(tmp_path: Path) -> None:
    _with_bad_rows(tmp_path)
    _write(tmp_path, *[ROW] * 3, ROW | {"image": "cut.png"})
    get_task(str(tmp_path))  # reads the bytes alone
    with pytest.raises(ValueError, match=r"task.jsonl, line 4, cut.png: the image cannot be .*; 1 of 4 rows is bad"):
        BenchmarkConfig((str(tmp_path),)).validate()
    _write(tmp_path, *[ROW | {"image": "cut.png"}] * 3)
    for choice in ("error", "skip"):
        with pytest.raises(ValueError, match=r"line 1, cut.png: .*; all 3 rows are bad"):
            BenchmarkConfig((str(tmp_path),), bad_rows=choice).validate()
    with pytest.raises(ValueError, match="choose from error, skip"):
        BenchmarkConfig((str(tmp_path),), bad_rows="ignore").validate()


def test_rows_that_are_not_asked_are_not_decoded(tmp_path: Path) -> None:
    _with_bad_rows(tmp_path)
    _write(tmp_path, *[ROW] * 9, ROW | {"image": "cut.png"})
    names = {seed: [s.id for s in get_task(str(tmp_path)).sample(3, seed)] for seed in range(30)}
    good, bad = (next(s for s, ids in names.items() if ("10" in ids) == wanted) for wanted in (False, True))
    assert len(get_checked_task(str(tmp_path), 3, good, "error").sample(3, good)) == 3
    with pytest.raises(ValueError, match="1 of 3 rows is bad"):
        get_checked_task(str(tmp_path), 3, bad, "error")
    left = get_checked_task(str(tmp_path), 3, bad, "skip")
    assert [s.id for s in left.sample(3, bad)] == [i for i in names[bad] if i != "10"]  # the others stay the same


def test_skipped_rows_are_counted_and_part_of_the_task(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, out = tmp_path / "mine", tmp_path / "results"
    folder.mkdir()
    _with_bad_rows(folder)
    for reused in (False, True):
        assert _bench(folder, out, "--bad-rows", "skip") == 0
        said = capsys.readouterr()
        assert said.err.count("skipped: ") == 4 and "line 3, cut.png: the image cannot be read" in said.err
        assert "(4 bad rows skipped)" in said.out and ("(reused)" in said.out) == reused
    (report,) = store.load_all(out)
    found = report.quality["mine"]
    rows = store.load_predictions(report, out)["mine"]
    assert (found.samples, found.skipped_rows) == (2, 4) and [row["id"] for row in rows] == ["1", "4"]
    assert main.main(["report", "--root", str(out)]) == 0
    assert "2 questions (4 bad rows skipped)" in capsys.readouterr().out
    skipping = get_checked_task(str(folder), None, 0, "skip")
    Image.new("RGB", (40, 30), "red").save(folder / "cut.png")
    mended = get_checked_task(str(folder), None, 0, "skip")
    assert len(mended.skipped) == 3 and [s.id for s in mended.sample()] == ["1", "3", "4"]
    assert mended.version != skipping.version and mended.sha256 != skipping.sha256
