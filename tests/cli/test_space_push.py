"""Pushing to a Space: the files, their licenses, the state of the Space afterwards, and errors of the Hub."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants, metadata_load

from tests.support import space_server
from vlmcomp.cli import main, space
from vlmcomp.models import registry

ROOT = space.ROOT
NAME = "user/vlmcomp"
GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false", "-C")


@pytest.fixture(scope="module")
def whole() -> space.SpacePush:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return space.plan_push()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout with one bundled model."""
    root = tmp_path / "checkout"
    model = root / "assets/models/llava-shapes"
    for file, text in {
        root / "README.md": "---\nsdk: gradio\nlicense: apache-2.0\n---\n",
        root / "app.py": "print('app')\n",
        root / "vlmcomp/__init__.py": "",
        root / "tests/test_x.py": "",
        root / "Makefile": "",
        model / "README.md": "---\nlicense: apache-2.0\n---\n",
        model / "model.safetensors": "weights",
    }.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    subprocess.run(["git", "init", "-q", root], check=True)
    _commit(root)
    return root


def _commit(root: Path) -> None:
    subprocess.run([*GIT, root, "add", "-A"], check=True)
    subprocess.run([*GIT, root, "commit", "-q", "-m", "all"], check=True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[space_server.Spaces]:
    """A Hub that can be reached, and a token for it."""
    with space_server.serve() as running:
        for name, value in (("ENDPOINT", running.url), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", space_server.TOKEN)
        yield running


def _push(plan: space.SpacePush, repo: str = NAME, hardware: str | None = None) -> str:
    return space.push(space.connect(), plan, repo, hardware)


def _content(plan: space.SpacePush) -> dict[str, bytes]:
    return {name: (plan.root / name).read_bytes() for name in plan.files}


def test_only_tracked_files_of_the_app_are_pushed(whole: space.SpacePush) -> None:
    for wanted in space.PUSHED_PATHS:
        assert any(name == wanted or (wanted[-1] == "/" and name.startswith(wanted)) for name in whole.files), wanted
    names = set(whole.files)
    assert names and not any(re.match(r"tests/|\.|.*__pycache__|.*-dev|Makefile", name) for name in names)
    assert whole.files["app.py"] == (ROOT / "app.py").stat().st_size
    assert set(whole.models) == {m.name for m in registry.MODELS.values() if m.bundled}
    assert sum(whole.files.values()) < 1e9  # more than a Space's repository holds


def test_a_plan_says_what_differs_from_the_commit(checkout: Path) -> None:
    model = "assets/models/llava-shapes"
    (checkout / "vlmcomp/__init__.py").write_text("x = 1\n")
    (checkout / "vlmcomp/new.py").write_text("")
    plan = space.plan_push(checkout)
    assert set(plan.files) == {
        "README.md",
        "app.py",
        "vlmcomp/__init__.py",
        f"{model}/README.md",
        f"{model}/model.safetensors",
    }
    assert plan.files["vlmcomp/__init__.py"] == 6 and plan.models == {"llava-shapes": "Apache-2.0"}
    assert plan.changed == ["vlmcomp/__init__.py"] and plan.untracked == ["vlmcomp/new.py"]


def _card(root: Path) -> Path:
    return root / "assets/models/llava-shapes/README.md"


def _weights(root: Path, name: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("weights")
    _commit(root)


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (
            lambda root: _weights(root, "assets/models/paligemma-3b/model.safetensors"),
            "Gemma Terms of Use, the model is gated",
        ),
        (lambda root: _weights(root, "assets/models/llava-1.5-7b/a/b.bin"), "Llama 2 .* not allow redistribution"),
        (lambda root: _weights(root, "vlmcomp/extra.pt"), "vlmcomp/extra.pt contains weights of a model"),
        (lambda root: _weights(root, "assets/models/mine/model.gguf"), "model.gguf contains weights of a model"),
        (lambda root: _card(root).write_text("---\nlicense: mit\n---\n"), "llava-shapes/README.md states mit: fix it"),
        (lambda root: _card(root).write_text("# no front matter\n"), "llava-shapes/README.md states none: fix it"),
        (lambda root: (root / "README.md").write_text("---\nlicense: mit\n---\n"), "states license mit, but llava"),
        (lambda root: (root / "README.md").write_text("# no front matter\n"), "README.md states no license"),
        (lambda root: (root / "README.md").write_text("---\na: [\n---\n"), "README.md states no license"),
        (lambda root: (root / "app.py").unlink(), "app.py is tracked by git but is not a regular file"),
        (lambda root: shutil.rmtree(root / ".git"), "is not a git checkout"),
    ],
)
def test_a_forbidden_push_is_one_sentence(checkout: Path, spoil, sentence: str) -> None:
    spoil(checkout)
    with pytest.raises(ValueError, match=sentence) as refused:
        space.plan_push(checkout)
    assert "\n" not in str(refused.value)


def test_a_bundled_model_that_becomes_gated_is_refused(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = registry.get_model_spec("llava-shapes")
    monkeypatch.setitem(registry.MODELS, row.name, replace(row, gated=True))
    with pytest.raises(ValueError, match="the model is gated"):
        space.plan_push(checkout)


def test_the_checkout_becomes_a_space_in_one_commit(hub: space_server.Spaces, whole: space.SpacePush) -> None:
    assert _push(whole, hardware="zero-a10g") == f"{hub.url}/spaces/{NAME}"
    assert hub.files[NAME] == _content(whole) | {".gitattributes": hub.files[NAME][".gitattributes"]}
    assert hub.hardware[NAME] == "zero-a10g" and len(hub.commits) == 1 and whole.head in hub.commits[0]


def test_a_second_push_brings_only_what_changed(hub: space_server.Spaces, checkout: Path) -> None:
    _push(space.plan_push(checkout))
    hub.files[NAME]["notes.md"] = b"the user's own"
    _push(space.plan_push(checkout))
    assert len(hub.commits) == 1  # nothing new, no new build
    (checkout / "vlmcomp/__init__.py").rename(checkout / "vlmcomp/other.py")
    (checkout / "vlmcomp/__init__.py").write_text("x = 2\n")
    (checkout / "assets/models/llava-shapes/model.safetensors").unlink()
    _commit(checkout)
    plan = space.plan_push(checkout)
    _push(plan, hardware="l4x1")
    untouched = {name: hub.files[NAME][name] for name in (".gitattributes", "notes.md")}
    assert hub.files[NAME] == _content(plan) | untouched and hub.hardware[NAME] == "l4x1" and len(hub.commits) == 2


def test_a_space_prepares_the_model_that_it_shows_first(hub: space_server.Spaces, checkout: Path) -> None:
    space.push(space.connect(), space.plan_push(checkout), NAME, model="smolvlm-500m")
    assert hub.variables == {"VLMCOMP_MODEL": "smolvlm-500m"}
    (checkout / "card.md").write_bytes(hub.files[NAME]["README.md"])
    card = metadata_load(checkout / "card.md")
    assert card == {
        "sdk": "gradio",
        "license": "apache-2.0",
        "preload_from_hub": ["HuggingFaceTB/SmolVLM-500M-Instruct"],
    }


def test_every_hardware_has_a_model_that_fits() -> None:
    small = dict.fromkeys((None, "cpu-basic", "cpu-upgrade"), "smolvlm-500m")
    middle = dict.fromkeys(("zero-a10g", "t4-small"), "qwen2-vl-2b")
    for hardware, model in (small | middle | dict.fromkeys(("l4x1", "a100-large"), "llava-1.5-7b")).items():
        assert space.first_model(hardware) == model and not registry.get_model_spec(model).gated


def test_a_space_that_holds_something_else_is_left_alone(hub: space_server.Spaces, checkout: Path) -> None:
    hub.files[NAME] = before = {"README.md": b"mine", "app.py": b"mine"}
    with pytest.raises(ValueError, match="contains something else: choose another name"):
        _push(space.plan_push(checkout))
    assert hub.files[NAME] is before and not hub.commits


def test_an_upload_that_breaks_changes_nothing_and_can_be_run_again(
    hub: space_server.Spaces, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.lost_uploads = 1
    with pytest.raises(ValueError, match="was interrupted, and nothing of it is visible: run it again"):
        _push(space.plan_push(checkout))
    assert set(hub.files[NAME]) == {".gitattributes", "README.md"}
    _push(space.plan_push(checkout))
    assert hub.files[NAME].items() >= _content(space.plan_push(checkout)).items()


@pytest.mark.parametrize(
    "status, message, sentence",
    [
        (402, "a paid plan is needed", "refuses user/vlmcomp with 402: a paid plan is needed"),
        (403, "no rights", "your token may not write to user/vlmcomp: use one with write access to user"),
        (500, "internal", "refuses user/vlmcomp with 500: .*internal"),
    ],
)
def test_errors_of_the_hub_are_one_sentence(
    hub: space_server.Spaces, checkout: Path, status: int, message: str, sentence: str
) -> None:
    hub.create_error = (status, message)
    with pytest.raises(ValueError, match=sentence) as refused:
        _push(space.plan_push(checkout))
    assert "\n" not in str(refused.value) and not hub.files


def _run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main.main(["deploy", *words])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_a_dry_run_lists_every_file_and_pushes_nothing(
    hub: space_server.Spaces, whole: space.SpacePush, capsys
) -> None:
    status, out, _ = _run(capsys, "--to", NAME, "--dry-run")
    listed = {name: int(size.replace(",", "")) for size, name in re.findall(r"^ *([\d,]+)  (\S+)$", out, re.M)}
    assert status == 0 and listed == whole.files and not hub.files
    total = f"{len(whole.files)} files, {sum(whole.files.values()) / 1e6:.1f} MB, license apache-2.0"
    assert total in out and "llava-shapes      Apache-2.0" in out and "nothing was pushed" in out


@pytest.mark.parametrize("name", ["vlmcomp", "a/b/c", "user/..", "user/a b", "/vlmcomp", "user/" + "x" * 100])
def test_a_wrong_name_is_one_sentence(name: str, capsys) -> None:
    status, out, err = _run(capsys, "--to", name, "--dry-run")
    assert (status, out) == (2, "") and err == f"vlmcomp: '{name}' is not a valid name of a Space: use user/space\n"


def test_hardware_that_spaces_do_not_have_is_one_sentence(capsys) -> None:
    status, _, err = _run(capsys, "--to", NAME, "--hardware", "3090", "--dry-run")
    assert status == 2 and "'3090' is not a hardware of Spaces: choose from cpu-basic" in err and err.count("\n") == 1


def _last(err: str) -> str:
    *before, last = err.splitlines()
    assert all(line.startswith(("pushing ", "with uncommitted", "not tracked")) for line in before)
    return last


def test_no_token_a_wrong_one_and_no_network_are_one_sentence(
    hub: space_server.Spaces, whole: space.SpacePush, capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    status, _, err = _run(capsys, "--to", NAME)
    assert status == 2 and "does not accept your token: log in again" in _last(err)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    status, _, err = _run(capsys, "--to", NAME)
    assert status == 2 and "there is no Hub token: log in with 'hf auth login'" in _last(err)
    monkeypatch.setenv("HF_TOKEN", space_server.TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    status, _, err = _run(capsys, "--to", NAME)
    assert status == 2 and "cannot be reached: try again with a network" in _last(err)
    assert not hub.files
