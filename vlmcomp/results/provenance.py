"""Versions, commit and date of a result."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    "torch",
    "transformers",
    "bitsandbytes",
    "torchao",
    "accelerate",
    "nltk",
    "bert-score",
    "rouge-score",
    "numpy",
    "pillow",
)


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions(*more: str) -> dict[str, str]:
    """Python and the packages that results depend on (and ``more``), as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit(repo: Path) -> str:
    """HEAD of ``repo``, ``+dirty`` if code or weights differ from it; empty outside a git checkout."""
    if not (repo / ".git").exists():
        return ""
    try:
        head = _git(repo, "rev-parse", "HEAD")
        return head + ("+dirty" if _git(repo, "status", "--porcelain", "--", "vlmcomp", "assets") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(repo: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", repo, *words], capture_output=True, text=True, check=True).stdout.strip()
