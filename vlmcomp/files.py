"""Files: atomic writes, checks before long work, full disks, leftovers, digests, and the user's cache folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any

import psutil

Stamp = tuple[int, int, int, int]  # of a file's state: see ``stamp``
CACHE_DIR_ENV = "VLMCOMP_CACHE"  # environment variable that overrides the cache folder
_BLOCK_BYTES = 1 << 22
# errno of a disk that is full, over its quota, or read-only, and of a file that exceeds the largest size
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_TEMPORARY = re.compile(r"\.vlmcomp-(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-\w+\.tmp")
_ABANDONED_SECONDS = 86_400.0  # longer than anything is written
_NUMBERS = re.compile(r"\[\s+([-+.\deE,\s]+?)\s+\]")


def cache_dir() -> Path:
    """The user's cache folder: ``$VLMCOMP_CACHE``, else vlmcomp in ``$XDG_CACHE_HOME`` or ~/.cache.

    Raises:
        OSError: there is no home folder.
    """
    try:
        if own := os.environ.get(CACHE_DIR_ENV):
            return Path(own).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vlmcomp"
    except RuntimeError:
        raise OSError(f"there is no home folder for a cache: let {CACHE_DIR_ENV} name a folder") from None


def bundled_folder(name: str) -> Path:
    """A folder at the root of the repository, which an installation has inside the package."""
    package = Path(__file__).resolve().parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name


def check_writable(folder: Path) -> None:
    """Check before long work that files can be written to ``folder``, or to the folder in which it will be made.

    Raises:
        OSError: they cannot; the message names the folder and the reason.
    """
    try:
        place = _existing_part(folder)
        remove_leftovers(place)
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")  # an empty file can be made even on a full disk
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error.strerror}): give another folder") from None


def check_file_writable(file: Path) -> None:
    """Check before long work that ``file`` can be written.

    Raises:
        ValueError: it is a folder.
        OSError: its folder cannot be written.
    """
    if file.is_dir():
        raise ValueError(f"{file} is a folder: give the name of a file")
    if file.is_file() or not file.exists():  # no device or pipe
        check_writable(file.parent)


def check_new_folder(folder: Path) -> None:
    """Check before long work that ``new_folder`` can write ``folder``.

    Raises:
        ValueError: it is not empty.
        OSError: it cannot be written.
    """
    if folder.is_file() or (folder.is_dir() and not _is_empty(folder)):
        raise ValueError(f"{folder} is not an empty folder: choose a new one")
    check_writable(folder)


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk of ``folder``, which need not exist.

    Raises:
        OSError: the folder cannot be reached.
    """
    return shutil.disk_usage(_existing_part(folder)).free


def _existing_part(path: Path) -> Path:
    """``path``, or the closest folder above it that exists."""
    return next(part for part in (path, *path.absolute().parents) if part.is_symlink() or part.exists())


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


def stamp(file: Path) -> Stamp | None:
    """What changes whenever the content of ``file`` does; None if it is no regular file that can be read about."""
    try:
        found = file.stat()
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) if S_ISREG(found.st_mode) else None


def short_digest(files: Iterable[Path]) -> str:
    """``sha256:`` and the first 16 hex digits over the contents of ``files``: how reports identify local files."""
    return f"sha256:{sha256_of_files(files)[:16]}"


