"""Built variants on disk: keyed by everything that a build depends on, verified before use, bounded in size."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from vlmcomp import files
from vlmcomp.feedback import Progress
from vlmcomp.recipe import Recipe

T = TypeVar("T")
ENV_CACHE_GB = "VLMCOMP_CACHE_GB"  # limit of the cache in 10^9 bytes
_DEFAULT_GB = 40.0
_ENTRY_FILE = "entry.json"
_MODEL_DIR = "model"
_PARTIAL_PREFIX = ".half-"
_DISCARDED_PREFIX = ".gone-"
_LOCK_TIMEOUT = 60.0  # seconds to wait for another process that writes
# Part of every key. Raise it whenever a change of code gives a build other weights or a checkpoint another layout:
# every cached variant is then built anew. Comments, names and files may change without it.
BUILD_VERSION = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheKey:
    """A recipe and everything else that its build depends on; equal digests mean equal weights."""

    recipe: Recipe
    inputs: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of recipe and inputs, as hex."""
        return hashlib.sha256(json.dumps([str(self.recipe), self.inputs], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class VariantCache:
    """Checkpoints below ``root``, of at most ``limit_bytes`` together; the least recently used are evicted first.

    An entry appears whole or not at all. A damaged entry is deleted when it is found. A failure of the disk is no
    error here: it is logged as a warning, and the variant is built.
    """

    root: Path
    limit_bytes: int

    def get(self, key: CacheKey, load: Callable[[Path], T], progress: Progress) -> T | None:
        """The variant of ``key``; None if there is no intact entry.

        Args:
            key: what is wanted.
            load: reads the variant from its folder; raises ``OSError`` or ``ValueError`` if it is damaged.
            progress: called with what is being done and the fraction done.
        """
        entry = self._entry(key)
        if not entry.is_dir():
            return None
        try:
            _verify(entry, key, lambda fraction: progress("checking the cached variant", 0.5 * fraction))
            progress("loading the cached variant", 0.5)
            variant = load(entry / _MODEL_DIR)
        except (OSError, ValueError) as error:
            _log.warning("the cached %s cannot be used and is built again: %s", key.recipe, error)
            _discard(entry)
            return None
        with contextlib.suppress(OSError):
            os.utime(entry / _ENTRY_FILE)  # the order of eviction
        progress("ready", 1.0)
        return variant

    def has(self, key: CacheKey) -> bool:
        """Whether there is an entry of ``key``, which may be damaged."""
        return self.limit_bytes > 0 and self._entry(key).is_dir()

    def may_have(self, recipe: Recipe) -> bool:
        """Whether there is an entry of ``recipe``, perhaps of other weights or versions: needs no key."""
        return self.limit_bytes > 0 and any(self.root.glob(f"{recipe.slug}--*"))

    def put(self, key: CacheKey, save: Callable[[Path], object], progress: Progress) -> bool:
        """Store a variant if it fits. Returns whether it is stored.

        Args:
            key: what it was built from.
            save: writes it to a new folder.
            progress: called with what is being done and the fraction done.
        """
        progress("caching the variant for the next time", 0.95)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / ".lock", timeout=_LOCK_TIMEOUT):
                self._delete_temporary()
                self._write(key, save)
        except (OSError, Timeout, ValueError) as error:
            _log.warning("%s is not cached in %s: %s", key.recipe, self.root, error)
        progress("ready", 1.0)
        return self.has(key)

    def remove(self, key: CacheKey) -> None:
        """Delete the entry of ``key``, if there is one."""
        if self.has(key):
            _discard(self._entry(key))

    def remove_leftovers(self) -> None:
        """Delete what killed processes left behind, unless another process is writing."""
        if self.root.is_dir():
            with contextlib.suppress(OSError, Timeout), FileLock(self.root / ".lock", timeout=0):
                self._delete_temporary()

    def entries(self) -> list[tuple[Path, int]]:
        """All entries and their bytes, the least recently used first."""
        entries = []
        for file in self.root.glob(f"*/{_ENTRY_FILE}"):
            with contextlib.suppress(OSError):  # another process may be evicting it
                entries.append((file.stat().st_mtime_ns, file.parent, _bytes(file.parent)))
        return [(entry, size) for _, entry, size in sorted(entries) if not entry.name.startswith(".")]

    def _entry(self, key: CacheKey) -> Path:
        return self.root / f"{key.recipe.slug}--{key.digest[:16]}"

    def _write(self, key: CacheKey, save: Callable[[Path], object]) -> None:
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL_PREFIX, dir=self.root))
        try:
            save(partial / _MODEL_DIR)
            facts = {
                "recipe": str(key.recipe),
                "key": key.digest,
                "facts": key.inputs,
                "files": _digests(partial / _MODEL_DIR),
            }
            (partial / _ENTRY_FILE).write_text(json.dumps(facts, indent=2) + "\n")
            if self._make_room(_bytes(partial), self._entry(key)):
                partial.rename(self._entry(key))
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _make_room(self, needed: int, entry: Path) -> bool:
        """Evict entries until ``needed`` bytes fit. Returns whether they can."""
        _discard(entry)
        entries = self.entries()
        if needed > self.limit_bytes:
            _log.warning(
                "%s exceeds the cache's limit of %.3g GB and is not cached", entry.name, self.limit_bytes / 1e9
            )
            return False
        while entries and sum(size for _, size in entries) + needed > self.limit_bytes:
            oldest, _ = entries.pop(0)
            _discard(oldest)
        return True

    def _delete_temporary(self) -> None:
        """Delete what killed processes left behind. The caller holds the lock of all writers, so no process uses it."""
        for prefix in (_PARTIAL_PREFIX, _DISCARDED_PREFIX):
            for folder in self.root.glob(f"{prefix}*"):
                shutil.rmtree(folder, ignore_errors=True)


