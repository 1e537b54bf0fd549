"""The road from the Hub: what is checked before a download, what a failure says, and that nothing is fetched twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download

from tests.support.families import write
from tests.support.hub_server import COMMIT, Hub, connect, serve
from vlmcomp.models import download, registry

NAME, REPO = "llava-1.5-7b", registry.get_model_spec("llava-1.5-7b").source
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write(NAME, tmp_path_factory.mktemp("weights"))
    (folder / "pytorch_model.bin").write_bytes(b"the same once more")
    return folder


@pytest.fixture
def there(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that can be reached, and an empty cache."""
    with serve(REPO, weights) as running:
        connect(running, tmp_path / "cache", monkeypatch)
        yield running


def _fetch(source: str | None = None, name: str = NAME, told: list | None = None) -> tuple[Path, str | None]:
    said = [] if told is None else told
    return download.download_weights(
        registry.get_model_spec(name), source, lambda text, share: said.append((text, share))
    )


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_a_model_comes_once_and_then_without_a_network(there: Hub, weights: Path, monkeypatch) -> None:
    told: list[tuple[str, float]] = []
    folder, commit = _fetch(told=told)
    assert commit == COMMIT and _names(folder) == _names(weights) - {"pytorch_model.bin"}
    assert all((folder / name).read_bytes() == (weights / name).read_bytes() for name in _names(folder))
    shares = [share for text, share in told if text.startswith("downloading")]
    assert shares == sorted(shares) and shares[-1] > 0.99

    sent = there.sent
    assert _fetch() == (folder, COMMIT) and there.sent == sent
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert _fetch() == (folder, COMMIT) and download.resolve_revision(registry.get_model_spec(NAME), None) == COMMIT


def test_the_commit_is_known_before_anything_comes(there: Hub, weights: Path, monkeypatch) -> None:
    entry = registry.get_model_spec(NAME)
    assert download.resolve_revision(entry, None) == COMMIT and download.resolve_revision(entry, str(weights)) is None
    assert there.sent == 0
    there.gated = True
    with pytest.raises(ValueError, match="is gated: accept its license"):
        download.resolve_revision(entry, None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="was not downloaded completely before"):
        download.resolve_revision(entry, None)


def test_a_broken_connection_is_taken_up_where_it_stopped(there: Hub, weights: Path) -> None:
    there.breaks = 3
    folder, _ = _fetch()
    assert there.breaks == 0 and there.sent < 1.2 * sum(f.stat().st_size for f in folder.iterdir())
    assert all((folder / name).read_bytes() == (weights / name).read_bytes() for name in _names(folder))


def test_a_stopped_download_keeps_the_files_that_came_whole(there: Hub, weights: Path, monkeypatch) -> None:
    there.broken = "model-00002-of"
    monkeypatch.setattr("huggingface_hub.file_download.http_get", _impatient())
    with pytest.raises(ValueError, match=f"the download of {REPO} was interrupted: run it again"):
        _fetch()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="was not downloaded completely before"):  # half a model is never used
        _fetch()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    whole = {name for name in there.asked if name.endswith(".safetensors") and not name.startswith(there.broken)}
    there.broken = ""
    there.asked.clear()
    folder, _ = _fetch()
    assert whole and not whole & set(there.asked)
    assert all((folder / name).read_bytes() == (weights / name).read_bytes() for name in _names(folder))


def _impatient():
    """The client's own download, that does not try again by itself."""
    whole = file_download.http_get
    return lambda *args, **kwargs: whole(*args, **kwargs | {"_nb_retries": 0})


def test_a_disk_that_is_too_small_is_told_before_anything_comes(there: Hub, tmp_path: Path, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10, 10, 1_500_000))
    with pytest.raises(ValueError, match=r"needs 7\.7 MB more on the disk of .*, which has 1\.5 MB free: make room"):
        _fetch()
    assert not any(name.endswith(".safetensors") for name in there.asked)


