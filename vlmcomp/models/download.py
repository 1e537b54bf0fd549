"""Dense weights: a local folder, or a download from the Hub that is checked before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    RepositoryNotFoundError,
)

from vlmcomp.feedback import Progress, refuse_empty
from vlmcomp.hub import HUB_ERRORS, download_snapshot, missing_bytes, raise_hub_error
from vlmcomp.models.registry import ModelSpec
from vlmcomp.models.source_check import check_source

_FILE_FILTER: dict[str, Any] = {
    "allow_patterns": ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"],
    "ignore_patterns": ["*/*"],
}


def download_weights(spec: ModelSpec, source: str | None, progress: Progress) -> tuple[Path, str | None]:
    """The folder with the dense weights of ``spec``, downloaded if necessary.

    What the source has and the disk space are checked before the download, and only the files that loading needs are
    downloaded. An interrupted download resumes, and without a network an earlier complete download is used.

    Args:
        spec: the model.
        source: folder or Hub id; None for the registry's own.
        progress: receives what is done and the fraction done.

    Returns:
        The folder, and the commit on the Hub (None for a local folder).

    Raises:
        ValueError: one sentence on why the weights are not available.
    """
    refuse_empty(source=source)
    repo_id = source or spec.name_or_path
    if Path(repo_id).is_dir():
        _check_folder(Path(repo_id), spec, repo_id)
        return Path(repo_id), None
    check_hub_id(spec, source)
    revision = None if source else spec.revision

    def check(names: set[str], commit: str) -> None:
        check_source(spec, repo_id, names, lambda name: Path(hf_hub_download(repo_id, name, revision=commit)))
        if not any(name.endswith(".safetensors") for name in names):
            raise ValueError(f"{repo_id} has no safetensors weights: it is not a model that can be loaded")

    try:
        folder, commit = download_snapshot(repo_id, revision, _FILE_FILTER, progress, check)
    except HUB_ERRORS as error:
        raise_hub_error(error, spec.name, repo_id, revision, gated=spec.gated and source is None)
    _check_folder(folder, spec, repo_id)
    return folder, commit


def bytes_to_download(spec: ModelSpec) -> int:
    """Bytes of the registry's weights of ``spec`` that are still to be downloaded; 0 if all are here.

    Raises:
        ValueError: one sentence on why they cannot be had: no network, no access, or no room on the disk.
    """
    if Path(spec.name_or_path).is_dir():
        return 0
    try:
        return missing_bytes(spec.name_or_path, spec.revision, _FILE_FILTER)
    except HUB_ERRORS as error:
        raise_hub_error(error, spec.name, spec.name_or_path, spec.revision, gated=spec.gated)


def check_hub_id(spec: ModelSpec, source: str | None) -> None:
    """Raises ``ValueError`` for a source that is neither a folder nor the form of a Hub id."""
    if source is not None and (source.count("/") != 1 or source[0] in "./~"):
        raise ValueError(f"the weights of {spec.name} cannot be loaded from {source}: there is no such folder")


def resolve_revision(spec: ModelSpec, source: str | None) -> str | None:
    """The commit on the Hub that ``download_weights`` would use now, without a download; None for a local folder.

    Raises:
        ValueError: as in ``download_weights``.
    """
    refuse_empty(source=source)
    repo_id = source or spec.name_or_path
    revision = None if source else spec.revision
    gated = spec.gated and source is None
    if Path(repo_id).is_dir():
        return None
    check_hub_id(spec, source)
    try:
        files: Any = snapshot_download(repo_id, revision=revision, dry_run=True, **_FILE_FILTER)
        return files[0].commit_hash
    except DryRunError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            raise_hub_error(error.__cause__, spec.name, repo_id, revision, gated=gated)
        return download_weights(spec, source, lambda text, fraction: None)[1]
    except (*HUB_ERRORS, IndexError) as error:
        raise_hub_error(error, spec.name, repo_id, revision, gated=gated)


def _check_folder(folder: Path, spec: ModelSpec, name: str) -> None:
    inside = (file.relative_to(folder).as_posix() for file in folder.glob("checkpoint-*/*"))
    check_source(spec, name, {*inside, *(file.name for file in folder.iterdir())}, folder.joinpath)
