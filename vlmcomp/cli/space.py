"""Pushing the checkout to a Space on the Hub: which files go, under which licences, and what stands in the way."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, SpaceHardware, get_token, metadata_load
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from yaml import YAMLError

from vlmcomp.models import registry

ROOT = Path(__file__).resolve().parents[2]
PUSHED_PATHS = ("README.md", "LICENSE", "app.py", "requirements.txt", "vlmcomp/", "assets/", "precomputed/")
WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".npz", ".msgpack", ".h5"}
# Licences under which weights may be passed on by anyone -> what a Space that holds them may state as its own.
REDISTRIBUTABLE_LICENSES = {"Apache-2.0": {"apache-2.0"}, "MIT": {"mit", "apache-2.0"}}
_INITIAL_FILES = {".gitattributes", "README.md"}  # what the Hub puts into a new Space


@dataclass(frozen=True)
class SpacePush:
    """What would be pushed: ``files`` maps each path below ``root`` to its bytes, ``models`` each bundled model to its
    licence; ``changed`` differ from the commit ``head``, ``untracked`` lie beside the files and stay behind."""

    root: Path
    head: str
    license: str
    files: dict[str, int]
    models: dict[str, str]
    changed: list[str]
    untracked: list[str]


def plan_push(root: Path = ROOT) -> SpacePush:
    """What a push of the checkout ``root`` holds: the tracked files of ``PUSHED``, as they are on the disk.

    Raises:
        ValueError: no checkout, a tracked file that is gone, or weights that may not be passed on.
    """
    if not (root / ".git").exists():
        raise ValueError(f"{root} is not a git checkout: deploy from a clone of the repository")
    paths = _git(root, "ls-files", "-z")
    for name in paths:
        if not (root / name).is_file() or (root / name).is_symlink():
            raise ValueError(f"{name} is tracked, but is no plain file on the disk: restore it, or commit its removal")
    licence = _license_of(root / "README.md")
    if "README.md" not in paths or licence is None:
        raise ValueError("README.md states no licence: commit one whose front matter has 'license: apache-2.0'")
    return SpacePush(
        root,
        head=_git(root, "log", "-1", "--format=%h%x00")[0],
        license=licence,
        files={name: (root / name).stat().st_size for name in paths},
        models=_model_licenses(root, paths, licence),
        changed=_git(root, "diff", "--name-only", "-z", "HEAD"),
        untracked=_git(root, "ls-files", "--others", "--exclude-standard", "-z"),
    )


def _git(root: Path, *words: str) -> list[str]:
    """What git says of ``PUSHED``, item by item."""
    try:
        told = subprocess.run(["git", "-C", root, *words, "--", *PUSHED_PATHS], capture_output=True)
    except FileNotFoundError:
        raise ValueError("deploy needs git, which is not installed") from None
    if told.returncode:
        raise ValueError(f"git cannot read {root}: {' '.join(told.stderr.decode(errors='replace').split())}")
    return [name for name in told.stdout.decode().strip("\n").split("\0") if name]


def _license_of(card: Path) -> str | None:
    """The licence in the front matter of ``card``; None where there is none to read."""
    try:
        return str((metadata_load(card) or {})["license"])
    except (OSError, KeyError, ValueError, YAMLError):
        return None


def _model_licenses(root: Path, paths: Iterable[str], stated: str) -> dict[str, str]:
    """The licence of each model whose weights are among ``paths``, if a Space under ``stated`` may hold them all."""
    found: dict[str, str] = {}
    for name in paths:
        if Path(name).suffix not in WEIGHT_SUFFIXES:
            continue
        parts = Path(name).parts
        model = registry.MODELS.get(parts[2]) if parts[:2] == ("assets", "models") and len(parts) > 3 else None
        if model is None:
            raise ValueError(f"{name} holds weights of no model that vlmcomp knows the licence of: take it out")
        if model.gated or model.licence not in REDISTRIBUTABLE_LICENSES:
            gate = "gated" if model.gated else "not free to pass on"
            raise ValueError(f"{name} is under the {model.licence} and {gate}: take it out, the app can download it")
        card = root / Path(*parts[:3], "README.md")
        if (told := _license_of(card)) != model.licence.lower():
            raise ValueError(f"{model.name} is under {model.licence}, but {card} states {told or 'none'}: mend it")
        if stated not in REDISTRIBUTABLE_LICENSES[model.licence]:
            raise ValueError(f"README.md states the licence {stated}, but {model.name} is under {model.licence}")
        found[model.name] = model.licence
    return found


def validate_space(repo: str, hardware: str | None = None) -> None:
    """Raises ValueError unless ``repo`` can be the name of a Space and ``hardware`` is one that Spaces run on."""
    try:
        validate_repo_id(repo)
        good = repo.count("/") == 1
    except HFValidationError:
        good = False
    if not good:
        raise ValueError(f"'{repo}' is not the name of a Space: give it as user/space")
    known = [place.value for place in SpaceHardware]
    if hardware is not None and hardware not in known:
        raise ValueError(f"'{hardware}' is no hardware of Spaces: choose one of {', '.join(known)}")


def connect() -> HfApi:
    """The Hub with the user's token, not spoken to yet; raises ValueError where there is no token."""
    token = get_token()
    if token is None:
        raise ValueError("there is no Hub token: log in with 'hf auth login', or set HF_TOKEN, with write access")
    return HfApi(token=token)