def test_a_gated_model_says_where_to_accept_and_how_to_log_in(there: Hub, monkeypatch) -> None:
    there.gated = True
    with pytest.raises(ValueError, match=rf"gated: accept its license at .*/{REPO}, then log in with 'hf auth login'"):
        _fetch()
    assert there.sent == 0
    monkeypatch.setenv("HF_TOKEN", "hf_given")
    assert _fetch()[1] == COMMIT


def test_what_the_hub_does_not_have(there: Hub) -> None:
    with pytest.raises(ValueError, match="the Hub has no model some/thing for you"):
        _fetch("some/thing")
    gone = registry.ModelSpec(**{**vars(registry.get_model_spec(NAME)), "revision": "v9"})
    with pytest.raises(ValueError, match=f"the Hub no longer has the revision v9 of {REPO}"):
        download.download_weights(gone, None, lambda text, share: None)


def test_another_family_is_refused_before_its_weights_come(there: Hub) -> None:
    with pytest.raises(ValueError, match="of the family 'llava', which is not qwen2-vl-2b's: choose llava"):
        _fetch(REPO, "qwen2-vl-2b")
    assert set(there.asked) <= {"config.json"}


def test_a_hub_that_cannot_be_reached_is_one_sentence_soon(there: Hub, monkeypatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=f"the Hub cannot be reached, and {REPO} was not downloaded"):
        _fetch()


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("/no/such/folder", "there is no such folder"),
        ("no/such/folder/either", "there is no such folder"),
        ("not a/name", "neither a folder nor a Hub id"),
        ("{empty}", "has no config.json"),
    ],
)
def test_a_source_that_is_nothing(source: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        _fetch(source.format(empty=tmp_path))


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_damaged_weights_are_one_sentence(damage: str, weights: Path, tmp_path: Path) -> None:
    from vlmcomp.models.loading import load

    copy = shutil.copytree(weights, tmp_path / "copy")
    shard = sorted(copy.glob("*.safetensors"))[-1]
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-1000])
    else:
        shard.unlink()
    with pytest.raises(ValueError, match=f"the weights of {NAME} in {copy} (cannot be read|are incomplete)"):
        load(registry.get_model_spec(NAME), str(copy), lambda text, share: None)


def test_the_command_line_builds_from_the_hub(there: Hub, tmp_path: Path) -> None:
    out = tmp_path / "small"
    command = [sys.executable, "-m", "vlmcomp", "build", f"{NAME}/int8", "--out", str(out), "--device", "cpu"]
    given = {"HF_ENDPOINT": there.url, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path / "cache")}
    given["HF_HUB_DISABLE_XET"] = "1"

    def run() -> subprocess.CompletedProcess:
        return subprocess.run(command, cwd=ROOT, env=os.environ | given, capture_output=True, text=True)

    there.gated = True
    refused = run()
    assert refused.returncode == 2 and not out.exists()
    assert refused.stderr.strip().splitlines()[-1].startswith(f"vlmcomp: {REPO} is gated: accept")
    assert "Traceback" not in refused.stderr
    there.gated = False
    assert run().returncode == 0 and (out / "config.json").exists()


def test_in_the_app_a_failed_download_is_its_cards_sentence(there: Hub, weights: Path, monkeypatch) -> None:
    from PIL import Image

    from vlmcomp.app.handlers import compare

    monkeypatch.setattr(
        "vlmcomp.compression.size_estimate.estimate_memory", lambda recipe: (0, 0)
    )  # these weights are tiny
    there.gated = True
    asked = (Image.new("RGB", (96, 96)), "What is it?", [f"{NAME}/int8"])
    *_, last = compare(*asked)
    assert last.cards[0].error and last.cards[0].status.startswith(f"{REPO} is gated: accept its license")
    there.gated = False
    *_, last = compare(*asked)  # the next question tries again
    assert last.cards[0].status == "done"
