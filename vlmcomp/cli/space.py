"""Pushing the checkout to a Space on the Hub: the files that are pushed, and their licenses."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, SpaceHardware, get_token, metadata_load
from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from yaml import YAMLError

from vlmcomp.cli.options import ENV_MODEL
from vlmcomp.hub import raise_upload_error
from vlmcomp.models import registry

ROOT = Path(__file__).resolve().parents[2]
PUSHED_PATHS = (
    "README.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "app.py",
    "requirements.txt",
    "assets/",
    "docs/",
    "examples/",
    "precomputed/",
    "vlmcomp/",
)
WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".npz", ".msgpack", ".h5"}
# License of weights that anyone may redistribute -> licenses that a Space with these weights may have
REDISTRIBUTABLE_LICENSES = {"Apache-2.0": {"apache-2.0"}, "MIT": {"mit", "apache-2.0"}}
_CARD = "README.md"
_INITIAL_FILES = {".gitattributes", "README.md"}  # what the Hub puts into a new Space


@dataclass(frozen=True)
class SpacePush:
    """What would be pushed.

    Attributes:
        root: folder of the checkout.
        head: abbreviated hash of its commit.
        license: of the Space, as the front matter of README.md states it.
        files: path relative to ``root`` -> size in bytes.
        models: name of a bundled model -> its license.
        changed: pushed files that differ from the commit.
        untracked: files that git does not track, which are not pushed.
    """

    root: Path
    head: str
    license: str
    files: dict[str, int]
    models: dict[str, str]
    changed: list[str]
    untracked: list[str]


def plan_push(root: Path = ROOT) -> SpacePush:
    """The push of the checkout ``root``: its tracked files in ``PUSHED_PATHS``, with uncommitted changes.

    Raises:
        ValueError: not a checkout, a tracked file is missing, or the license of weights forbids it.
    """
    if not (root / ".git").exists():
        raise ValueError(f"{root} is not a git checkout: deploy from a clone of the repository")
    paths = _git(root, "ls-files", "-z")
    for name in paths:
        if not (root / name).is_file() or (root / name).is_symlink():
            raise ValueError(f"{name} is tracked by git but is not a regular file: restore it, or commit its removal")
    space_license = _license_of(root / "README.md")
    if "README.md" not in paths or space_license is None:
        raise ValueError("README.md states no license: add 'license: apache-2.0' to its front matter and commit it")
    return SpacePush(
        root,
        head=_git(root, "log", "-1", "--format=%h%x00")[0],
        license=space_license,
        files={name: (root / name).stat().st_size for name in paths},
        models=_model_licenses(root, paths, space_license),
        changed=_git(root, "diff", "--name-only", "-z", "HEAD"),
        untracked=_git(root, "ls-files", "--others", "--exclude-standard", "-z"),
    )


def _git(root: Path, *words: str) -> list[str]:
    """The NUL-separated items that a git command prints about ``PUSHED_PATHS``."""
    try:
        result = subprocess.run(["git", "-C", root, *words, "--", *PUSHED_PATHS], capture_output=True)
    except FileNotFoundError:
        raise ValueError("deploy requires git, which is not installed") from None
    if result.returncode:
        raise ValueError(f"git cannot read {root}: {' '.join(result.stderr.decode(errors='replace').split())}")
    return [item for item in result.stdout.decode().strip("\n").split("\0") if item]


def _license_of(card: Path) -> str | None:
    """The license in the front matter of ``card``; None without a readable one."""
    try:
        return str((metadata_load(card) or {})["license"])
    except (OSError, KeyError, ValueError, YAMLError):
        return None


def _model_licenses(root: Path, paths: Iterable[str], space_license: str) -> dict[str, str]:
    """License of each model with weights among ``paths``.

    Args:
        root: folder of the checkout.
        paths: the files to push, relative to ``root``.
        space_license: what README.md states.

    Raises:
        ValueError: weights of an unknown model, weights that may not be redistributed, or a wrong license in a README.
    """
    licenses: dict[str, str] = {}
    for name in paths:
        if Path(name).suffix not in WEIGHT_SUFFIXES:
            continue
        parts = Path(name).parts
        model = registry.MODELS.get(parts[2]) if parts[:2] == ("assets", "models") and len(parts) > 3 else None
        if model is None:
            raise ValueError(f"{name} contains weights of a model whose license is not known: remove it")
        if model.gated or model.license not in REDISTRIBUTABLE_LICENSES:
            reason = "the model is gated" if model.gated else "that license does not allow redistribution"
            raise ValueError(f"{name}: license {model.license}, {reason}; remove it, the app can download it")
        card = root / Path(*parts[:3], "README.md")
        if (stated := _license_of(card)) != model.license.lower():
            raise ValueError(f"{model.name} is under {model.license}, but {card} states {stated or 'none'}: fix it")
        if space_license not in REDISTRIBUTABLE_LICENSES[model.license]:
            raise ValueError(f"README.md states license {space_license}, but {model.name} is under {model.license}")
        licenses[model.name] = model.license
    return licenses


def validate_space(repo: str, hardware: str | None = None) -> None:
    """Checks the name of a Space and of its hardware, without asking the Hub.

    Raises:
        ValueError: not a valid name, or hardware that Spaces do not offer.
    """
    try:
        validate_repo_id(repo)
        is_valid = repo.count("/") == 1
    except HFValidationError:
        is_valid = False
    if not is_valid:
        raise ValueError(f"'{repo}' is not a valid name of a Space: use user/space")
    known = [item.value for item in SpaceHardware]
    if hardware is not None and hardware not in known:
        raise ValueError(f"'{hardware}' is not a hardware of Spaces: choose from {', '.join(known)}")


def first_model(hardware: str | None) -> str:
    """The real model that fits the hardware of a Space; None is the Hub's default, a CPU."""
    if hardware is None or hardware.startswith("cpu"):
        return "smolvlm-500m"
    if hardware.startswith(("zero", "t4")):  # a share of a GPU, and 16 GB
        return "qwen2-vl-2b"
    return "llava-1.5-7b"


