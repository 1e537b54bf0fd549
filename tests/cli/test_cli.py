"""The command line: every subcommand on real parts, and one sentence for bad input."""

from __future__ import annotations

import random
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import made_reports as made
from vlmcomp.cli.main import EARLIER_NAMES, main, make_parser
from vlmcomp.data.scenes import render_scene, sample_scene
from vlmcomp.evaluation import extras
from vlmcomp.models import registry
from vlmcomp.results import store

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    render_scene(sample_scene(random.Random(1))).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


BAD = {
    "no command": ([], "COMMAND"),
    "unknown command": (["squash"], "squash"),
    "recipe": (["compress", "llava-shapes/nf4", "--out", "x"], "did you mean llava-shapes/int4"),
    "model": (["compress", "gpt-4/int8", "--out", "x"], "unknown model 'gpt-4'"),
    "step": (["compress", "llava-shapes/ffn30+int8", "--out", "x"], "use glu30"),
    "no out": (["compress", "llava-shapes/glu30+int8", "--answers", "self"], "give a folder with --out"),
    "out in use": (["compress", "llava-shapes/int8", "--out", "."], "not an empty folder"),
    "no source": (["compress", "llava-shapes/int8", "--out", "x", "--source", "./none"], "cannot be loaded"),
    "device": (["compress", "llava-shapes/int8", "--out", "x", "--device", "gpu"], "use cpu, cuda or cuda:N"),
    "no such gpu": (["compress", "llava-shapes/int8", "--out", "x", "--device", "cuda:99"], "no CUDA GPU 99"),
    "nothing to calibrate": (
        ["compress", "llava-shapes/int8", "--out", "x", "--calibration-data", "y"],
        "prunes nothing: remove --calibration-data",
    ),
    "no image": (["ask", "llava-shapes/int8", "--image", "none.png", "--question", "?"], "no image file none.png"),
    "no question": (["ask", "llava-shapes/int8", "--image", "scene.png", "--question", " "], "no question"),
    "not an image": (["ask", "llava-shapes/int8", "--image", "notes.txt", "--question", "?"], "cannot be read"),
    "tokens": (
        ["ask", "llava-shapes/int8", "--image", "scene.png", "--question", "?", "--max-new-tokens", "0"],
        "1 to",
    ),
    "not a number": (["ask", "x/int8", "--image", "a", "--question", "?", "--max-new-tokens", "many"], "invalid int"),
    "not a checkpoint": (["ask", ".", "--image", "scene.png", "--question", "?"], "no recipe.json"),
    "nothing to bench": (["bench"], "--all"),
    "both": (["bench", "llava-shapes/int8", "--all"], "--all"),
    "task": (["bench", "llava-shapes/int8", "--task", "vqa"], "unknown task 'vqa'"),
    "prompt without question": (
        ["compress", "llava-shapes/int8", "--out", "x", "--prompt-template", "USER: <image>"],
        "has {question} once",
    ),
    "prompt of a folder": (
        ["ask", ".", "--image", "scene.png", "--question", "a?", "--prompt-template", "<image>{question}"],
        "remove --prompt-template",
    ),
    "samples": (["bench", "llava-shapes/int8", "--samples", "-1"], "at least one"),
    "all of nothing": (["bench", "--all", "--model", "gpt-4"], "unknown model"),
    "no reports": (["report", "--root", "none"], "no reports in none"),
    "train what": (["train", "gpt-4"], "cannot be trained"),
    "train from hub": (["train", "llava-1.5-7b"], "cannot be trained"),
}


