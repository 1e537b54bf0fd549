"""Checkpoints on the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import HfApi

from vlmcomp import files, hub
from vlmcomp.compression import checkpoint
from vlmcomp.feedback import Progress
from vlmcomp.models import registry
from vlmcomp.models.vlm import VLM

_FILE_FILTER = {"allow_patterns": ["*.json", "*.safetensors", "*.bin", "*.jinja", "*.model", "*.txt"]}


def upload_checkpoint(vlm: VLM, repo_id: str, private: bool) -> str:
    """Save ``vlm`` to the repository ``repo_id``, which is created if it does not exist.

    Returns:
        The URL of the repository.

    Raises:
        ValueError: the model cannot be saved, or one sentence on why the upload failed.
        OSError: the folder for temporary files cannot hold the model.
    """
    api = HfApi()
    with files.temporary_folder(Path(tempfile.gettempdir())) as scratch:
        folder = scratch / "model"
        checkpoint.save(vlm, folder)
        try:
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=str(vlm.recipe))
        except hub.HUB_ERRORS as error:
            hub.raise_upload_error(error, repo_id, api.endpoint)
    return str(url)


def download_checkpoint(repo_id: str, revision: str | None, progress: Progress) -> Path:
    """Download what ``upload_checkpoint`` wrote.

    Args:
        repo_id: ``user/name``.
        revision: branch, tag or commit; None for the newest.
        progress: called with a text and the fraction done.

    Returns:
        Its folder in the cache of the Hub's client.

    Raises:
        ValueError: one sentence on why there is no such checkpoint.
    """
    name = repo_id.partition("/")[0]
    if name in registry.MODELS:
        recipe = repo_id if "/" in repo_id else f"{name}/int8"
        raise ValueError(f"'{repo_id}' is a model, not a saved checkpoint: use vlmcomp.compress('{recipe}')")
    if repo_id.count("/") != 1 or repo_id[0] in "./~":
        raise ValueError(f"there is no folder {repo_id}, and it is not the id of a Hub repository (user/name)")

    def check(names: set[str], commit: str) -> None:
        if checkpoint.FILE not in names:
            raise ValueError(f"{repo_id} is not a vlmcomp checkpoint: it has no {checkpoint.FILE}")

    try:
        folder, _ = hub.download_snapshot(repo_id, revision, _FILE_FILTER, progress, check)
    except hub.HUB_ERRORS as error:
        hub.raise_hub_error(error, repo_id, repo_id, revision, gated=False)
    return folder
