"""Files that are written whole or not at all, and the folder of what is kept for this user."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

PLACE = "VLMCOMP_CACHE"  # environment: the folder of what is kept for the next time


def home() -> Path:
    """What is kept for this user: ``$VLMCOMP_CACHE``, else vlmcomp in ``$XDG_CACHE_HOME`` or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(PLACE) or Path(base) / "vlmcomp").expanduser()


_NUMBERS = re.compile(r"\[\s+([-+.\deE,\s]+?)\s+\]")


def probe(root: Path) -> None:
    """Find out before long work, not after it, whether files can be written below ``root``.

    Raises:
        OSError: they cannot, with the folder and the reason.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise OSError(f"{root} cannot be written ({error.strerror}): give another folder") from None


def write_json(target: Path, data: dict[str, Any]) -> None:
    """Write ``data`` for people and diffs: indented, floats to six digits, in one step."""
    text = json.dumps(_rounded(data), indent=2, ensure_ascii=False, allow_nan=False)
    text = _NUMBERS.sub(lambda m: "[" + " ".join(m[1].split()) + "]", text)  # a list of numbers on one line
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, f"{text}\n")


def write_text(target: Path, text: str) -> None:
    """Write ``text`` in one step, so that a reader finds the old file or the new one."""
    write_bytes(target, text.encode())


def _rounded(value: Any) -> Any:
    """Floats to six significant digits: more is noise, and makes every diff unreadable."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return value


def write_bytes(target: Path, data: bytes) -> None:
    """Replace ``target`` in one step; what is interrupted leaves it as it was."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's 0600 would hide published results from others
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