def default_cache() -> VariantCache:
    """The cache of this user, in ``files.cache_dir()``; one that caches nothing, with a warning, where there is none.

    Its limit is ``$VLMCOMP_CACHE_GB`` (default 40; 0 caches nothing), but at most half of the free disk space.

    Raises:
        ValueError: the size is not a number.
    """
    try:
        limit = float(os.environ.get(ENV_CACHE_GB) or _DEFAULT_GB) * 1e9
    except ValueError:
        raise ValueError(
            f"{ENV_CACHE_GB} is '{os.environ[ENV_CACHE_GB]}': give a number of GB, 0 for no cache"
        ) from None
    try:
        root = files.cache_dir()
        available = files.free_bytes(root) + sum(size for _, size in VariantCache(root, 0).entries())
    except OSError as error:
        _log.warning("no variant is cached: %s", error)
        return VariantCache(Path(), 0)
    cache = VariantCache(root, int(min(limit, available / 2)))
    cache.remove_leftovers()
    return cache


def _verify(entry: Path, key: CacheKey, report_fraction: Callable[[float], None]) -> None:
    """Raises ``OSError`` or ``ValueError`` unless ``entry`` is, byte for byte, what was written for ``key``."""
    facts = json.loads((entry / _ENTRY_FILE).read_text())
    if not isinstance(facts, dict) or facts.get("key") != key.digest:
        raise ValueError("it belongs to another key")
    if facts.get("files") != _digests(entry / _MODEL_DIR, report_fraction):
        raise ValueError("its files have changed")


def _discard(entry: Path) -> None:
    """Delete an entry, which disappears in one step; a process that has its files open can still read them."""
    with contextlib.suppress(OSError):
        trash = Path(tempfile.mkdtemp(prefix=_DISCARDED_PREFIX, dir=entry.parent))
        with contextlib.suppress(OSError):
            entry.rename(trash / entry.name)
        shutil.rmtree(trash, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in _files(folder))


def _digests(folder: Path, report_fraction: Callable[[float], None] = lambda fraction: None) -> dict[str, str]:
    """SHA-256 of every file by its path."""
    total = _bytes(folder) or 1
    done = 0

    def count(read: int) -> None:
        nonlocal done
        done += read
        report_fraction(min(1.0, done / total))

    paths = _files(folder)
    return {path.relative_to(folder).as_posix(): files.sha256_of_files([path], count) for path in paths}