def push(api: HfApi, plan: SpacePush, repo: str, hardware: str | None = None) -> str:
    """Make the Space ``repo`` if it is not there, and let one commit bring it to ``plan``, so that it is built once.

    Files of an earlier push that are no longer in the plan's folders go; what else the Space holds stays.

    Returns:
        The address of the Space.

    Raises:
        ValueError: one sentence: the Space holds something else, or what the Hub said.
    """
    try:
        return _push(api, plan, repo, hardware)
    except (OSError, HTTPError, RuntimeError) as error:
        _explain(error, repo, api.endpoint)
    except ValueError as error:  # what the client found wrong stands on several lines
        raise ValueError(" ".join(str(error).split())) from error


def _push(api: HfApi, plan: SpacePush, repo: str, hardware: str | None) -> str:
    kind: Any = {"repo_type": "space"}
    try:
        there = set(api.list_repo_files(repo, **kind))
    except RepositoryNotFoundError:
        there = set()
        api.create_repo(repo, space_sdk="gradio", space_hardware=hardware, **kind)
    else:
        if not there <= _INITIAL_FILES and "vlmcomp/__init__.py" not in there:
            raise ValueError(f"the Space {repo} is there and holds something else: choose another name")
        if hardware:
            api.request_space_hardware(repo, hardware)
    folders = tuple(name for name in PUSHED_PATHS if name.endswith("/"))
    stale = sorted(name for name in there - set(plan.files) if name.startswith(folders))
    changes = [
        *(CommitOperationDelete(name) for name in stale),
        *(CommitOperationAdd(name, plan.root / name) for name in plan.files),
    ]
    head = plan.head + (" with changes" if plan.changed else "")
    api.create_commit(repo, changes, commit_message=f"vlmcomp {head}", **kind)
    return f"{api.endpoint}/spaces/{repo}"


def _explain(error: Exception, repo: str, hub: str) -> NoReturn:
    """Raises ``error`` again as a ValueError of one sentence."""
    response = getattr(error, "response", None)
    status = response.status_code if isinstance(error, HfHubHTTPError) and response is not None else None
    said = " ".join((getattr(error, "server_message", None) or str(error)).split()).rstrip(".")
    if status == 401:
        text = f"{hub} does not accept your token: log in anew with 'hf auth login', or mend HF_TOKEN"
    elif status == 403:
        text = f"your token may not write to {repo}: use one with write access to {repo.partition('/')[0]} ({said})"
    elif status is not None:
        text = f"{hub} refuses {repo} with {status}: {said}"
    elif isinstance(error, HTTPError | ConnectionError | TimeoutError):
        text = f"{hub} cannot be reached: try again with a network, and without HF_HUB_OFFLINE"
    elif getattr(error, "strerror", None):
        text = f"{getattr(error, 'filename', None) or repo}: {error.strerror}"  # type: ignore[attr-defined]
    else:
        text = f"the push to {repo} broke off, and nothing of it shows: run it again ({said})"
    raise ValueError(text) from error
