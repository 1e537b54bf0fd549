"""What a row of one's own task means, and what is said about one that means nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.support.bad_images import encoded
from vlmcomp.cli import main
from vlmcomp.data.calibration_data import load_calibration_file
from vlmcomp.data.task_registry import get_checked_task, get_task
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.evaluation.quality import score
from vlmcomp.reporting.comparison import compare
from vlmcomp.results.schema import EXACT_MATCH, VQA_ACCURACY

ROW = {"image": "red.png", "question": "What color is it?", "answer": "red"}
TEN = ["red"] * 6 + ["crimson"] * 4
MANY = {"image": "red.png", "question": "And now?", "answers": TEN}


def write(folder: Path, *rows: dict) -> str:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (40, 30), "red").save(folder / "red.png")
    cut = encoded(Image.effect_noise((64, 64), 50), "PNG")
    (folder / "cut.png").write_bytes(cut[: len(cut) // 2])
    (folder / "task.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(folder)


def answered(name: str, *answers: str) -> list[dict]:
    """Rows as a benchmark stores them."""
    rows = []
    for sample, answer in zip(get_task(name).sample(), answers, strict=True):
        row = {"id": sample.id, "type": sample.type, "question": sample.question, "reference": sample.reference}
        rows.append(row | {"answer": answer} | ({"references": list(sample.references)} if sample.references else {}))
    return rows


def test_one_person_beside_the_answer_is_kept(tmp_path: Path) -> None:
    name = write(tmp_path, ROW | {"answer": "teal", "answers": ["green"]})
    (sample,) = get_task(name).sample()
    assert (sample.reference, sample.references) == ("teal", ("green",))
    quality = score(get_task(name), answered(name, "Green!"), 0, "minilm")
    assert (quality.metric, quality.score, quality.exact_match) == (VQA_ACCURACY, 1, 0)


def test_one_person_alone_is_the_answer(tmp_path: Path) -> None:
    alone, plain = (get_task(write(tmp_path / n, row)) for n, row in (("a", MANY | {"answers": ["red"]}), ("b", ROW)))
    assert alone.metric == plain.metric == EXACT_MATCH
    assert alone.sample()[0].references == () and alone.sample()[0].reference == "red"


@pytest.mark.parametrize("rows", [(ROW, MANY), (MANY, ROW), (MANY, ROW, ROW)])
def test_a_mixed_task_is_judged_by_everybody_who_answered(rows: tuple, tmp_path: Path) -> None:
    """A question with one answer has one person, who is right or wrong; one with ten has the challenge's accuracy."""
    task = get_task(name := write(tmp_path, *rows))
    assert task.metric == VQA_ACCURACY and all(sample.references for sample in task.sample())
    answers = ["A red!" if row is ROW else "crimson" for row in rows]
    found = score(task, answered(name, *answers), 0, "minilm")
    assert found.metric == VQA_ACCURACY
    assert found.score == pytest.approx(sum(1 if row is ROW else 1.0 for row in rows) / len(rows))
    wrong = answered(name, *["blue" if row is ROW else "red" for row in rows])
    assert compare(answered(name, *answers), wrong).regressions == sum(row is ROW for row in rows)
    (few,) = get_checked_task(name, 1, 0, "error").sample(1, 0)
    assert few.references  # the score does not depend on which questions are drawn


@pytest.mark.parametrize("row", [{"id": None}, {"type": None}, {"id": None, "type": None}])
def test_null_is_no_name(row: dict, tmp_path: Path) -> None:
    first, second = get_task(write(tmp_path, ROW | row, ROW | row)).sample()
    assert (first.id, second.id) == ("1", "2") and first.type == second.type == "question"


@pytest.mark.parametrize("name", ["id", "type"])
@pytest.mark.parametrize("value", [[], {}, ["a"], {"a": 1}, True, "", " ", "\u200b"])
def test_what_is_no_name_is_one_sentence(name: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"line 2: its {name} must be a text or a number"):
        get_task(write(tmp_path, ROW, ROW | {name: value}))


def test_numbers_are_names(tmp_path: Path) -> None:
    samples = get_task(write(tmp_path, ROW | {"id": 7, "type": 1}, ROW | {"id": 1.5})).sample()
    assert [(s.id, s.type) for s in samples] == [("7", "1"), ("1.5", "question")]


@pytest.mark.parametrize("column", ["question", "answer"])
@pytest.mark.parametrize("text", ["\u200b", "\0", "<image>", "\u00ad \ufeff"])
def test_what_nobody_sees_is_empty(column: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 1: .* must be non-empty strings"):
        get_task(write(tmp_path, ROW | {column: text}, ROW))
    with pytest.raises(ValueError, match=r"line 1: .* must be non-empty strings"):
        get_task(write(tmp_path, MANY | {"answers": ["red", text]}, ROW))
    with pytest.raises(ValueError, match=r"line 2: .* must be non-empty strings"):
        write(tmp_path, ROW, ROW | {column: text})
        load_calibration_file(tmp_path / "task.jsonl")


CUT, GONE, EMPTY = ROW | {"image": "cut.png"}, ROW | {"image": "gone.png"}, ROW | {"answer": ""}


@pytest.mark.parametrize("bad", [(CUT, GONE, EMPTY), (CUT, EMPTY, GONE), (EMPTY, CUT, GONE), (GONE, CUT, EMPTY)])
def test_bad_rows_are_named_in_their_order(bad: tuple, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    name = write(tmp_path, ROW, *bad, ROW)
    with pytest.raises(ValueError, match=r"line 2.*; 3 of 5 rows are bad"):
        BenchmarkConfig((name,)).validate()
    task = get_checked_task(name, None, 0, "skip")
    assert [row.reason.partition(", line ")[2][0] for row in task.skipped] == ["2", "3", "4"]
    with pytest.raises(ValueError, match=r"line 1.*; all 3 rows are bad"):
        get_checked_task(write(tmp_path, *bad), None, 0, "skip")


def test_a_name_of_several_lines_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "my\ntask"
    write(folder, ROW)
    rows = write(tmp_path / "rows", ROW | {"image": "no\nfile.png"}, ROW | {"id": "a\nb"}, ROW | {"id": "a\nb"})
    said = []
    for name in (str(folder), "no\nsuch task", f"vqav2={tmp_path}/no\nfolder", rows):
        words = ["bench", "llava-shapes/fp16", "--task", name, "--out", str(tmp_path / "out"), "--device", "cpu"]
        assert main.main(words) == 2
        said.append(capsys.readouterr().err)
    assert all(text.count("\n") == 1 for text in said)
    assert "rename" in said[0] and "choose from shapes-vqa" in said[1] and "for the task vqav2" in said[2]
    assert "2 of 3 rows are bad" in said[3]
    with pytest.raises(ValueError, match=r"line 3: it has the same id as line 2: 'a\\nb'; 1 of 4 rows"):
        get_checked_task(write(tmp_path / "rows", ROW, *[ROW | {"id": "a\nb"}] * 2, ROW), None, 0, "error")
