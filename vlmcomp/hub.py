"""Downloads from the Hub, checked before they start, with errors that say what to do."""

from __future__ import annotations

import fnmatch
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

from vlmcomp.feedback import Progress, format_bytes
from vlmcomp.files import disk_error, free_bytes

HUB_ERRORS = (OSError, EntryNotFoundError, HFValidationError, HTTPError, RuntimeError)


def download_dataset_files(
    repo_id: str, revision: str, patterns: Sequence[str], progress: Progress
) -> tuple[Path, str]:
    """Download the files of a data set; without a network, an earlier complete download is used.

    Args:
        repo_id: data set on the Hub.
        revision: branch, tag or commit.
        patterns: glob patterns; each must match a file.
        progress: receives what is done and the fraction done.

    Returns:
        The folder with the files in the Hub's layout, and the commit.

    Raises:
        ValueError: one sentence on why the files are not available.
    """

    def check(names: set[str], commit: str) -> None:
        if missing := [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]:
            raise ValueError(f"{repo_id} has no {missing[0]} at {revision}: it is not laid out as expected")

    file_filter = {"repo_type": "dataset", "allow_patterns": list(patterns)}
    try:
        return download_snapshot(repo_id, revision, file_filter, progress, check)
    except HUB_ERRORS as error:
        raise_hub_error(error, repo_id, repo_id, revision, gated=False, repo_type="dataset")


def download_snapshot(
    repo_id: str,
    revision: str | None,
    file_filter: dict[str, Any],
    progress: Progress,
    check: Callable[[set[str], str], None],
) -> tuple[Path, str]:
    """Download a snapshot after checking its file names and the free disk space.

    Args:
        repo_id: repository on the Hub.
        revision: branch, tag or commit; None for the newest.
        file_filter: keyword arguments of ``snapshot_download`` that select the files.
        progress: receives what is done and the fraction done.
        check: called with the names of the files and the commit before the download; raises to refuse it.

    Returns:
        The folder and the commit.
    """
    progress(f"looking up {repo_id}", 0.0)
    files = _look_up(repo_id, revision, file_filter)
    if isinstance(files, Path):
        return files, files.name
    check({file.filename for file in files}, files[0].commit_hash if files else "")
    commit = files[0].commit_hash
    missing = _missing_bytes(repo_id, files)
    bar = _progress_bar(repo_id, missing, progress)
    return Path(snapshot_download(repo_id, revision=commit, tqdm_class=bar, **file_filter)), commit


def missing_bytes(repo_id: str, revision: str | None, file_filter: dict[str, Any]) -> int:
    """Bytes that ``download_snapshot`` would download now; 0 if all is there.

    Raises:
        ValueError: the disk has no room for them.
        Exception: one of ``HUB_ERRORS``, as ``download_snapshot``.
    """
    files = _look_up(repo_id, revision, file_filter)
    return 0 if isinstance(files, Path) else _missing_bytes(repo_id, files)


def _look_up(repo_id: str, revision: str | None, file_filter: dict[str, Any]) -> Any:
    """The files of a snapshot as the Hub lists them; without a network the folder of an earlier complete download."""
    try:
        return snapshot_download(repo_id, revision=revision, dry_run=True, **file_filter)
    except DryRunError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):  # GatedRepoError is one
            raise error.__cause__ from None
        return Path(snapshot_download(repo_id, revision=revision, local_files_only=True, **file_filter))


def _missing_bytes(repo_id: str, files: Sequence[Any]) -> int:
    """Bytes that are still to be downloaded, for which there is room on the disk."""
    missing = sum(file.file_size for file in files if file.will_download)
    _check_disk(repo_id, missing)
    return missing


def _check_disk(repo_id: str, missing: int) -> None:
    """Raises ``ValueError`` if the Hub's cache has no room for ``missing`` bytes."""
    cache = Path(constants.HF_HUB_CACHE)
    free = free_bytes(cache)
    if missing > free:
        raise ValueError(
            f"{repo_id} needs {format_bytes(missing)} more on the disk of {cache}, which has {format_bytes(free)} "
            "free: make room, or let HF_HOME name a folder on a larger disk"
        )


