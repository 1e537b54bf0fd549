"""The layers: a package imports only from the layers below its own, imports inside functions and by name included."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = {  # lowest first; the packages and modules of one layer do not know each other
    0: ("recipe", "files", "feedback", "private_ops"),
    1: ("results",),
    2: ("hardware", "hub"),
    3: ("data",),
    4: ("models",),
    5: ("compression", "reporting"),
    6: ("runtime",),
    7: ("evaluation", "serving"),
    8: ("experiments", "training"),
    9: ("app", "api"),
    10: ("cli",),
    11: ("", "__main__"),  # the package itself
}
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}
WITHOUT_TORCH = (
    "recipe",
    "files",
    "results",
    "hardware",
    "hub",
    "data",
    "reporting",
    "models.registry",
    "models.configs",
    "api.results",
)
MODULES = sorted((ROOT / "vlmcomp").rglob("*.py"))
BY_NAME = re.compile(
    r"vlmcomp\.([\w.]+)(?::(\w+))?"
)  # a module, or a function of one, that is imported when it is used
HEAVY = ("torch", "transformers", "bitsandbytes", "torchao", "accelerate")


def name_of(path: Path) -> str:
    """Dotted name without the package: ``data.tasks``."""
    parts = path.relative_to(ROOT / "vlmcomp").with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


def package_of(name: str) -> str:
    return name.partition(".")[0]


def imports_of(path: Path) -> set[str]:
    """Modules of vlmcomp that ``path`` imports, at any depth, as dotted names without the package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            if node.module and package_of(node.module) == "vlmcomp":
                base = node.module.partition(".")[2]
                for alias in node.names:
                    full = f"{base}.{alias.name}".strip(".")
                    found.add(full if full in NAMES else base)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = BY_NAME.fullmatch(node.value)
            found |= {match[1]} & NAMES if match else set()
        elif isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if package_of(a.name) == "vlmcomp"}
    return found


NAMES = {name_of(path) for path in MODULES}


def test_the_root_has_few_modules() -> None:
    assert len(list((ROOT / "vlmcomp").glob("*.py"))) <= 8


def test_every_package_has_a_layer() -> None:
    assert {package_of(name) for name in NAMES} == set(LAYER_OF)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    me = package_of(name_of(path))
    for other in map(package_of, imports_of(path)):
        assert other == me or LAYER_OF[other] < LAYER_OF[me] or (other == "" and me != ""), (
            f"{name_of(path)} (layer {LAYER_OF[me]}) imports {other} (layer {LAYER_OF[other]})"
        )


def test_what_is_imported_by_name_exists() -> None:
    """A string ``vlmcomp.module:function`` names a function of that module."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            value = node.value if isinstance(node, ast.Constant) else None
            match = BY_NAME.fullmatch(value) if isinstance(value, str) else None
            if match and match[2]:
                tree = ast.parse((ROOT / "vlmcomp" / f"{match[1].replace('.', '/')}.py").read_text(encoding="utf-8"))
                assert match[2] in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, f"{path}: {value}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_an_import_inside_a_function_says_why(path: Path) -> None:
    """A comment stands on the line: imports are at the top, where a reader sees what a module needs."""
    text = path.read_text(encoding="utf-8")
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = [node for function in functions for node in ast.walk(function) if isinstance(node, ast.ImportFrom)]
    lines = text.splitlines()
    for node in inside:
        if package_of(node.module or "") == "vlmcomp":
            assert "  # " in lines[node.lineno - 1], f"{name_of(path)}, line {node.lineno}"


def test_no_circle_between_modules() -> None:
    edges = {name_of(path): imports_of(path) & NAMES for path in MODULES}
    done: set[str] = set()

    def visit(name: str, chain: tuple[str, ...]) -> None:
        assert name not in chain, f"a circle: {' -> '.join((*chain[chain.index(name) :], name))}"
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, (*chain, name))
            done.add(name)

    for name in sorted(edges):
        visit(name, ())


def test_no_step_mentions_a_model() -> None:
    for path in MODULES:
        if package_of(name_of(path)) in ("compression", "runtime"):
            code = path.read_text(encoding="utf-8").lower()
            assert not any(word in code for word in ("llava", "paligemma", "blip", "qwen")), path


def _imported_by(code: str) -> subprocess.CompletedProcess:
    check = f"import sys; {code}; sys.exit(' '.join(set({HEAVY!r}) & set(sys.modules)) or 0)"
    return subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_it_imports_without_torch(name: str) -> None:
    inside = sorted(n for n in NAMES if n == name or n.startswith(f"{name}."))
    done = _imported_by("import " + ", ".join(f"vlmcomp.{n}" for n in inside))
    assert done.returncode == 0, done.stderr


def test_the_app_starts_without_torch() -> None:
    done = _imported_by("import app")
    assert done.returncode == 0, done.stderr
