"""Downloads from the Hub that are checked before they start, and whose errors say what to do."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm

from vlmcomp.feedback import Progress
from vlmcomp.results.schema import amount

HUB_ERRORS = (OSError, EntryNotFoundError, HFValidationError, HTTPError, RuntimeError)


def fetch_data(place: str, revision: str, patterns: Sequence[str], say: Progress) -> tuple[Path, str]:
    """The files of the data set ``place`` that match ``patterns``, in the Hub's layout, and their commit.

    Without a network, what was downloaded before is used, as far as it came.

    Raises:
        ValueError: one sentence on why they cannot be had.
    """

    def check(names: set[str], commit: str) -> None:
        if lost := [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]:
            raise ValueError(f"{place} holds no {lost[0]} at {revision}: it is not laid out as expected")

    wanted = {"repo_type": "dataset", "allow_patterns": list(patterns)}
    try:
        return download_snapshot(place, revision, wanted, say, check)
    except HUB_ERRORS as error:
        raise_clear_error(error, place, place, revision, gated=False, kind="data set")


def download_snapshot(
    place: str, revision: str | None, wanted: dict[str, Any], say: Progress, check: Callable[[set[str], str], None]
) -> tuple[Path, str]:
    """``check`` is told the names of the files and the commit before what is large comes."""
    say(f"looking up {place}", 0.0)
    try:
        files: Any = snapshot_download(place, revision=revision, dry_run=True, **wanted)
    except DryRunError as error:  # no network: what an earlier download left will do if it is whole
        if isinstance(error.__cause__, RepositoryNotFoundError):  # GatedRepoError is one
            raise error.__cause__ from None
        folder = Path(snapshot_download(place, revision=revision, local_files_only=True, **wanted))
        return folder, folder.name
    check({file.filename for file in files}, files[0].commit_hash if files else "")
    commit = files[0].commit_hash
    missing = sum(file.file_size for file in files if file.will_download)
    _check_disk(place, missing)
    bar = _bar(place, missing, say)
    return Path(snapshot_download(place, revision=commit, tqdm_class=bar, **wanted)), commit


def _check_disk(place: str, missing: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    disk = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(disk).free
    if missing > free:
        raise ValueError(
            f"{place} needs {amount(missing)} more on the disk of {cache}, which has {amount(free)} free: "
            "make room, or let HF_HOME name a folder on a larger disk"
        )


def _bar(place: str, total: int, say: Progress) -> type[tqdm]:
    """A progress bar that tells ``say``; the Hub's client makes several and keeps one for the bytes on the disk."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts = kwargs.pop("name", None) == "huggingface_hub.snapshot_download"
            super().__init__(*args, **kwargs | {"disable": True})
            self._seen = 0.0

        def update(self, n: float | None = 1) -> None:
            if self._counts and total:
                self._seen += n or 0
                say(f"downloading {place}, {amount(total)}", min(1.0, self._seen / total))

    return Bar


def raise_clear_error(
    error: Exception, name: str, place: str, revision: str | None, gated: bool, kind: str = "model"
) -> NoReturn:
    """Raises ``error`` again as a ValueError of one sentence."""
    page = f"https://huggingface.co/{'' if kind == 'model' else 'datasets/'}{place}"
    if isinstance(error, GatedRepoError) or (isinstance(error, RepositoryNotFoundError) and gated):
        text = f"{place} is gated: accept its licence at {page}, then log in with 'hf auth login' or set HF_TOKEN"
    elif isinstance(error, RepositoryNotFoundError):
        text = f"the Hub has no {kind} {place} for you: look at {page}, or log in with 'hf auth login' if it is private"
    elif isinstance(error, RevisionNotFoundError):
        text = f"the Hub no longer has the revision {revision} of {place}: look at {page}/commits"
    elif isinstance(error, HFValidationError):
        text = f"the weights of {name} cannot be loaded from {place}: it is neither a folder nor a Hub id"
    elif isinstance(error, LocalEntryNotFoundError):
        text = f"the Hub cannot be reached, and {place} was not downloaded whole before: try again with a network"
    elif isinstance(error, HfHubHTTPError | ConnectionError | TimeoutError) or not getattr(error, "strerror", None):
        text = f"the download of {place} broke off: run it again, the files that came whole are kept"
    else:
        text = f"{place} cannot be written to {constants.HF_HUB_CACHE}: {error.strerror}"
    raise ValueError(text) from error
