"""The model that a machine is offered: the best that fits and can be had, found without holding anything up."""

from __future__ import annotations

import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from PIL import Image

from tests.support.families import write
from tests.support.hub_server import Hub, connect, serve
from vlmcomp import files
from vlmcomp.models import download, registry
from vlmcomp.recipe import Recipe
from vlmcomp.serving.local import LocalBackend
from vlmcomp.serving.manager import ModelUnavailable
from vlmcomp.serving.model_offer import CANDIDATES, ModelOffer, OfferProbe, find_offer

GB = 10**9
SMALL = "smolvlm-256m"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that has the small SmolVLM alone."""
    with serve(registry.get_model_spec(SMALL).source, write(SMALL, tmp_path / "weights")) as running:
        connect(running, tmp_path / "cache", monkeypatch)
        yield running


def test_the_best_model_that_the_hub_has_is_offered_until_it_is_here(hub: Hub) -> None:
    found = find_offer("cpu", 16 * GB)
    assert found is not None and found.model == SMALL  # the Hub does not have the larger one
    assert found.download_bytes == sum(f.stat().st_size for f in hub.files()) and not hub.sent
    assert "to download" in str(found)

    download.download_weights(registry.get_model_spec(SMALL), None, lambda text, fraction: None)
    assert find_offer("cpu", 16 * GB) == ModelOffer(SMALL, 0)


def test_weights_that_are_here_are_offered_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_offer("cpu", 16 * GB) is None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    download.download_weights(registry.get_model_spec(SMALL), None, lambda text, fraction: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_offer("cpu", 16 * GB) == ModelOffer(SMALL, 0)


def test_nothing_is_offered_that_has_no_room(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_offer("cpu", 100_000_000) is None
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage(GB, GB, 1000))
    assert find_offer("cpu", 16 * GB) is None


@pytest.mark.parametrize(("gigabytes", "model"), [(24, "llava-1.5-7b"), (8, "qwen2-vl-2b"), (2, "smolvlm-500m")])
def test_a_gpu_gets_the_largest_that_fits(gigabytes: int, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "bytes_to_download", lambda spec: 1)
    found = find_offer("cuda:0", int(0.85 * gigabytes * GB))
    assert found is not None and found.model == model


def test_a_visitor_never_waits_for_the_calibration_of_a_real_model(hub: Hub) -> None:
    answers = LocalBackend().stream(Recipe.parse(f"{SMALL}/glu30+int4"), Image.new("RGB", (64, 64)), "What is it?")
    with pytest.raises(ModelUnavailable, match=r"run vlmcomp compress smolvlm-256m/glu30\+int4 once"):
        list(answers)
    assert not hub.sent  # nor for its download


def test_an_offer_works_with_one_click() -> None:
    for name in {*CANDIDATES["cpu"], *CANDIDATES["cuda"]}:
        spec = registry.get_model_spec(name)
        assert not spec.gated and not spec.bundled


def test_the_search_holds_nothing_up_and_its_failure_is_no_offer() -> None:
    go = threading.Event()

    def find() -> ModelOffer:
        go.wait(30)
        return ModelOffer(SMALL, 5)

    probe = OfferProbe(find)
    assert not probe.wait(0) and probe.offer is None
    go.set()
    assert probe.wait(30) and probe.offer == ModelOffer(SMALL, 5)

    def fail() -> ModelOffer:
        raise RuntimeError("no")

    failed = OfferProbe(fail)
    assert failed.wait(30) and failed.offer is None
