"""The app as visitors meet it: headless Chromium at a desk's and at a phone's width, a real server and real models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import support
from tests.support.served import BLUE, QUESTION
from vlmcomp.app import results
from vlmcomp.recipe import Recipe

pytest_plugins = ["tests.support.browsing"]
WIDTHS = (1440, 390)
HOLLOW = "document.querySelector('#scatter .js-plotly-plot')?.data.some(t => t.name === 'measured now')"
NUM_POINTS = (
    "document.querySelector('#scatter .js-plotly-plot').data.reduce((n, t) => n + (t.customdata || []).length, 0)"
)
OVERLAPPING = """() => {
  const boxes = [...document.querySelectorAll('#scatter .labels text')].map(t => [t.textContent, t.getBBox()]);
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>
    p.x < q.x + q.width && q.x < p.x + p.width && p.y < q.y + q.height && q.y < p.y + p.height).map(([b]) => [a, b]));
}"""
TRACES = "[...document.querySelector('#scatter .js-plotly-plot').data.map(t => t.name)]"


def view(tab: Any, name: str) -> None:
    """Open a view; a narrow page keeps the last ones in a menu."""
    found = tab.get_by_role("tab", name=name)
    if not found.first.is_visible():
        tab.locator("#views .overflow-menu > button").click()
        tab.locator("#views .overflow-dropdown").get_by_text(name).click()
        return
    found.first.click()


def choose_variants(tab: Any, *names: str) -> None:
    for box in tab.locator("#variants label").all():
        box.locator("input").set_checked(box.inner_text().strip() in names)


def open_by_keyboard(tab: Any, recipe: str) -> None:
    tab.get_by_label("Open a recipe").focus()
    tab.keyboard.press("ControlOrMeta+a")
    tab.keyboard.type(recipe, delay=10)
    tab.keyboard.press("Enter")


@pytest.mark.parametrize("width", WIDTHS)
def test_ask_two_answers_and_their_markers_on_the_chart(visit: Any, width: int) -> None:
    tab = visit(width=width)
    tab.set_input_files("input[type=file]", [{"name": "a.png", "mimeType": "image/png", "buffer": b"no image"}])
    tab.wait_for_function("document.querySelector('.toast-body')?.innerText.includes('cannot be read')")
    tab.wait_for_selector("input[type=file]", state="attached")  # the box is empty again
    tab.set_input_files("input[type=file]", str(BLUE))
    tab.wait_for_selector("img[src*='easy-vqa-6']")
    tab.get_by_label("Question").fill(QUESTION)
    choose_variants(tab, "fp16", "int8")
    tab.click("#ask")
    tab.wait_for_function("document.querySelectorAll('.card.done').length === 2")
    assert tab.locator(".card .answer").all_inner_texts() == ["blue", "blue"]
    assert all(text.startswith("● live on ") for text in tab.locator(".card .badge").all_inner_texts())
    assert "same as FP16" in tab.locator(".card").nth(1).inner_text()
    tab.get_by_label("Question").fill("Describe the image.")
    tab.click("#ask")
    tab.wait_for_function("[...document.querySelectorAll('.card.done')].some(c => c.innerText.includes('circle'))")
    tab.wait_for_function("document.querySelectorAll('.card.done').length === 2")
    tab.click("#share")
    tab.wait_for_function("document.querySelector('#link')?.innerText.includes('Your image stays with you')")
    view(tab, "Explore")
    tab.wait_for_function(HOLLOW)


@pytest.mark.parametrize("width", WIDTHS)
def test_no_view_is_wider_than_the_page_and_all_text_is_readable(visit: Any, width: int) -> None:
    low_contrast = Path(support.__file__).with_name("contrast.js").read_text(encoding="utf-8")
    tab = visit("?opened=llava-shapes/int4&least=1", width)
    for name, there in (
        ("Explore", ".details"),
        ("Choose for me", "#choose"),
        ("About", "#claims table"),
        ("Compare", "#cards .empty"),
    ):
        view(tab, name)
        tab.wait_for_selector(there)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, name
        widest = "Math.max(...[...document.querySelectorAll('.block')].map(e => e.getBoundingClientRect().right))"
        assert tab.evaluate(widest) <= width + 1, name
        for _ in ("light", "dark"):
            assert tab.evaluate(low_contrast) == [], name
            tab.click("#theme")
            tab.wait_for_timeout(400)  # colors fade


def test_a_point_a_row_and_the_keyboard_open_the_same_card(visit: Any) -> None:
    tab = visit("?tab=explore")
    tab.wait_for_selector("#scatter .labels text")
    assert tab.locator("#scatter .labels .rank0").all_text_contents() == ["FP16"] and tab.evaluate(OVERLAPPING) == []
    wanted = "llava-shapes/heads25+glu30+int8"
    place = f"""() => {{
      const plot = document.querySelector('#scatter .js-plotly-plot'), l = plot._fullLayout;
      for (const t of plot.data) for (let i = 0; i < (t.customdata || []).length; i++)
        if (t.customdata[i][0] === '{wanted}') {{
          const box = plot.getBoundingClientRect();
          return [box.x + l.xaxis._offset + l.xaxis.d2p(t.x[i]), box.y + l.yaxis._offset + l.yaxis.d2p(t.y[i])];
        }}
    }}"""
    tab.locator("#scatter").scroll_into_view_if_needed()
    tab.mouse.move(*tab.evaluate(place))
    tab.wait_for_selector("#scatter .hoverlayer .hovertext")
    assert wanted in tab.locator("#scatter .hoverlayer").text_content()
    tab.mouse.down()
    tab.mouse.up()
    tab.wait_for_function(f"document.querySelector('.details h3')?.innerText === '{wanted}'")
    tab.wait_for_function("document.activeElement === document.querySelector('.details')")
    tab.wait_for_function("document.querySelector('.details').getBoundingClientRect().top < 300")
    assert tab.locator(".losses article img").count() > 0
    row = tab.locator("#table [role=gridcell]").filter(has_text="llava-shapes/heads25+int8").first
    row.click()
    tab.wait_for_function("document.querySelector('.details h3')?.innerText === 'llava-shapes/heads25+int8'")
    open_by_keyboard(tab, "llava-shapes/glu20+int4")
    tab.wait_for_function("document.querySelector('.details h3')?.innerText === 'llava-shapes/glu20+int4'")


def test_a_filter_leaves_what_it_says_and_the_table_is_saved(visit: Any) -> None:
    tab = visit("?view=explore&axis=size")  # an earlier link
    tab.wait_for_selector("#scatter .js-plotly-plot .point")
    tab.get_by_text("More filters").click()
    everything = tab.evaluate(NUM_POINTS)
    least = tab.locator("#least input[type=number]")
    least.fill("87")
    least.press("Enter")
    tab.wait_for_function(f"{NUM_POINTS} < {everything}")
    tab.locator("#least input[type=range]").press("Home")
    tab.wait_for_function(f"{NUM_POINTS} === {everything}")
    tab.get_by_label("quantized").check()
    tab.wait_for_function(f"!{TRACES}.includes('MLP pruned') && {TRACES}.includes('quantized')")
    with tab.expect_download() as saved:
        tab.click("#csv")
    text = saved.value.path().read_text()
    view_ = results.ResultFilter(results.hardware()[0], ("llava-shapes",), ("quantized",), "size")
    shown = {r.recipe for r in results.select(results.reports(), view_).shown}
    assert all(recipe in text for recipe in shown) and "glu30" not in text
    with tab.expect_download() as saved:
        tab.click("#png")
    assert saved.value.path().read_bytes().startswith(b"\x89PNG")


def test_a_link_restores_the_page_in_a_fresh_browser(visit: Any) -> None:
    tab = visit("?example=scene-15&model=paligemma-shapes&variants=fp16,int4")
    tab.wait_for_selector("#examples button")
    tab.locator("#examples button[data-name=scene-20]").click()
    wanted = "What shape is the largest object?"
    tab.wait_for_function(f"document.querySelector('#question textarea, #question input').value === '{wanted}'")
    view(tab, "Explore")
    tab.wait_for_selector("#scatter .js-plotly-plot .point")
    tab.get_by_label("Quality vs size").check()
    tab.get_by_text("More filters").click()
    tab.get_by_label("quantized").check()
    open_by_keyboard(tab, "paligemma-shapes/int4")
    tab.wait_for_selector(".details h3")
    tab.click("#share")
    tab.wait_for_function("document.querySelector('#link textarea, #link input')?.value.startsWith('http')")
    link = tab.locator("#link textarea, #link input").input_value()
    tab.wait_for_function("document.querySelector('#share').innerText === 'Copied'")
    assert "tab=explore" in link and "example=scene-20" in link

    fresh = visit("?" + link.partition("?")[2])
    fresh.wait_for_selector("#scatter .js-plotly-plot .point")
    fresh.wait_for_function("document.querySelector('.details h3')?.innerText === 'paligemma-shapes/int4'")
    assert fresh.evaluate(TRACES) == tab.evaluate(TRACES)
    assert fresh.get_by_label("quantized").is_checked() and fresh.get_by_label("Quality vs size").is_checked()
    view(fresh, "Compare")
    assert fresh.get_by_label("Question").input_value() == "What shape is the largest object?"
    assert fresh.locator("#variants label:has(input:checked)").all_inner_texts() == ["fp16", "int4"]
    fresh.wait_for_selector("[data-testid=image] img, .image-container img, .image-frame img")


def test_a_build_that_fails_says_so_and_the_app_goes_on(visit: Any) -> None:
    tab = visit("?example=scene-20&model=llava-1.5-7b&variants=fp16,int8")
    tab.wait_for_selector("#examples button")
    tab.wait_for_function("document.querySelectorAll('#variants input:checked').length === 2")
    tab.click("#ask")
    tab.wait_for_function("document.querySelectorAll('.card.failed').length === 2")
    assert all(text.strip() for text in tab.locator(".card .failure").all_inner_texts())
    again = visit("?example=scene-20&variants=fp16,int4")
    again.wait_for_function("document.querySelectorAll('#variants input:checked').length === 2")
    again.click("#ask")
    again.wait_for_function("document.querySelectorAll('.card.done').length === 2")
    again.click("#again")
    again.wait_for_selector(".card.working")
    again.wait_for_function("document.querySelectorAll('.card.done').length === 2")


def test_surprise_brings_a_scene_whose_answer_is_known(visit: Any) -> None:
    tab = visit("?variants=fp16,int8")
    tab.wait_for_function("document.querySelectorAll('#variants input:checked').length === 2")
    tab.click("#surprise")
    tab.wait_for_function("document.querySelector('#question textarea, #question input').value !== ''")
    tab.click("#ask")
    tab.wait_for_function("document.querySelectorAll('.card.done').length === 2")
    assert tab.locator(".known").inner_text().startswith("Known answer: ")
    said = tab.locator(".card").first.inner_text()
    assert "right" in said or "wrong" in said


def test_choose_for_me_gives_a_recipe_and_its_command(visit: Any) -> None:
    visit("?view=api").wait_for_selector(".api-docs")
    tab = visit("?tab=choose&memory=8GB&loss=5", 390)
    tab.click("#choose")
    tab.wait_for_selector(".advice h3")
    recipe = Recipe.parse(tab.locator(".advice h3").inner_text())
    assert f"vlmcomp compress {recipe}" in tab.locator(".cm-content").first.inner_text()
    tab.get_by_label("My device has").fill("<b>lots</b>")
    tab.click("#choose")
    tab.wait_for_function("document.body.innerText.includes('is not an amount of memory')")
    assert tab.locator(".toast-body b:text('lots')").count() == 0
