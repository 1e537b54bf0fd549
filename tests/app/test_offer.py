"""A real model beside the embedded one, from a stand-in Hub: offered, downloaded, asked about a photograph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.families import write
from tests.support.hub_server import Hub, connect, serve
from vlmcomp.app import handlers, real_models
from vlmcomp.models import registry

pytest_plugins = ["tests.support.browsing"]
SMALL = registry.get_model_spec("smolvlm-256m")
NUM_LIVE = "document.querySelectorAll('.card.done .badge.live').length"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that has the small SmolVLM, and a machine that has not looked for it yet."""
    with serve(SMALL.source, write(SMALL.name, tmp_path / "weights")) as running:
        connect(running, tmp_path / "cache", monkeypatch)
        real_models._probe.cache_clear()
        yield running
    real_models._probe.cache_clear()


def test_an_offer_is_downloaded_and_asked_about_a_photograph(hub: Hub, visit: Any) -> None:
    hub.broken = "model.safetensors"  # the connection is cut in the middle
    tab = visit()
    tab.wait_for_function("document.querySelector('#offer')?.innerText.includes('SmolVLM 256M can answer')")
    assert "to download" in tab.locator("#offer").inner_text()
    tab.get_by_role("button", name="Use it").click()
    tab.wait_for_function("document.querySelector('#offer').innerText.includes('is not here')")
    assert "interrupted" in tab.locator("#offer").inner_text()
    hub.broken = ""
    tab.get_by_role("button", name="Try again").click()
    tab.wait_for_function(
        "document.querySelector('#question textarea, #question input').value === 'What animal is this?'"
    )
    tab.wait_for_selector("#offer", state="hidden")
    assert tab.locator("#examples button").count() == 6 and not tab.locator("#knows").inner_text().strip()
    assert tab.locator("#variants .token").all_inner_texts()[0] == "FP16 · fp16"
    tab.click("#ask")
    tab.wait_for_function(f"{NUM_LIVE} === 3")
    assert "image read as one tile" in tab.locator(".card").first.inner_text()


def test_without_a_hub_nothing_is_offered_and_the_page_is_as_useful(visit: Any) -> None:
    real_models._probe.cache_clear()
    tab = visit()
    real_models._probe().wait(60)
    assert real_models.model_offer() == (True, None)
    tab.wait_for_selector(".card.recorded.done")
    assert tab.locator("#offer").count() == 0 or not tab.locator("#offer").is_visible()
    assert handlers.backend().name == "local"
