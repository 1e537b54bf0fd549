"""Many visitors at once, for two minutes: ``pytest -m slow tests/test_crowd.py -s`` prints the figures."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from gradio_client import Client, handle_file

from tests.support.served import process, served
from vlmcomp.serving.examples import get_examples

ROOT = Path(__file__).resolve().parents[2]
VISITORS, SECONDS = 64, 120
RECIPES = [f"llava-shapes/{name}" for name in ("fp16", "int8", "int4", "glu30+fp16")]
QUEUE = ("queue is full", "too many")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The app in a process of its own, as users start it."""
    log = tmp_path / "log"
    with process(ROOT, log) as (url, app):
        assert served(url, app), log.read_text()
        yield url, psutil.Process(app.pid)
    assert "Traceback" not in log.read_text()


@pytest.mark.slow
def test_64_visitors_for_two_minutes(server: tuple[str, psutil.Process]) -> None:
    url, running = server
    examples = get_examples()
    first = Client(url, verbose=False)
    wanted = {
        (e.name, card["recipe"]): card["answer"]
        for e in examples
        for card in first.predict(handle_file(e.image), e.question, RECIPES, api_name="/compare")
    }
    told, wrong, answered = Counter(), [], Counter()
    stop = time.monotonic() + SECONDS

    def visit(number: int) -> None:
        luck = random.Random(number)
        try:
            client = Client(url, verbose=False)
        except Exception as error:
            wrong.append(repr(error))
            return
        while time.monotonic() < stop:
            example, recipes = luck.choice(examples), luck.sample(RECIPES, luck.randint(1, 2))
            try:
                cards = client.predict(handle_file(example.image), example.question, recipes, api_name="/compare")
            except Exception as error:
                queue = any(said in str(error).lower() for said in QUEUE)
                told["queue" if queue else "error"] += 1
                wrong.extend([] if queue else [repr(error)])
                time.sleep(3 + 4 * luck.random())  # who was refused waits before asking again
                continue
            told["answered"] += 1
            answered[number] += 1
            if {c["recipe"]: c["answer"] for c in cards} != {r: wanted[example.name, r] for r in recipes}:
                wrong.append((example.name, recipes, cards))

    visitors = [threading.Thread(target=visit, args=(n,), daemon=True) for n in range(VISITORS)]
    for visitor in visitors:
        visitor.start()
    memory = []
    while time.monotonic() < stop:
        memory.append(running.memory_info().rss / 1e6)
        time.sleep(2)
    for visitor in visitors:
        visitor.join(120)
    assert not any(v.is_alive() for v in visitors) and not wrong, wrong[:3]
    early, late = (sorted(part)[len(part) // 2] for part in (memory[10:25], memory[-15:]))
    print(f"\n{dict(told)}; answers to {len(answered)} of {VISITORS} visitors; RSS {early:.0f} MB, then {late:.0f} MB")
    assert told["answered"] > VISITORS and late < 1.05 * early + 20
