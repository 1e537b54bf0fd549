"""What a Space runs: the pushed files and the requirements are enough, and the front matter fits every hardware."""

from __future__ import annotations

import ast
import re
import shutil
import sys
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


def _required(file: str) -> dict[str, Requirement]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return {canonicalize_name(r.name): r for r in map(Requirement, filter(None, lines))}


def _modules(distributions: set[str]) -> set[str]:
    """What those packages let one import."""
    return {
        name for name, owners in packages_distributions().items() if distributions & set(map(canonicalize_name, owners))
    }


def _closure(names: set[str]) -> set[str]:
    """``names`` and what they need, of what is installed here."""
    found: set[str] = set()
    while new := names - found:
        found |= new
        for name in new:
            try:
                needs = [Requirement(text) for text in requires(name) or []]
            except PackageNotFoundError:
                continue
            names |= {canonicalize_name(n.name) for n in needs if not n.marker or n.marker.evaluate({"extra": ""})}
    return found


def _dev_modules() -> set[str]:
    return _modules(set(_required("requirements-dev.txt")) - _closure(set(_required("requirements.txt"))))


def test_the_pushed_files_alone_serve_the_app_and_answer(tmp_path: Path) -> None:
    """In an empty folder, without the packages that only tests and the study need, as a Space has it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    space, blocker = tmp_path / "space", tmp_path / "blocker"
    for name in space_module.plan_push().files:
        (space / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, space / name)
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({_dev_modules()!r}))\n")
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


def test_every_import_is_met_by_the_requirements() -> None:
    known = _modules(_closure(set(_required("requirements.txt")))) | set(sys.stdlib_module_names) | {"vlmcomp"}
    known.add("triton")  # comes with a PyTorch for CUDA, and is imported nowhere else
    for path in (p for p in [ROOT / "app.py", *MODULES] if p.parent.name != "study"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= known, path


def test_the_front_matter_fits_every_hardware_and_the_project() -> None:
    facts, needs = metadata_load(ROOT / "README.md"), _required("requirements.txt")
    assert facts["sdk"] == "gradio" and facts["sdk_version"] in needs["gradio"].specifier
    assert facts["python_version"] in ZERO_PYTHON and (ROOT / facts["app_file"]).is_file()
    assert all(version in needs["torch"].specifier for version in ZERO_TORCH)
    assert len(facts["short_description"]) <= 60
    stated = re.search(r'^license = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert facts["license"] == stated.lower() and "Apache License" in (ROOT / "LICENSE").read_text()
