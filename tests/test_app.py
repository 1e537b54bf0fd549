"""The app as visitors and programs meet it: a real server, a real model, a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from vlmcomp import zoo
from vlmcomp.demo import handlers, page

BLUE = handlers.EXAMPLES / "easy-vqa-6.png"  # easy-VQA's test image 6: a blue shape


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    blocks = page.build()
    _, address, _ = blocks.launch(
        prevent_thread_lock=True, quiet=True, theme=page.THEME, css=page.CSS, server_name="127.0.0.1"
    )
    yield address
    blocks.close()


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False)


def test_fp16_and_int8_answer_an_easy_vqa_test_image(client: Client) -> None:
    asked = ["llava-shapes/int8", "llava-shapes/fp16"]
    cards = client.predict(
        handle_file(BLUE), "What color is the shape? Answer with one word.", asked, api_name="/compare"
    )
    assert [c["recipe"] for c in cards] == ["llava-shapes/fp16", "llava-shapes/int8"]
    assert [c["answer"] for c in cards] == ["blue", "blue"]
    assert cards[1]["agrees_with_fp16"] is True and cards[0]["weight_bytes"] > cards[1]["weight_bytes"]


@pytest.mark.parametrize(
    "question, recipes, sentence",
    [
        ("", ["llava-shapes/fp16"], "no question"),
        ("a" * 501, ["llava-shapes/fp16"], "at most 500"),
        ("Is there a star?", [], "no variant"),
        ("Is there a star?", ["llava-shapes/int5"], "did you mean"),
        ("Is there a star?", ["../../etc/fp16"], "not a recipe"),
        ("Is there a star?", ["gpt/fp16"], "unknown model"),
    ],
)
def test_bad_input_is_one_sentence_and_the_app_goes_on(
    client: Client, question: str, recipes: list[str], sentence: str
) -> None:
    with pytest.raises(AppError, match=sentence):
        client.predict(handle_file(BLUE), question, recipes, api_name="/compare")
    assert client.predict(api_name="/results") == handlers.results()


def test_a_file_that_is_no_image_is_one_sentence(client: Client, tmp_path) -> None:
    page_file = tmp_path / "page.png"
    page_file.write_text("<script>alert(1)</script>")
    for image, sentence in ((handle_file(page_file), "cannot be read"), (None, "no image")):
        with pytest.raises(AppError, match=sentence):
            client.predict(image, "Is there a star?", ["llava-shapes/fp16"], api_name="/compare")


def test_what_people_and_models_write_is_shown_as_text() -> None:
    recipe = handlers.Recipe("llava-shapes")
    shown = handlers.cards_html(handlers.Comparison((handlers.Card(recipe, "<script>x</script>", error=True),)))
    assert "<script>" not in shown and "&lt;script&gt;" in shown


def test_every_offered_variant_and_example_exists() -> None:
    for model in zoo.MODELS:
        assert set(handlers.usual_variants(model)) <= set(handlers.variants(model))
        for start in range(0, len(handlers.variants(model)), handlers.MAX_VARIANTS):
            handlers.check_recipes(handlers.variants(model)[start : start + handlers.MAX_VARIANTS])
    for path, question in handlers.examples():
        Image.open(path).verify()
        assert question


def test_in_a_browser(url: str) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=[*flags, "--disable-sync", "--no-first-run"])
        tab = browser.new_page()
        tab.goto(url, wait_until="domcontentloaded")
        tab.wait_for_selector("#ask", timeout=60_000)
        tab.set_input_files("input[type=file]", str(BLUE))
        tab.wait_for_selector("img[src*='easy-vqa-6']", timeout=60_000)
        tab.get_by_label("Question").fill("What color is the shape? Answer with one word.")
        tab.click("#ask")
        tab.wait_for_function("document.querySelectorAll('.card.done').length >= 4", timeout=180_000)
        answers = tab.locator(".card .answer").all_inner_texts()
        assert answers[:2] == ["blue", "blue"]
        tab.wait_for_selector("#scatter .js-plotly-plot", timeout=60_000)
        tab.wait_for_function("document.querySelector('#scatter').innerText.includes('measured now')", timeout=60_000)
        browser.close()
