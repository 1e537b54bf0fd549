"""What a Space runs: the pushed files and the requirements are enough, and the front matter fits every hardware."""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from huggingface_hub import metadata_load
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.served import process, served
from tests.test_layers import MODULES, ROOT
from vlmcomp.cli import space as space_module
from vlmcomp.results import store

# hub-docs, spaces-zerogpu: what a Space on ZeroGPU may run on.
ZERO_TORCH, ZERO_PYTHON = ("2.8.0", "2.9.1", "2.10.0", "2.11.0"), ("3.10.13", "3.12.12")


EXTRAS = ("requirements-bench.txt", "requirements-train.txt", "requirements-dev.txt", "requirements-dev-nodeps.txt")


def _required(file: str) -> dict[str, Requirement]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return {canonicalize_name(r.name): r for r in map(Requirement, filter(None, lines))}


def _modules(distributions: set[str]) -> set[str]:
    """What those packages let one import."""
    return {
        name for name, owners in packages_distributions().items() if distributions & set(map(canonicalize_name, owners))
    }


def _closure(required: Iterable[Requirement]) -> set[str]:
    """Names of the required packages and of those that they need, extras included, of what is installed here."""
    found: set[tuple[str, str]] = set()
    new = {(canonicalize_name(r.name), extra) for r in required for extra in ("", *r.extras)}
    while new := new - found:
        found |= new
        new = {needed for name, extra in new for needed in _needs(name, extra)}
    return {name for name, _ in found}


def _needs(name: str, extra: str) -> Iterator[tuple[str, str]]:
    try:
        needs = [Requirement(text) for text in requires(name) or []]
    except PackageNotFoundError:
        return
    for need in needs:
        if not need.marker or need.marker.evaluate({"extra": extra}):
            yield from ((canonicalize_name(need.name), inner) for inner in ("", *need.extras))


@cache
def _modules_of(*files: str) -> set[str]:
    """What may be imported after those requirements files were installed."""
    return _modules(_closure(r for file in files for r in _required(file).values()))


def test_the_pushed_files_alone_serve_the_app_and_answer(tmp_path: Path) -> None:
    """In an empty folder, without the packages that only benchmarks, training and tests need, as a Space has it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    space, blocker = tmp_path / "space", tmp_path / "blocker"
    for name in space_module.plan_push().files:
        (space / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, space / name)
    blocker.mkdir()
    blocked = _modules_of(*EXTRAS) - _modules_of("requirements.txt")
    assert {"evaluate", "matplotlib", "easy_vqa"} <= blocked
    (blocker / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({blocked!r}))\n")
    env = {"PYTHONPATH": str(blocker), "GRADIO_SERVER_NAME": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    log = tmp_path / "log"
    with process(space, log, **env) as (url, app):
        assert b"vlmcomp" in served(url, app), log.read_text()
        client = Client(url, verbose=False)
        assert len(client.predict(api_name="/results")) == len(store.load_all()) > 0
        image, recipes = handle_file(space / "assets/examples/easy-vqa-6.png"), ["llava-shapes/int8"]
        question = "What color is the shape? Answer with one word."
        [card] = client.predict(image, question, recipes, api_name="/compare")
        assert card["answer"] == "blue", (card, log.read_text())


# Modules that import packages of an extra, and the extra's file; every other module needs requirements.txt alone.
OF_AN_EXTRA = {
    "vlmcomp/data/easy_vqa.py": "requirements-bench.txt",
    "vlmcomp/evaluation/evaluate_module.py": "requirements-bench.txt",
    "vlmcomp/evaluation/text_metrics.py": "requirements-bench.txt",
    "vlmcomp/experiments/optipfair_baseline.py": "requirements-dev.txt",
    "vlmcomp/reporting/figures_matplotlib.py": "requirements-bench.txt",
}
# triton comes with a PyTorch for CUDA, and is imported nowhere else; pillow_heif may be missing; resvg_py is needed
# where sprite sheets are made anew
ALWAYS = {*sys.stdlib_module_names, "vlmcomp", "triton", "pillow_heif", "resvg_py"}


@pytest.mark.parametrize("path", [ROOT / "app.py", *MODULES], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_import_is_met_by_the_requirements(path: Path) -> None:
    extra = OF_AN_EXTRA.get(path.relative_to(ROOT).as_posix())
    known = ALWAYS | _modules_of("requirements.txt", *filter(None, [extra]))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert {name.partition(".")[0] for name in names} <= known


def test_every_extra_is_installed_by_its_own_file() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = dict(re.findall(r'^optional-dependencies\.(\w+) = .*(requirements-\w+\.txt)"\] }$', text, re.M))
    assert extras == {name: f"requirements-{name}.txt" for name in ("bench", "train", "dev")}
    assert set(_required("requirements-train.txt")) <= set(_required("requirements-bench.txt"))


def test_the_front_matter_fits_every_hardware_and_the_project() -> None:
    facts, needs = metadata_load(ROOT / "README.md"), _required("requirements.txt")
    assert facts["sdk"] == "gradio" and facts["sdk_version"] in needs["gradio"].specifier
    assert facts["python_version"] in ZERO_PYTHON and (ROOT / facts["app_file"]).is_file()
    assert all(version in needs["torch"].specifier for version in ZERO_TORCH)
    assert len(facts["short_description"]) <= 60
    stated = re.search(r'^license = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert facts["license"] == stated.lower() and "Apache License" in (ROOT / "LICENSE").read_text()