def _progress_bar(repo_id: str, total: int, progress: Progress) -> type[tqdm]:
    """A tqdm class that reports to ``progress``.

    The Hub's client makes several bars; the one named here counts the bytes written to disk.
    """

    class ProgressBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts_bytes = kwargs.pop("name", None) == "huggingface_hub.snapshot_download"
            super().__init__(*args, **kwargs | {"disable": True})
            self._done = 0.0

        def update(self, n: float | None = 1) -> None:
            if self._counts_bytes and total:
                self._done += n or 0
                progress(f"downloading {repo_id}, {format_bytes(total)}", min(1.0, self._done / total))

    return ProgressBar


def raise_hub_error(
    error: Exception, name: str, repo_id: str, revision: str | None, gated: bool, repo_type: str = "model"
) -> NoReturn:
    """Raise ``error`` of a download again as a ``ValueError`` of one sentence that says what to do.

    Args:
        error: raised by the Hub's client.
        name: of the model or task that needs the files.
        repo_id: repository on the Hub.
        revision: branch, tag or commit that was requested.
        gated: the repository is known to be gated, which the Hub hides from those without access.
        repo_type: ``model`` or ``dataset``.
    """
    page = f"https://huggingface.co/{'' if repo_type == 'model' else 'datasets/'}{repo_id}"
    kind = "model" if repo_type == "model" else "data set"
    if isinstance(error, GatedRepoError) or (isinstance(error, RepositoryNotFoundError) and gated):
        text = f"{repo_id} is gated: accept its license at {page}, then log in with 'hf auth login' or set HF_TOKEN"
    elif isinstance(error, RepositoryNotFoundError):
        text = f"the Hub has no {kind} {repo_id} for you: see {page}, or log in with 'hf auth login' if it is private"
    elif isinstance(error, RevisionNotFoundError):
        text = f"the Hub no longer has the revision {revision} of {repo_id}: see {page}/commits"
    elif isinstance(error, HFValidationError):
        text = f"the weights of {name} cannot be loaded from {repo_id}: it is neither a folder nor a Hub id"
    elif full := disk_error(error):
        text = f"{repo_id} cannot be written to {constants.HF_HUB_CACHE}: {full.strerror}"
    elif isinstance(error, LocalEntryNotFoundError):
        text = (
            f"the Hub cannot be reached, and {repo_id} was not downloaded completely before: try again with a network"
        )
    elif isinstance(error, HfHubHTTPError | ConnectionError | TimeoutError) or not getattr(error, "strerror", None):
        text = f"the download of {repo_id} was interrupted: run it again, complete files are kept"
    else:
        text = f"{repo_id} cannot be written to {constants.HF_HUB_CACHE}: {error.strerror}"
    raise ValueError(text) from error


def raise_upload_error(error: Exception, repo: str, endpoint: str) -> NoReturn:
    """Raises ``error`` of an upload to ``repo`` again as a ValueError of one sentence."""
    response = getattr(error, "response", None)
    status = response.status_code if isinstance(error, HfHubHTTPError) and response is not None else None
    reason = " ".join((getattr(error, "server_message", None) or str(error)).split()).rstrip(".")
    if status == 401:
        text = f"{endpoint} does not accept your token: log in again with 'hf auth login', or fix HF_TOKEN"
    elif status == 403:
        text = f"your token may not write to {repo}: use one with write access to {repo.partition('/')[0]} ({reason})"
    elif status is not None:
        text = f"{endpoint} refuses {repo} with {status}: {reason}"
    elif isinstance(error, HTTPError | ConnectionError | TimeoutError):
        text = f"{endpoint} cannot be reached: try again with a network, and without HF_HUB_OFFLINE"
    elif full := disk_error(error):
        text = f"{full.filename or constants.HF_HOME}: {full.strerror}"
    elif getattr(error, "strerror", None):
        text = f"{getattr(error, 'filename', None) or repo}: {error.strerror}"  # type: ignore[attr-defined]
    else:
        text = f"the push to {repo} was interrupted, and nothing of it is visible: run it again ({reason})"
    raise ValueError(text) from error