def disk_error(error: BaseException | None) -> OSError | None:
    """The ``OSError`` of a disk that is full or read-only, if that is why ``error`` was raised; otherwise None.

    Libraries in Rust and C++ (safetensors, tokenizers, PyTorch) raise errors of their own, which only name it or follow
    from it.
    """
    while error is not None:
        for code in _DISK_ERRORS:
            reason = os.strerror(code)
            if getattr(error, "errno", None) == code or f"(os error {code})" in str(error) or reason in str(error):
                return error if isinstance(error, OSError) and error.errno else OSError(code, reason)
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def naming_disk_errors(path: Path) -> Iterator[None]:
    """Inside the context every error of a full or read-only disk is an ``OSError`` that names ``path``."""
    try:
        yield
    except Exception as error:
        found = disk_error(error)
        if found is None:
            raise
        raise OSError(found.errno, found.strerror, str(path)) from error


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``, deleted at the end of the block; by ``remove_leftovers`` if the process is killed."""
    remove_leftovers(parent)
    folder = Path(tempfile.mkdtemp(".tmp", _temporary_prefix(), parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def machine_id() -> str:
    """Eight hex digits of the machine, or the container, in which a process id is unique."""
    namespace = Path("/proc/self/ns/pid")
    container = namespace.stat().st_ino if namespace.exists() else 0
    return hashlib.sha256(f"{socket.gethostname()} {container}".encode()).hexdigest()[:8]


def _temporary_prefix() -> str:
    return f".vlmcomp-{machine_id()}-{os.getpid()}-"


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files and folders of this module that killed processes left in ``folder``."""
    for path in folder.glob(".vlmcomp-*.tmp"):
        with suppress(OSError):  # another process was first, or it is another user's
            if _is_abandoned(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_abandoned(path: Path) -> bool:
    """Whether ``path`` is temporary and its process has ended; on another machine, whether it is old."""
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    if match["machine"] == machine_id() and not psutil.pid_exists(int(match["process"])):
        return True
    return time.time() - path.stat().st_mtime > _ABANDONED_SECONDS


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder, whose files are in ``folder`` after the block, or nowhere if it fails.

    Raises:
        ValueError: ``folder`` is not empty.
        OSError: it cannot be written.
    """
    check_new_folder(folder)
    exists = folder.is_dir()
    with naming_disk_errors(folder), temporary_folder(_existing_part(folder)) as partial:
        yield partial
        partial.chmod(0o755)  # mkdtemp's 0700 would hide it from others
        if not exists:
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial.rename(folder)
        elif _is_empty(folder):  # perhaps a mounted one, which cannot be replaced
            move_files(partial, folder)
        else:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(folder))


def _is_empty(folder: Path) -> bool:
    """Whether there is nothing but temporary files in ``folder``."""
    return all(_TEMPORARY.fullmatch(path.name) for path in folder.iterdir())


def move_files(source: Path, target: Path) -> None:
    """Move the files of the folder ``source`` to ``target``, on the same disk, in place of those of the same name."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        os.replace(file, target / file.name)


@contextmanager
def new_version(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that replaces ``path`` at the end of the block; an error leaves ``path`` as it was.

    A device or a pipe, such as /dev/stdout, is written itself.
    """
    with naming_disk_errors(path):
        if path.exists() and not path.is_file():
            with path.open("wb") as stream:
                yield stream
            return
        target = Path(os.path.realpath(path))  # a symbolic link stays one
        remove_leftovers(target.parent)
        handle, temporary = tempfile.mkstemp(".tmp", _temporary_prefix(), target.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(handle)
            os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide published results from others
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Replace every path by its new content, in this order, once all are written: a full disk changes none."""
    with ExitStack() as versions:
        for path, data in reversed(list(contents.items())):  # the stack ends in reverse order
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = versions.enter_context(new_version(path))
            stream.write(data)
            stream.flush()


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` atomically: a reader finds the old file or the new one."""
    write_files({path: data})


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write ``data`` atomically, as ``to_json``."""
    write_text(path, to_json(data))


def to_json(data: dict[str, Any]) -> str:
    """``data`` as JSON for people and diffs: indented, floats to six significant digits."""
    text = json.dumps(_round_floats(data), indent=2, ensure_ascii=False, allow_nan=False)
    return _NUMBERS.sub(lambda m: "[" + " ".join(m[1].split()) + "]", text) + "\n"  # a list of numbers on one line


def _round_floats(value: Any) -> Any:
    """Floats to six significant digits: more is noise, and makes every diff unreadable."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _round_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_round_floats(item) for item in value]
    return value
