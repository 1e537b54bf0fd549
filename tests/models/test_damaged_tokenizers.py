"""Files of tokenizers and templates that are damaged are one sentence, also where transformers would read them as
something shorter: they decide the tokens of a text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.families import write
from tests.support.layouts import no_tokenizer_json, old_tokenizer, preprocessor_config, vocab_and_merges
from vlmcomp.compression.pipeline import compress
from vlmcomp.recipe import Recipe

NAMES = ("blip2-opt-2.7b", "qwen2-vl-2b", "smolvlm-256m")
TEMPLATE = "{% for message in messages %}{% generation %}{{ message.content }}{% endgeneration %}{% endfor %}"


@pytest.fixture(scope="module", params=NAMES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A model's name, and its folder with vocab.json and merges.txt instead of a tokenizer.json."""
    folder = write(request.param, tmp_path_factory.mktemp("made") / "source")
    for step in (preprocessor_config, old_tokenizer, vocab_and_merges, no_tokenizer_json):
        step(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    compress(Recipe(request.param), device="cpu", source=str(folder))
    return request.param, folder


def _refusal(name: str, folder: Path) -> str:
    with pytest.raises(ValueError) as refused:
        compress(Recipe(name), device="cpu", source=str(folder))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def _cuts(file: Path) -> list[bytes]:
    """What is left of a file of lines: nothing, its first line, half of it in a line and at its end, another file."""
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    half = len(lines) // 2
    return [b"", lines[0], b"".join(lines[:half]), b"".join(lines[:half])[:-3], b"<!DOCTYPE html>\n", b"\xff\xfe" * 9]


def test_merges_that_are_cut_off_are_refused(source: tuple[str, Path], tmp_path: Path) -> None:
    name, original = source
    for number, content in enumerate(_cuts(original / "merges.txt")):
        folder = shutil.copytree(original, tmp_path / str(number))
        (folder / "merges.txt").write_bytes(content)
        assert "merges.txt is " in _refusal(name, folder), content


@pytest.mark.parametrize("damage", ["", "{", "[]", "3", "{}"])
def test_damaged_vocabularies_are_refused(damage: str, source: tuple[str, Path], tmp_path: Path) -> None:
    name, original = source
    folder = shutil.copytree(original, tmp_path / "source")
    (folder / "vocab.json").write_text(damage)
    assert "vocab.json" in _refusal(name, folder)


@pytest.mark.parametrize("missing, other", [("merges.txt", "vocab.json"), ("vocab.json", "merges.txt")])
def test_half_a_tokenizer_is_refused(missing: str, other: str, source: tuple[str, Path], tmp_path: Path) -> None:
    name, original = source
    folder = shutil.copytree(original, tmp_path / "source")
    (folder / missing).unlink()
    assert f"there is no {missing} beside {other}: copy that of the model" in _refusal(name, folder)


def test_templates_that_are_cut_off_are_refused(source: tuple[str, Path], tmp_path: Path) -> None:
    name, original = source
    folder = shutil.copytree(original, tmp_path / "source")
    for content in (b"", TEMPLATE[:40].encode(), b"\xff"):
        (folder / "chat_template.jinja").write_bytes(content)
        assert "chat_template.jinja is " in _refusal(name, folder)
    (folder / "chat_template.jinja").unlink()
    for content in (b"", b'{"chat_temp', b"[]", b"\xff"):
        (folder / "chat_template.json").write_bytes(content)
        assert "chat_template.json " in _refusal(name, folder)


@pytest.mark.parametrize("file", ["special_tokens_map.json", "added_tokens.json", "tokenizer_config.json"])
def test_settings_that_are_no_object_are_refused(file: str, source: tuple[str, Path], tmp_path: Path) -> None:
    name, original = source
    folder = shutil.copytree(original, tmp_path / "source")
    for content in ("", json.dumps({"a": 1})[:4], "[]", "null", "3"):
        (folder / file).write_text(content)
        assert f"{file} " in _refusal(name, folder)
