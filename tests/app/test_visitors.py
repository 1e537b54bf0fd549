"""Visitors beside each other: nobody waits for another's answer without need, and nobody is harmed by another."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from gradio.queueing import Queue

from tests.support.served import BLUE, QUESTION
from vlmcomp.app import handlers

pytest_plugins = ["tests.support.browsing"]
TURN = "!document.querySelector('.card').innerText.includes('recorded on')"  # the live answer has begun


def _slowly(monkeypatch: pytest.MonkeyPatch, gate: threading.Event) -> None:
    """Every live answer stands still after its first token until ``gate`` is open."""
    live = handlers._live_cards

    def answer(*given: Any) -> Iterator[Any]:
        with closing(live(*given)) as news:
            for card in news:
                yield card
                while card.status in ("answering", "done") and not gate.wait(0.05):
                    yield card

    monkeypatch.setattr(handlers, "_live_cards", answer)


def test_recorded_answers_do_not_wait_for_another_visitors_live_one(visit: Any, monkeypatch) -> None:
    gate = threading.Event()
    all_in_memory = [f"llava-shapes/{name}" for name in ("fp16", "int8", "int4")]
    list(handlers.compare(BLUE, QUESTION, all_in_memory))
    _slowly(monkeypatch, gate)
    try:
        tab, other = visit("?variants=fp16,int8"), visit("?variants=fp16,int4")
        for visitor in (tab, other):
            visitor.locator("#examples button").first.click()
            visitor.wait_for_function("document.querySelector('#question textarea, #question input').value !== ''")
        tab.click("#ask")
        tab.wait_for_selector(".card .answer")
        tab.wait_for_function(TURN)
        other.click("#ask")
        other.wait_for_function("document.querySelectorAll('.card .badge.recorded').length === 2")
        other.wait_for_function("document.querySelector('.card .waiting').innerText.includes('another answer')")
        says = ["live answer: waiting for another answer…", "live answer: waiting…"]
        assert other.locator(".card .waiting").all_inner_texts() == says
        assert sum(model.leases for model in handlers.backend().loaded_models()) == 1  # the other visitor's
    finally:
        gate.set()
    for visitor in (tab, other):
        visitor.wait_for_function("document.querySelectorAll('.card.done .badge.live').length === 2")


def test_a_full_queue_refuses_answers_alone(visit: Any, monkeypatch) -> None:
    monkeypatch.setattr(Queue, "__len__", lambda queue: 10_000)
    tab = visit("?view=explore&opened=llava-shapes/int4&goal=beauty")
    assert "not available here (goal)" in tab.locator("#note").inner_text()
    tab.wait_for_function("document.querySelector('.details h3')?.innerText === 'llava-shapes/int4'")
    tab.wait_for_selector("#scatter .point")
    tab.get_by_role("tab", name="Compare").click()
    tab.locator("#examples button").first.click()
    tab.wait_for_function("document.querySelector('#question textarea, #question input').value !== ''")
    tab.click("#ask")
    tab.wait_for_function("document.querySelectorAll('.card .badge.recorded').length > 1")
    tab.wait_for_function("document.body.innerText.includes('currently busy')")


def test_markup_of_links_questions_and_models_stays_text(visit: Any, monkeypatch) -> None:
    nasty = "<img src=x onerror=window.hit=1><script>window.hit=1</script> **bold** [x](javascript:window.hit=1)"
    live = handlers._live_cards

    def answer(*given: Any) -> Iterator[Any]:
        for card in live(*given):
            yield replace(card, answer=card.answer and replace(card.answer, text=nasty))

    monkeypatch.setattr(handlers, "_live_cards", answer)
    tab = visit(f"?example=scene-20&variants=fp16,int8&opened={quote(nasty)}&question={quote(nasty)}")
    assert tab.get_by_label("Question").input_value() == nasty
    tab.click("#ask")
    tab.wait_for_function("document.querySelectorAll('.card.done').length === 2")
    assert tab.locator(".card .answer").all_inner_texts() == [nasty] * 2
    assert tab.locator("#cards img, #cards script, #cards a, .toast-body img").count() == 0
    assert tab.evaluate("window.hit") is None


@pytest.mark.parametrize("leaves", ["stop", "close"])
def test_stopping_and_leaving_free_the_model(visit: Any, monkeypatch, leaves: str) -> None:
    gate = threading.Event()
    _slowly(monkeypatch, gate)
    try:
        tab = visit("?example=scene-20&variants=fp16,int8")
        tab.click("#ask")
        tab.wait_for_selector(".card .answer")
        tab.wait_for_function(TURN)
        assert any(held.leases for held in handlers.backend().loaded_models())
        if leaves == "stop":
            tab.click("#stop")
        else:
            tab.close()
        until = time.monotonic() + 120
        while any(held.leases for held in handlers.backend().loaded_models()) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(held.leases for held in handlers.backend().loaded_models())
    finally:
        gate.set()
