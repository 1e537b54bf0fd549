"""Reports on disk: written whole, read back equal, and one bad file never costs the others."""

from __future__ import annotations

import codecs
import gzip
import json
import logging
import os
from pathlib import Path

import pytest

from tests.support import made_reports as made
from vlmcomp.recipe import Recipe
from vlmcomp.results import store
from vlmcomp.results.journal import PredictionLog


def test_a_report_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    report, rows = made.report("llava-shapes/heads25+glu30+int4"), made.rows("red", "größer")
    file = store.save(report, rows, tmp_path)
    assert file == tmp_path / "cpu-test-2c" / "llava-shapes" / "heads25+glu30+int4.json"
    again = store.load(file)
    assert again.latency.end_to_end_ms == [100.0, 101.0, 0.333333]  # six significant digits
    assert again.recipe == report.recipe and again.hardware == report.hardware and again.pruned == report.pruned
    assert store.load_predictions(again, tmp_path) == rows
    assert store.load_all(tmp_path) == [again]


def test_storing_what_was_loaded_changes_no_byte(tmp_path: Path) -> None:
    store.save(made.report(), made.rows("red"), tmp_path)
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    report = store.load_all(tmp_path)[0]
    store.save(report, store.load_predictions(report, tmp_path), tmp_path)
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before
    assert len(before) == 2


def test_an_editors_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    file = store.save(made.report(), made.rows("red"), tmp_path)
    report = store.load(file)
    file.write_bytes(codecs.BOM_UTF8 + file.read_bytes().replace(b"\n", b"\r\n"))
    assert store.load(file) == report


def test_the_file_is_for_people_too(tmp_path: Path) -> None:
    text = store.save(made.report(), None, tmp_path).read_text()
    assert '"ttft_ms": [10.0, 11.0, 12.0]' in text
    assert text.startswith('{\n  "recipe": "llava-shapes/fp16",\n')
    assert "0.712346" in text and "0.7123456" not in text


def test_an_interrupted_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = store.save(made.report(exact=0.5), made.rows("red"), tmp_path)
    before = file.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.save(made.report(exact=0.9), made.rows("blue"), tmp_path)
    assert file.read_bytes() == before
    assert sorted(f.name for f in file.parent.iterdir()) == ["fp16.json", "fp16.rows.json.gz"]


def test_rows_of_an_older_report_do_not_outlive_it(tmp_path: Path) -> None:
    store.save(made.report(), made.rows("red"), tmp_path)
    store.save(made.failed("llava-shapes/fp16"), None, tmp_path)
    report = store.load_all(tmp_path)[0]
    assert report.error == "it broke" and store.load_predictions(report, tmp_path) == {}


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"schema": 0}',
        b'{"schema": 1}',
        b'{"schema": 1, "hardware": 3}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_report_costs_one_warning(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    store.save(made.report(), None, tmp_path)
    bad = store.save(made.report("llava-shapes/int8"), None, tmp_path)
    bad.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert [r.recipe for r in store.load_all(tmp_path)] == ["llava-shapes/fp16"]
    assert len(caplog.messages) == 1 and str(bad) in caplog.messages[0] and "\n" not in caplog.messages[0]


@pytest.mark.parametrize("field", ["quality", "pruned", "latency", "size", "recipe"])
def test_a_field_of_the_wrong_kind_is_damage(tmp_path: Path, field: str) -> None:
    file = store.save(made.report(), None, tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: ["x"]}))
    with pytest.raises(ValueError, match="not a report"):
        store.load(file)


def test_a_report_in_another_recipes_place_is_refused(tmp_path: Path) -> None:
    file = store.save(made.report(), None, tmp_path)
    with pytest.raises(ValueError, match="holds llava-shapes/fp16"):
        store.load(file.rename(file.with_name("int8.json")))


def test_damaged_rows_are_no_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store.save(made.report(), made.rows("red"), tmp_path)
    file = next(tmp_path.rglob("*.gz"))
    for damage in (b"", b"no gzip", file.read_bytes()[:20]):
        file.write_bytes(damage)
        assert store.load_predictions(made.report(), tmp_path) == {}
    assert len(caplog.messages) == 3


@pytest.mark.parametrize("slug", ["", "..", "a/b", "A100", "../up"])
def test_a_hardware_name_is_one_folder(slug: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a hardware name"):
        store.report_path(slug, Recipe("llava-shapes"), tmp_path)


def test_nothing_stored_is_no_error(tmp_path: Path) -> None:
    assert store.load_all(tmp_path / "nowhere") == []


_GOOD = made.rows("red")["shapes-vqa"][0]


@pytest.mark.parametrize(
    "data",
    [
        [],
        None,
        "text",
        5,
        {"shapes-vqa": None},
        {"shapes-vqa": {}},
        {"shapes-vqa": "text"},
        {"shapes-vqa": [[]]},
        {"shapes-vqa": ["text"]},
        {"shapes-vqa": [None]},
        {"shapes-vqa": [{}]},
        *({"shapes-vqa": [_GOOD, {k: v for k, v in _GOOD.items() if k != name}]} for name in _GOOD),
        *({"shapes-vqa": [_GOOD | {name: value}]} for name in _GOOD for value in (None, 5, [], {})),
        *({"shapes-vqa": [_GOOD | {"references": value}]} for value in (None, 5, "red", [], [5], {"a": 1})),
    ],
    ids=lambda data: json.dumps(data)[-60:],
)
def test_rows_of_another_shape_are_no_rows(data: object, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store.save(made.report(), made.rows("red"), tmp_path)
    next(tmp_path.rglob("*.gz")).write_bytes(gzip.compress(json.dumps(data).encode()))
    assert store.load_predictions(made.report(), tmp_path) == {}
    assert len(caplog.messages) == 1 and "\n" not in caplog.messages[0]


def test_rows_with_any_damage_are_no_rows_or_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store.save(made.report(), made.rows("red"), tmp_path)
    file = next(tmp_path.rglob("*.gz"))
    whole = file.read_bytes()
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        assert store.load_predictions(made.report(), tmp_path) in ({}, made.rows("red"))
    file.write_bytes(gzip.compress(b"[" * 100_000))
    assert store.load_predictions(made.report(), tmp_path) == {}


@pytest.mark.parametrize("line", ["5", "{}", '"text"', "null", "[5]", "[[]]", "[" * 100_000])
def test_a_log_of_another_shape_ends_before_it(line: str, tmp_path: Path) -> None:
    batch = made.rows("red")["shapes-vqa"]
    log = PredictionLog(tmp_path / "log", {"a": 1})
    log.append(batch)
    with log.file.open("a") as file:
        file.write(f"{line}\n{json.dumps(batch)}\n")
    assert PredictionLog(tmp_path / "log", {"a": 1}).batches == [batch]
