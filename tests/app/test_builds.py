"""Builds as visitors meet them: they hold nobody up, and Stop, another question and a closed tab end them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file

from tests.support import builds
from tests.support.served import BLUE, QUESTION
from vlmcomp.app import handlers
from vlmcomp.recipe import Recipe
from vlmcomp.serving.local import LocalBackend

pytest_plugins = ["tests.support.browsing"]
RESIDENT = ["llava-shapes/fp16"]


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Builds stand still until this file exists."""
    return builds.prepare(tmp_path, monkeypatch)


def _ask_for_a_build(tab: Any) -> Any:
    """Asks the pruned variant, and returns the process that builds it."""
    tab.click("#ask")
    tab.wait_for_function("document.querySelector('.card .waiting')?.innerText.includes('building')")
    return builds.wait_for(builds.running)[0]


def _says(tab: Any, text: str) -> None:
    tab.wait_for_function(f"document.querySelector('#cards').innerText.includes('{text}')")


def test_a_build_holds_nobody_up_and_ends_with_its_visitor(visit: Any, url: str, gate: Path) -> None:
    client = Client(url, verbose=False)
    client.predict(handle_file(BLUE), QUESTION, RESIDENT, api_name="/compare")
    tab = visit("?example=scene-20&variants=fp16,glu30%2Bfp16")
    tab.wait_for_function("document.querySelector('.status').innerText.includes('In memory: fp16')")
    process = _ask_for_a_build(tab)
    (card,) = client.predict(handle_file(BLUE), QUESTION, RESIDENT, api_name="/compare")
    assert card["answer"] == "blue" and card["status"] == "done"
    assert card["beside"] == "a variant was built at low priority"
    assert process.is_running() and "building" in tab.locator("#cards").inner_text()

    tab.click("#stop")
    _says(tab, "live answer: stopped")
    assert builds.wait_for(lambda: not process.is_running())
    _ask_for_a_build(tab)
    tab.click("#again")  # goes on with the build, or with a new one
    _says(tab, "live answer: building")
    tab.get_by_role("button", name="What does 4-bit cost?").click()  # the pruned variant is wanted no longer
    assert builds.wait_for(lambda: not builds.running())
    tab.wait_for_function("document.querySelectorAll('#variants .token').length === 3")
    tab.click("#ask")
    tab.wait_for_function("document.querySelectorAll('.card.done .badge.live').length === 3")


@pytest.mark.parametrize("leaves", ["close", "cancel"])
def test_a_closed_tab_and_a_cancelled_call_end_a_build(visit: Any, url: str, gate: Path, leaves: str) -> None:
    if leaves == "close":
        tab = visit("?example=scene-20&variants=fp16,glu30%2Bfp16")
        process = _ask_for_a_build(tab)
        tab.close()
    else:
        job = Client(url, verbose=False).submit(handle_file(BLUE), QUESTION, [builds.PRUNED], api_name="/compare")
        process = builds.wait_for(builds.running)[0]
        job.cancel()
    assert builds.wait_for(lambda: not process.is_running())


def test_what_is_in_memory_answers_first(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = LocalBackend()
    monkeypatch.setattr(handlers, "backend", lambda: backend)
    *_, first = handlers.compare(BLUE, QUESTION, ["llava-shapes/int8"])
    assert first.cards[0].agrees is None
    seen = list(handlers.compare(BLUE, QUESTION, ["llava-shapes/fp16", "llava-shapes/int8"]))
    assert [card.recipe.name for card in seen[-1].cards] == ["fp16", "int8"]
    assert next(c.cards for c in seen if any(card.is_over for card in c.cards))[0].status == "waiting"
    assert seen[-1].cards[1].agrees is True and len(seen[-1].measurements) == 2
    assert [m.recipe.name for m in seen[-1].measurements] == ["int8", "fp16"]


def test_a_fixed_set_is_of_the_model_that_the_page_was_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    sets: list[list[Recipe]] = []
    monkeypatch.setattr(handlers, "create_backend", sets.append)
    monkeypatch.setitem(handlers._served, "model", "llava-shapes")
    handlers.serve("smolvlm-256m")
    handlers.backend.__wrapped__()
    assert {recipe.model for recipe in sets[0]} == {"smolvlm-256m"} and sets[0][0].name == "fp16"
