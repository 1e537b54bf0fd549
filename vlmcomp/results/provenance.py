"""Where a result comes from: package versions, git commit and date."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__version__ = "0.1.0"  # of vlmcomp
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


def utc_timestamp() -> str:
    """The current time in UTC, to the second, in ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def package_versions(*more: str) -> dict[str, str]:
    """Versions of Python and of the installed packages that results depend on, and of ``more`` packages."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit(repo: Path) -> str:
    """HEAD of ``repo``, with ``+dirty`` if code or weights differ from it; empty outside a git checkout."""
    if not (repo / ".git").exists():
        return ""
    try:
        head = _git(repo, "rev-parse", "HEAD")
        return head + ("+dirty" if _git(repo, "status", "--porcelain", "--", "vlmcomp", "assets") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(repo: Path, *args: str) -> str:
    return subprocess.run(["git", "-C", repo, *args], capture_output=True, text=True, check=True).stdout.strip()
