"""Headless Chromium, the app on a local port, and pages in it, for tests of the page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.served import app

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run")
TIMEOUT_MS = 120_000


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with app() as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Any]:
    """``visit(query, width)``: a page in a context of its own, whose scripts must not fail. Of a test that fails pytest
    shows what the page asked of the app and said in the end."""
    contexts, failures = [], []

    def visit(query: str = "", width: int = 1440) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}))
        contexts[-1].grant_permissions(["clipboard-read", "clipboard-write"])
        tab = contexts[-1].new_page()
        tab.set_default_timeout(TIMEOUT_MS)
        tab.on("requestfinished", lambda request: print(request.method, request.url, (request.post_data or "")[:200]))
        tab.on("pageerror", lambda error: failures.append(f"{error} {error.stack}"))
        tab.goto(url + query, wait_until="domcontentloaded")
        tab.wait_for_selector("body.ready #views [role=tab]")
        return tab

    yield visit
    for context in contexts:
        for tab in context.pages:
            print(tab.url, tab.locator("#cards, .toast-body").all_inner_texts())
        context.close()
    assert not failures, "\n".join(failures)
