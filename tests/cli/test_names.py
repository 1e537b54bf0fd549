"""Names that people write: of models on the Hub, misspelled ones, options of other subcommands and earlier ones."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vlmcomp.cli.main import main, make_parser
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.results import store

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = [spec for spec in registry.MODELS.values() if not spec.bundled]


def _refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("spec", PUBLISHED, ids=lambda spec: spec.name)
def test_the_hub_id_of_a_model_is_its_name(spec: registry.ModelSpec) -> None:
    for source in (spec.source, spec.source.lower()):
        assert registry.parse_recipe(f"{source}/{spec.mlp}30+int4") == Recipe.parse(f"{spec.name}/{spec.mlp}30+int4")
        words = ["recommend", "--memory", "8GB", "--model", source]
        assert make_parser()[0].parse_args(words).model == spec.name
        with pytest.raises(ValueError, match=f"for example {spec.name}/int8"):
            registry.parse_recipe(source)


def test_other_repositories_are_weights_of_a_family(capsys: pytest.CaptureFixture[str]) -> None:
    for repository, model in (("me/qwen2-vl-2b-mine", "qwen2-vl-2b"), ("me/x", PUBLISHED[0].name)):
        for steps in ("/int4", ""):
            said = _refusal(["compress", f"{repository}{steps}", "--out", "x"], capsys)
            assert f"such as {model}/{steps[1:] or 'int8'} --source {repository}" in said
        with pytest.raises(ValueError, match=f"source= {repository}"):
            registry.parse_recipe(repository, "source=")


@pytest.mark.parametrize("name", registry.MODELS)
def test_a_misspelled_model_is_recognized(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = name[:2] + name[3:]
    meant = f"did you mean {registry.closest_model(wrong)}?"
    for words in (
        ["compress", f"{wrong}/int8", "--out", "x"],
        ["bench", f"{wrong}/int8"],
        ["bench", "--all", "--model", wrong],
        ["recommend", "--memory", "8GB", "--model", wrong],
        ["doctor", "--model", wrong],
        ["app", "--model", wrong],
    ):
        assert meant in _refusal(words, capsys), words


def test_an_unknown_option_is_answered_with_the_subcommands_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in (
        (["bench", "llava-shapes/int8", "--smaples", "4"], "--smaples, did you mean --samples? (see vlmcomp bench"),
        (["models", "--zzz"], "--zzz (see vlmcomp models --help)"),
        (["models", "llava-shapes"], "unknown argument llava-shapes (see vlmcomp models --help)"),
    ):
        assert says in _refusal(words, capsys)


def test_the_results_folder_has_one_name_and_keeps_its_earlier_ones() -> None:
    parser, added = make_parser()
    for command, words, old in (
        ("bench", ["llava-shapes/int8"], "--out"),
        ("record", [], "--out"),
        ("report", [], "--root"),
        ("compare", ["llava-shapes/int8", "llava-shapes/fp16"], "--root"),
        ("recommend", ["--memory", "8GB"], "--root"),
    ):
        assert parser.parse_args([command, *words]).results == str(store.PRECOMPUTED)
        for name in ("--results", old):
            assert parser.parse_args([command, *words, name, "x"]).results == "x"
        text = added.parsers[command].format_help()
        assert "--results DIR" in text and f"{old} DIR" not in text


def test_the_app_is_started_by_one_command_under_two_names(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        said = _refusal(["app", "--port", str(port)], capsys)
        assert f"port {port} is in use" in said
        script = [sys.executable, "app.py", "--port", str(port)]
        done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
    assert "65535" in _refusal(["app", "--port", "70000"], capsys)
    assert "give another --host" in _refusal(["app", "--host", "192.0.2.1"], capsys)
