"""Turns are taken in order, waits can be given up, and answers know what ran beside them."""

from __future__ import annotations

import threading
import time

import pytest

from vlmcomp.serving.waiting import BackgroundWork, Turns, Waiting, call_in_background


def test_turns_are_taken_in_the_order_of_asking_and_left_while_waiting() -> None:
    turns = Turns()
    with turns.take() as first:
        assert not list(first.wait())
        leaving, waiting = turns.take(), turns.take()
        second, third = leaving.__enter__(), waiting.__enter__()
        assert next(second.wait()) == Waiting("waiting for another answer")
        waits = third.wait()
        assert next(waits) == Waiting("waiting for 2 other answers")
        leaving.__exit__(None, None, None)
        assert next(waits) == Waiting("waiting for another answer")
    assert not list(waits)
    waiting.__exit__(None, None, None)
    assert not turns._queue


def test_a_call_in_the_background_gives_its_result_or_its_error_and_can_be_left() -> None:
    def result(call):
        try:
            while True:
                next(call)
        except StopIteration as end:
            return end.value

    assert result(call_in_background(lambda: 7, "counting")) == 7
    with pytest.raises(KeyError, match="lost"):
        result(call_in_background(lambda: {}["lost"], "looking"))
    gate = threading.Event()
    call = call_in_background(gate.wait, "waiting")
    assert next(call) == Waiting("waiting")
    call.close()  # returns although the call goes on
    gate.set()


def test_answers_know_what_ran_at_any_time_since_they_began() -> None:
    work = BackgroundWork()
    with work.running("build"):
        start = time.monotonic()
        assert work.since(start) == ["build"]
        with work.running("load"):
            pass
    assert work.since(start) == ["build", "load"]
    assert work.since(time.monotonic()) == []