@pytest.mark.parametrize(("words", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence_and_code_2(
    words: list[str], says: str, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    assert main(words) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.endswith(" ...")]
    assert len(lines) == 1 and lines[0].startswith("vlmcomp: ") and says in lines[0], err
    assert out == "" and not (tmp_path / "x").exists()


def test_models_are_all_listed(capsys: pytest.CaptureFixture) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    for model in registry.MODELS.values():
        assert model.name in out and model.license in out and model.mlp in out


def _subcommands() -> list[str]:
    return list(make_parser()[1].parsers)


@pytest.mark.parametrize("name", _subcommands())
def test_help_shows_one_example_whose_arguments_parse(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    (example,) = capsys.readouterr().out.partition("example:")[2].strip().splitlines()
    program, *words = shlex.split(example)
    args = make_parser()[0].parse_args(words)
    assert program == "vlmcomp" and words[0] == name and callable(args.run)


@pytest.mark.parametrize("words", [[], *([name] for name in _subcommands())])
def test_help_shows_no_earlier_spelling(words: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    options = capsys.readouterr().out.replace(",", " ").split()
    earlier = {"--calibration", "--loss", "--for", "--encoder", "--retime", "--readme", *EARLIER_NAMES}
    assert not earlier & set(options) - {"build"}  # a word of the descriptions too


@pytest.mark.parametrize(
    ("earlier", "now"),
    [
        (
            ["compress", "llava-shapes/glu30+int8", "--out", "x", "--calibration", "f"],
            ["compress", "llava-shapes/glu30+int8", "--out", "x", "--calibration-data", "f"],
        ),
        (["bench", "--all", "--retime"], ["bench", "--all", "--latency-only"]),
        (["bench", "--all", "--encoder", "minilm"], ["bench", "--all", "--bertscore-model", "minilm"]),
        (["report", "--rescore", "--encoder", "minilm"], ["report", "--rescore", "--bertscore-model", "minilm"]),
        (
            ["recommend", "--memory", "8GB", "--loss", "2", "--for", "speed"],
            ["recommend", "--memory", "8GB", "--max-accuracy-drop", "2", "--optimize-for", "speed"],
        ),
    ],
)
def test_earlier_spellings_of_options_mean_the_same(earlier: list[str], now: list[str]) -> None:
    assert make_parser()[0].parse_args(earlier) == make_parser()[0].parse_args(now)


@pytest.mark.parametrize(("earlier", "now"), EARLIER_NAMES.items())
def test_earlier_names_of_subcommands_mean_the_same(earlier: str, now: str, capsys: pytest.CaptureFixture) -> None:
    for name in (earlier, now):
        with pytest.raises(SystemExit):
            main([name, "--help"])
    out = capsys.readouterr().out
    assert out.count(f"usage: vlmcomp {now}") == 2


@pytest.mark.parametrize(
    ("task", "hidden"),
    [
        ("shapes-vqa", "bert_score"),
        ("shapes-vqa", "nltk"),
        ("easy-vqa", "easy_vqa"),
        ("vqav2", "datasets"),
        ("gqa=copy", "datasets"),
    ],
)
def test_bench_names_a_missing_package_before_any_work(
    task: str, hidden: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, hidden, None)
    assert main(["bench", "llava-shapes/int8", "--task", task, "--out", "results", "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"vlmcomp bench needs {hidden}: pip install" in err
    assert f"pip install -r requirements{'' if hidden == 'datasets' else '-bench'}.txt" in err
    assert not (tmp_path / "results").exists()


def test_packages_that_a_subcommand_does_not_need_are_not_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bert_score", None)
    extras.require(["nltk"], "this")
    with pytest.raises(ValueError, match="this needs bert_score"):
        extras.require(["nltk", "bert_score"], "this")


@pytest.mark.usefixtures("few")
def test_compress_lists_every_part_and_ask_answers_from_it(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["compress", "llava-shapes/heads25+int8", "--out", "small", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "kept 6 of 8 query heads" in out and "is in small" in out
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert lines["decoder attention"].endswith("heads25, int8") and lines["decoder MLP"].endswith("int8")
    for part in ("vision tower", "projector", "embeddings", "lm_head"):
        assert lines[part].endswith("unchanged")
    assert (tmp_path / "small" / "recipe.json").exists()

    question = ["--image", str(picture), "--question", "How many objects are there?", "--device", "cpu"]
    assert main(["ask", "small", *question]) == 0
    out, err = capsys.readouterr()
    assert out.strip() and len(out.splitlines()) == 1 and "tokens/s" in err
    assert main(["ask", "llava-shapes/heads25+int8", *question]) == 0
    assert capsys.readouterr().out == out  # the saved model answers like the one built again

    assert main(["compress", "llava-shapes/int8", "--out", "small"]) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_bench_writes_reports_and_report_shows_them(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    command = ["bench", "llava-shapes/fp16", "--task", "shapes-vqa", "--samples", "4", "--out", "results"]
    command += ["--bertscore-model", "minilm", "--device", "cpu"]
    assert main(command) == 0
    assert "1 measured, 0 failed" in capsys.readouterr().out
    (report,) = store.load_all(tmp_path / "results")
    assert list(report.quality) == ["shapes-vqa"] and report.quality["shapes-vqa"].samples == 4
    assert main(command) == 0
    assert "(reused)" in capsys.readouterr().out
    assert main(["report", "--root", "results"]) == 0
    assert "`llava-shapes/fp16`" in capsys.readouterr().out


def test_a_failed_recipe_is_code_1(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    command = ["bench", "llava-shapes/int8", "--source", "./none", "--out", "results", "--device", "cpu"]
    assert main(command) == 1
    assert "0 measured, 1 failed" in capsys.readouterr().out
    assert "cannot be loaded" in store.load_all(tmp_path / "results")[0].error


def test_report_rewrites_the_readme_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for recipe in ("llava-shapes/fp16", "llava-shapes/int8"):
        store.save(made.report(recipe), made.rows("red"), tmp_path / "results")
    readme = tmp_path / "README.md"
    readme.write_text(f"# Hä\n\n{BEGIN}\n{END}\n\ntail\n", encoding="utf-8")
    command = ["report", "--root", "results", "--readme", "README.md"]
    assert main(command) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("# Hä\n") and text.endswith("tail\n") and "| `llava-shapes/int8` |" in text
    assert main(command) == 0
    assert readme.read_text(encoding="utf-8") == text
    assert main(["report", "--root", "none", "--readme", "README.md"]) == 2
    assert readme.read_text(encoding="utf-8") == text  # results are never replaced by none
    capsys.readouterr()

    readme.write_text("no markers")
    assert main(command) == 2
    assert "README.md" in capsys.readouterr().err and readme.read_text() == "no markers"


def _documents(tmp_path: Path) -> tuple[Path, Path]:
    """README.md with the block of results, and docs/speed.md with a block of several lines around it."""
    for recipe in ("llava-shapes/fp16", "llava-shapes/int8"):
        store.save(made.report(recipe), made.rows("red"), tmp_path / "results")
    readme, page = tmp_path / "README.md", tmp_path / "docs/speed.md"
    page.parent.mkdir()
    readme.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n", encoding="utf-8")
    page.write_text("first\n\n<!-- matrix:begin -->\none\n\ntwo\n<!-- matrix:end -->\n\nlast\n", encoding="utf-8")
    return readme, page


def test_report_updates_every_block_of_readme_and_docs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    readme, page = _documents(tmp_path)
    (tmp_path / "docs/plain.md").write_text("no markers")
    assert main(["report", "--root", "results", "--docs"]) == 0
    out = capsys.readouterr().out
    assert "README.md" in out and "speed.md" in out and "plain.md" not in out
    first = readme.read_text(encoding="utf-8"), page.read_text(encoding="utf-8")
    assert "| `llava-shapes/int8` |" in first[0] and "old" not in first[0]
    assert first[1].startswith("first\n") and first[1].endswith("last\n") and "two" not in first[1]
    assert "|" in first[1]
    assert main(["report", "--root", "results", "--docs", str(tmp_path)]) == 0
    assert (readme.read_text(encoding="utf-8"), page.read_text(encoding="utf-8")) == first


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ("<!-- weather:begin -->\n<!-- weather:end -->", "unknown block 'weather'"),
        ("<!-- matrix:begin -->\nnever closed", "needs the markers"),
        ("<!-- matrix:end --> closed before <!-- matrix:begin -->", "needs the markers"),
    ],
)
def test_one_bad_block_leaves_all_docs_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture, bad: str, sentence: str
) -> None:
    readme, page = _documents(tmp_path)
    page.write_text(bad)
    before = readme.read_text(encoding="utf-8")
    assert main(["report", "--root", "results", "--docs"]) == 2
    err = capsys.readouterr().err
    assert "speed.md" in err and sentence in err and err.count("\n") == 1
    assert readme.read_text(encoding="utf-8") == before and page.read_text() == bad


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    for number in range(1, 90):
        store.save(made.report(f"llava-shapes/glu{number}+fp16"), None, tmp_path)
    shell = f'set -o pipefail; "{sys.executable}" -m vlmcomp report --root "{tmp_path}" | true'
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


def test_nothing_needs_what_windows_lacks() -> None:
    lacking = "import psutil, sys; sys.modules['resource'] = None\n"  # psutil itself does without it there
    measured = (
        "from vlmcomp import hardware\nfrom vlmcomp.evaluation.memory_tracker import MemoryTracker\n"
        "MemoryTracker('cpu').reset()\nprint(hardware.get_hardware('cpu').device)"
    )
    ran = subprocess.run([sys.executable, "-c", lacking + measured], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout == "cpu\n", ran.stderr