def connect() -> HfApi:
    """A client of the Hub with the user's token; makes no request.

    Raises:
        ValueError: there is no token.
    """
    token = get_token()
    if token is None:
        raise ValueError("there is no Hub token: log in with 'hf auth login', or set HF_TOKEN, with write access")
    return HfApi(token=token)


def push(api: HfApi, plan: SpacePush, repo: str, hardware: str | None = None, model: str | None = None) -> str:
    """Creates the Space if necessary, and pushes ``plan`` as one commit, so that the Space is built once.

    Files of an earlier push that the plan's folders no longer contain are deleted; other files of the Space are not
    touched.

    Args:
        api: a client with write access.
        plan: what to push.
        repo: ``user/space``.
        hardware: of the Space; None for the Hub's default, or unchanged.
        model: that the page shows first, downloaded when the Space is built; None for the bundled one.

    Returns:
        URL of the Space.

    Raises:
        ValueError: one sentence: the Space contains something else, or the error of the Hub.
    """
    try:
        return _push(api, plan, repo, hardware, model)
    except (OSError, HTTPError, RuntimeError) as error:
        raise_upload_error(error, repo, api.endpoint)
    except ValueError as error:  # the client's messages have several lines
        raise ValueError(" ".join(str(error).split())) from error


def _push(api: HfApi, plan: SpacePush, repo: str, hardware: str | None, model: str | None) -> str:
    repo_type: Any = {"repo_type": "space"}
    try:
        existing = set(api.list_repo_files(repo, **repo_type))
    except RepositoryNotFoundError:
        existing = set()
        api.create_repo(repo, space_sdk="gradio", space_hardware=hardware, **repo_type)
    else:
        if not existing <= _INITIAL_FILES and "vlmcomp/__init__.py" not in existing:
            raise ValueError(f"the Space {repo} exists and contains something else: choose another name")
        if hardware:
            api.request_space_hardware(repo, hardware)
    folders = tuple(name for name in PUSHED_PATHS if name.endswith("/"))
    stale = sorted(name for name in existing - set(plan.files) if name.startswith(folders))
    changes = [
        *(CommitOperationDelete(name) for name in stale),
        *(CommitOperationAdd(name, plan.root / name) for name in plan.files if name != _CARD),
        CommitOperationAdd(_CARD, _card(plan.root / _CARD, model)),
    ]
    if model is not None:
        api.add_space_variable(repo, ENV_MODEL, model)
    head = plan.head + (" with changes" if plan.changed else "")
    api.create_commit(repo, changes, commit_message=f"vlmcomp {head}", **repo_type)
    return f"{api.endpoint}/spaces/{repo}"


def _card(file: Path, model: str | None) -> bytes:
    """README.md, whose front matter lets the Hub download the weights of ``model`` when it builds the Space."""
    text = file.read_text(encoding="utf-8")
    if model is None or registry.get_model_spec(model).bundled:
        return text.encode()
    start, front_matter, rest = text.split("---\n", 2)
    preload = f"preload_from_hub:\n- {registry.get_model_spec(model).source}\n"
    return f"{start}---\n{front_matter}{preload}---\n{rest}".encode()
