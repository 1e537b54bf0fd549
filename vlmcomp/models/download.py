"""Dense weights: a folder as it is, or a download from the Hub that is checked before it starts."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    RepositoryNotFoundError,
)

from vlmcomp.feedback import Progress
from vlmcomp.hub import HUB_ERRORS, download_snapshot, raise_clear_error
from vlmcomp.models.registry import MODELS, ModelSpec

_WANTED = {"allow_patterns": ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"], "ignore_patterns": ["*/*"]}


def fetch(model: ModelSpec, source: str | None, say: Progress) -> tuple[Path, str | None]:
    """The folder with the dense weights of ``model``, from ``source`` (folder or Hub id) or the zoo's own place.

    From the Hub only what is needed comes, after family and disk space are checked; a connection that breaks is taken
    up again where it stopped, and a run that was stopped keeps the files that came whole. Without a network, weights
    that were downloaded before are used.

    Returns:
        The folder, and for the Hub the commit.

    Raises:
        ValueError: one sentence on why the weights cannot be had.
    """
    place = source or model.location
    if Path(place).is_dir():
        _check_family(Path(place) / "config.json", model, place)
        return Path(place), None
    if source is not None and (place.count("/") != 1 or place[0] in "./~"):
        raise ValueError(f"the weights of {model.name} cannot be loaded from {place}: there is no such folder")
    revision = None if source else model.revision

    def check(names: set[str], commit: str) -> None:
        if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
            raise ValueError(
                f"{place} has no config.json with safetensors weights: it is not a model that can be loaded"
            )
        _check_family(Path(hf_hub_download(place, "config.json", revision=commit)), model, place)

    try:
        folder, commit = download_snapshot(place, revision, _WANTED, say, check)
    except HUB_ERRORS as error:
        raise_clear_error(error, model.name, place, revision, gated=model.gated and source is None)
    _check_family(folder / "config.json", model, place)
    return folder, commit


def commit(model: ModelSpec, source: str | None) -> str | None:
    """Which commit of the Hub ``fetch`` would take now, without downloading anything; None for a folder.

    Raises:
        ValueError: as ``fetch``.
    """
    place, revision = source or model.location, None if source else model.revision
    if Path(place).is_dir():
        return None
    try:
        return snapshot_download(place, revision=revision, dry_run=True, **_WANTED)[0].commit_hash
    except DryRunError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            raise_clear_error(error.__cause__, model.name, place, revision, gated=model.gated and source is None)
        return fetch(model, source, lambda text, share: None)[1]
    except (*HUB_ERRORS, IndexError) as error:
        raise_clear_error(error, model.name, place, revision, gated=model.gated and source is None)


def _check_family(config: Path, model: ModelSpec, place: str) -> None:
    try:
        family = json.loads(config.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{place} holds no config.json that names a model: it is not a folder of weights") from None
    if family == model.family:
        return
    others = [m.name for m in MODELS.values() if m.family == family and not m.embedded]
    hint = f"choose {' or '.join(others)}" if others else f"it must be of the family '{model.family}'"
    raise ValueError(f"{place} holds a model of the family '{family}', which is not {model.name}'s: {hint}")
