"""Built variants on disk: found by what made them, checked before use, and bounded in size."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache as once
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from vlmcomp import files
from vlmcomp.feedback import Progress
from vlmcomp.models import download, registry
from vlmcomp.recipe import TORCHAO, Recipe
from vlmcomp.results import provenance

if TYPE_CHECKING:
    from vlmcomp.models.vlm import VLM


LIMIT = "VLMCOMP_CACHE_GB"  # environment: the most that it may hold (10^9)
_USUAL_GB = 40.0
_FACTS, _MODEL, _HALF, _GONE = "entry.json", "model", ".half-", ".gone-"
_PATIENCE = 60.0  # seconds to wait for another process that writes
_MADE_BY = ("torch", "transformers", "bitsandbytes")
# What a built or saved variant depends on; a test holds that nothing which build and checkpoint import is missing.
# Part of every key: raise it whenever a change of code gives a build other weights, and every cached variant is built
# anew. Comments, names and files may change without it.
BUILD_VERSION = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """A recipe and the facts that its build depends on; equal digests mean an equal result."""

    recipe: Recipe
    facts: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        """SHA-256, as hex."""
        return hashlib.sha256(json.dumps([str(self.recipe), self.facts], sort_keys=True).encode()).hexdigest()


def identify(recipe: Recipe, device: str, source: str | None = None) -> Key:
    """The key of ``recipe`` as ``build`` makes it on ``device`` with the usual calibration.

    Raises:
        ValueError: the dense weights cannot be found.
    """
    from vlmcomp.compression.pruning.pruner import Method
    from vlmcomp.data.calibration_data import CALIBRATION_SEED
    from vlmcomp.models.dtypes import compute_dtype

    entry = registry.check(recipe)
    packers = (TORCHAO,) if recipe.precision.endswith(TORCHAO) else ()
    commit, made_by = download.commit(entry, source), provenance.versions()
    facts = {
        "weights": commit or _folder_digest(Path(source or entry.location)),
        "revision": commit,
        "calibration": [entry.calibration, CALIBRATION_SEED, repr(Method())] if recipe.steps else None,
        "versions": {name: made_by.get(name) for name in (*_MADE_BY, *packers)},
        "build": BUILD_VERSION,
        "device": device.partition(":")[0],
        "dtype": str(compute_dtype(device, entry)),
    }
    return Key(recipe, facts)


def obtain(
    recipe: Recipe, device: str | None = None, cache: Cache | None = None, progress: Progress | None = None
) -> VLM:
    """``recipe`` from ``cache``, or built and then kept there. A dense FP16 model is never kept: its files are there.

    Raises:
        ValueError: as ``build``.
    """
    from vlmcomp.compression.pipeline import build
    from vlmcomp.hardware import default_device

    say, device = progress or (lambda text, share: None), device or default_device()
    if cache is None or cache.limit_bytes <= 0 or recipe == recipe.baseline:
        return build(recipe, device=device, progress=say)
    key = identify(recipe, device)
    vlm = cache.get(key, device, say)
    if vlm is None:
        vlm = build(recipe, device=device, progress=say)
        cache.put(key, vlm, say)
    return vlm


@dataclass(frozen=True)
class Cache:
    """Checkpoints below ``root``, together no more than ``limit_bytes``; the least recently used go first.

    An entry appears whole or not at all. One that is damaged is thrown away by whoever finds it. No failure of the
    disk is an error here: it costs one warning, and the variant is built.
    """

    root: Path
    limit_bytes: int

    def get(self, key: Key, device: str, say: Progress) -> VLM | None:
        """The variant of ``key`` on ``device``, or None if it is not here whole."""
        entry = self._entry(key)
        if not entry.is_dir():
            return None
        from vlmcomp.compression import checkpoint

        try:
            _verify(entry, key, lambda share: say("checking the cached variant", 0.5 * share))
            say("loading the cached variant", 0.5)
            vlm = checkpoint.load(entry / _MODEL, device)
            if vlm.recipe != key.recipe:
                raise ValueError(f"it holds {vlm.recipe}")
        except (OSError, ValueError) as error:
            _log.warning("the cached %s cannot be used and is built again: %s", key.recipe, error)
            _discard(entry)
            return None
        with contextlib.suppress(OSError):
            os.utime(entry / _FACTS)  # used now
        vlm.revision = key.facts["revision"]
        say("ready", 1.0)
        return vlm

    def put(self, key: Key, vlm: VLM, say: Progress) -> None:
        """Keep ``vlm``, which has not answered yet, if it fits."""
        say("keeping the variant for the next time", 0.95)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / ".lock", timeout=_PATIENCE):
                self._sweep()
                self._write(key, vlm)
        except (OSError, Timeout, ValueError) as error:
            _log.warning("%s is not kept in %s: %s", key.recipe, self.root, error)
        say("ready", 1.0)

    def entries(self) -> list[tuple[Path, int]]:
        """Every entry and its bytes, the least recently used first."""
        found = []
        for facts in self.root.glob(f"*/{_FACTS}"):
            with contextlib.suppress(OSError):  # another process lets it go just now
                found.append((facts.stat().st_mtime_ns, facts.parent, _bytes(facts.parent)))
        return [(entry, size) for _, entry, size in sorted(found) if not entry.name.startswith(".")]

    def _entry(self, key: Key) -> Path:
        return self.root / f"{key.recipe.slug}--{key.digest[:16]}"

    def _write(self, key: Key, vlm: VLM) -> None:
        from vlmcomp.compression import checkpoint

        half = Path(tempfile.mkdtemp(prefix=_HALF, dir=self.root))
        try:
            checkpoint.save(vlm, half / _MODEL)
            facts = {"recipe": str(key.recipe), "key": key.digest, "facts": key.facts, "files": _digests(half / _MODEL)}
            (half / _FACTS).write_text(json.dumps(facts, indent=2) + "\n")
            if self._make_room(_bytes(half), self._entry(key)):
                half.rename(self._entry(key))
        finally:
            shutil.rmtree(half, ignore_errors=True)

    def _make_room(self, needed: int, entry: Path) -> bool:
        """Let entries go until ``needed`` bytes fit; whether they do."""
        _discard(entry)
        held = self.entries()
        if needed > self.limit_bytes:
            _log.warning("%s takes more than the cache's %.3g GB and is not kept", entry.name, self.limit_bytes / 1e9)
            return False
        while held and sum(size for _, size in held) + needed > self.limit_bytes:
            _discard(held.pop(0)[0])
        return True

    def _sweep(self) -> None:
        """Remove what killed processes left: whoever writes holds the lock, so nobody works on any of it."""
        for left in (*self.root.glob(f"{_HALF}*"), *self.root.glob(f"{_GONE}*")):
            shutil.rmtree(left, ignore_errors=True)


def usual() -> Cache:
    """The cache of this user, in ``machine.home()``; of at most ``$VLMCOMP_CACHE_GB`` (40; 0 keeps nothing), and never
    more than half of what the disk has to spare.

    Raises:
        ValueError: the size is not a number.
    """
    root = files.home()
    try:
        limit = float(os.environ.get(LIMIT) or _USUAL_GB) * 1e9
        disk = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
        spare = shutil.disk_usage(disk).free + sum(size for _, size in Cache(root, 0).entries())
        return Cache(root, int(min(limit, spare / 2)))
    except ValueError:
        raise ValueError(f"{LIMIT} is '{os.environ[LIMIT]}': give a number of GB, 0 for no cache") from None


def _verify(entry: Path, key: Key, told: Callable[[float], None]) -> None:
    """Raises ``OSError`` or ``ValueError`` if ``entry`` is not, byte for byte, what was written for ``key``."""
    facts = json.loads((entry / _FACTS).read_text())
    if not isinstance(facts, dict) or facts.get("key") != key.digest:
        raise ValueError("it was made for something else")
    if facts.get("files") != _digests(entry / _MODEL, told):
        raise ValueError("its files are not those that were written")


def _discard(entry: Path) -> None:
    """Away in one step; a process that has its files open keeps them."""
    with contextlib.suppress(OSError):
        gone = Path(tempfile.mkdtemp(prefix=_GONE, dir=entry.parent))
        with contextlib.suppress(OSError):
            entry.rename(gone / entry.name)
        shutil.rmtree(gone, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in _files(folder))


def _digests(folder: Path, told: Callable[[float], None] = lambda share: None) -> dict[str, str]:
    """SHA-256 of every file by its path."""
    total, done, found = _bytes(folder) or 1, 0, {}
    for file in _files(folder):
        digest = hashlib.sha256()
        for block in _blocks(file):
            digest.update(block)
            done += len(block)
            told(min(1.0, done / total))
        found[file.relative_to(folder).as_posix()] = digest.hexdigest()
    return found


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as data:
        while block := data.read(1 << 22):
            yield block


def _folder_digest(folder: Path) -> str:
    """Of the weights and settings in ``folder``; files that did not change are read once a process."""
    stamps = tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in _files(folder))
    return _stamped_digest(folder, stamps)


@once
def _stamped_digest(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    return hashlib.sha256(json.dumps(_digests(folder)).encode()).hexdigest()
