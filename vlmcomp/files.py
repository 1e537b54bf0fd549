"""Files: atomic writes, digests, and the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

CACHE_DIR_ENV = "VLMCOMP_CACHE"  # environment variable that overrides the cache folder
_BLOCK_BYTES = 1 << 22
_NUMBERS = re.compile(r"\[\s+([-+.\deE,\s]+?)\s+\]")


def cache_dir() -> Path:
    """The user's cache folder: ``$VLMCOMP_CACHE``, else vlmcomp in ``$XDG_CACHE_HOME`` or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE_DIR_ENV) or Path(base) / "vlmcomp").expanduser()


def check_writable(folder: Path) -> None:
    """Check before long work that files can be written below ``folder``, which is created if necessary.

    Raises:
        OSError: they cannot; the message names the folder and the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error.strerror}): give another folder") from None


def sha256_of_files(files: Iterable[Path], on_bytes: Callable[[int], None] | None = None) -> str:
    """Hex SHA-256 over the contents of ``files``, one after the other.

    Args:
        files: in the order in which they are hashed.
        on_bytes: called with the number of bytes of each block read.
    """
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
                if on_bytes is not None:
                    on_bytes(len(block))
    return digest.hexdigest()


def short_digest(files: Iterable[Path]) -> str:
    """``sha256:`` and the first 16 hex digits over the contents of ``files``: how reports identify local files."""
    return f"sha256:{sha256_of_files(files)[:16]}"


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write ``data`` atomically for people and diffs: indented, floats to six significant digits."""
    text = json.dumps(_round_floats(data), indent=2, ensure_ascii=False, allow_nan=False)
    text = _NUMBERS.sub(lambda m: "[" + " ".join(m[1].split()) + "]", text)  # a list of numbers on one line
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f"{text}\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically: a reader finds the old file or the new one."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` atomically; an interrupted write leaves it unchanged."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide published results from others
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _round_floats(value: Any) -> Any:
    """Floats to six significant digits: more is noise, and makes every diff unreadable."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _round_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_round_floats(item) for item in value]
    return value
