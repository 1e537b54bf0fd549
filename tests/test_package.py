"""What ``pip install .`` installs is enough to run: models, examples and results come with the package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from vlmcomp.models import registry
from vlmcomp.results import store
from vlmcomp.serving.examples import EXAMPLES_DIR

ROOT = Path(__file__).resolve().parent.parent
FACTS = """
import json
from vlmcomp.models import registry
from vlmcomp.results import store
from vlmcomp.serving.examples import EXAMPLES_DIR
folders = [str(registry.ASSETS), str(store.PRECOMPUTED), str(EXAMPLES_DIR)]
print(json.dumps([folders, len(store.load_all())]))
"""


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_bundled_folders_are_installed_inside_the_package(tmp_path: Path) -> None:
    source, installed = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    for name in ("vlmcomp", "assets", "precomputed"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (
        "setup.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        *(p.name for p in ROOT.glob("requirements*.txt")),
    ):
        shutil.copyfile(ROOT / name, source / name)
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(installed)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    for spec in (spec for spec in registry.MODELS.values() if spec.bundled):
        assert _files(installed / "vlmcomp/assets" / spec.source) == _files(Path(spec.name_or_path))
    found = subprocess.run([sys.executable, "-c", FACTS], cwd=installed, check=True, capture_output=True, text=True)
    folders, num_reports = json.loads(found.stdout)
    assert all(folder.startswith(str(installed / "vlmcomp")) for folder in folders)
    assert num_reports == len(store.load_all())
    assert _files(Path(folders[2])) == _files(EXAMPLES_DIR)
