"""What the app's views say, against the recorded results: no Gradio server, no model."""

from __future__ import annotations

import base64
import csv
import html
import io
import itertools
import random
import re
from dataclasses import replace

import pytest
from PIL import Image

from vlmcomp.app import cards, details, downloads, explore_tab, handlers, recommend_tab, results, tables, text_diff
from vlmcomp.app.handlers import Card, Comparison
from vlmcomp.app.results import ResultFilter
from vlmcomp.data.answer_matching import exact_match
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import grid
from vlmcomp.reporting.comparison import compare, difference, scores_by_question
from vlmcomp.reporting.recommend import required_memory
from vlmcomp.results import store
from vlmcomp.results.answer import Answer
from vlmcomp.serving import recorded
from vlmcomp.serving.examples import draw_scene, get_examples

TASK = "shapes-vqa"
HARDWARE = results.hardware()[0]
VIEW = ResultFilter(HARDWARE, ("llava-shapes",))
NASTY = "<img src=x onerror=alert(1)> **bold** [x](javascript:alert(1))"


def _shown(view: ResultFilter) -> list[str]:
    return [r.recipe for r in results.select(results.reports(), view).shown]


def test_filters_leave_what_they_say() -> None:
    everything = _shown(ResultFilter(HARDWARE, axis="size"))
    budget = sorted(required_memory(results.find(HARDWARE, r)) for r in everything)[len(everything) // 2]
    for view, law in (
        (VIEW, lambda r: Recipe.parse(r.recipe).model == "llava-shapes"),
        (ResultFilter(HARDWARE, techniques=("quantized",)), lambda r: Recipe.parse(r.recipe).technique == "quantized"),
        (ResultFilter(HARDWARE, fits_bytes=budget), lambda r: required_memory(r) <= budget),
        (ResultFilter(HARDWARE, min_score=0.86), lambda r: r.quality[TASK].exact_match >= 0.86),
    ):
        wanted = [r for r in everything if law(results.find(HARDWARE, r))]
        assert _shown(replace(view, axis="size")) == wanted and 0 < len(wanted) < len(everything)
        assert [line[0] for line in tables.table(replace(view, axis="size"))] == wanted


def test_one_hardware_at_a_time() -> None:
    for slug in results.hardware():
        selection = results.select(results.reports(), ResultFilter(slug))
        assert {r.hardware.slug for r in selection.shown} == {slug}


def test_times_that_were_not_taken_in_turns_share_no_line() -> None:
    shown = results.select(results.reports(), ResultFilter(HARDWARE)).shown
    sets = results.comparable(shown, "speed")
    sessions = {r.latency.session for r in shown if r.latency.session}
    assert len(sets) == len(sessions)
    assert all(len({r.latency.session for r in each}) == 1 for each in sets)


def test_hits_give_the_same_interval_as_the_comparison() -> None:
    dense, small = (store.load_predictions(results.find(HARDWARE, f"llava-shapes/{n}"))[TASK] for n in ("fp16", "int4"))
    assert difference(scores_by_question(dense), scores_by_question(small)) == compare(dense, small).difference
    with pytest.raises(ValueError, match="same questions"):
        difference(scores_by_question(dense), scores_by_question(small[1:]))


def test_regressions_are_questions_that_fp16_had_right() -> None:
    report = results.find(HARDWARE, "llava-shapes/heads25+int4")
    lost = details.regressions(report)
    both = results.against_fp16(report)[0]
    assert len(lost) == both.regressions > details.MAX_REGRESSIONS
    for loss in lost:
        assert exact_match(loss.before, loss.reference) and not exact_match(loss.after, loss.reference)
    shown = details.render(HARDWARE, report.recipe)
    assert shown.count("<article") == details.MAX_REGRESSIONS == shown.count("data:image/png")
    assert all(html.escape(loss.question) in shown for loss in lost[: details.MAX_REGRESSIONS])
    for part in report.size.weight_bytes:
        assert not report.size.weight_bytes[part] or html.escape(part) in shown


def test_a_regressions_image_is_the_one_that_was_asked_about() -> None:
    from vlmcomp.data import task_registry

    sample = task_registry.get_task(TASK).all_samples[7]
    assert details.sample_image(TASK, sample.id).tobytes() == sample.image.tobytes()
    assert details.sample_image(TASK, "no such id") is None and details.sample_image("vqav2", sample.id) is None


def test_changed_words_are_marked_and_nothing_is_lost() -> None:
    rng = random.Random(3)
    vocabulary = ["a", "b", "<b>", "&", "Red", "red", '"q"', "star"]
    for _ in range(300):
        before, after = (" ".join(rng.choices(vocabulary, k=rng.randrange(7))) for _ in range(2))
        shown = text_diff.highlight_changes(before, after)
        left = re.sub(r"<del[^>]*>.*?</del>", "", shown)
        assert html.unescape(re.sub(r"</?mark>", "", left)).split() == after.split()
        assert ("<mark>" in shown or "<del" in shown) == (not text_diff.same_words(before, after))
        assert set(re.findall(r"</?(\w+)", shown)) <= {"mark", "del"}


def _answer(text: str) -> Answer:
    return Answer(text, 3, 10, 1.0, 2.0, 9.0, True)


def test_a_cut_answer_says_so() -> None:
    dense = Recipe("llava-shapes")
    whole, cut = (replace(_answer("a red"), finish_reason=reason) for reason in ("stop", "length"))
    shown = [cards.render(Comparison((Card(dense, "done", answer, device="cpu"),))) for answer in (whole, cut)]
    assert "cut" not in shown[0] and "a red… <small>(cut at 3 tokens)</small>" in shown[1]


def test_what_people_and_models_write_is_shown_as_text() -> None:
    dense, small = Recipe("llava-shapes"), Recipe("llava-shapes", (), "int8")
    told = (
        Card(dense, "done", _answer("red"), device=NASTY),
        Card(small, "done", _answer(NASTY), agrees=False, recorded=NASTY, reason=NASTY),
        Card(small, NASTY, error=True),
    )
    shown = cards.render(Comparison(told), known=NASTY)
    assert "<img" not in shown and html.escape("<img src=x") in shown
    assert shown.count("<article") == 3


def test_a_card_says_where_it_comes_from_and_what_changed() -> None:
    dense, small = Recipe("llava-shapes"), Recipe("llava-shapes", (), "int8")
    told = (
        Card(dense, "done", _answer("a red star"), 2_000_000, device="a machine"),
        Card(
            small, "done", _answer("a blue star"), 1_000_000, False, recorded="recorded on X, 2026-01-01", reason="no"
        ),
    )
    shown = cards.render(Comparison(told), known="red")
    assert "live on a machine" in shown and "recorded on X, 2026-01-01" in shown
    assert "<mark>blue</mark>" in shown and "≠ FP16" in shown and "0.50x" in shown
    assert shown.count("✓ right") == 1 and shown.count("✗ wrong") == 1
    assert "2.0 MB" in shown and shown.count("375.0 tokens/s") == 1  # another machine's times stand beside no live ones
    assert shown.count("Speed") == 1 and "Recorded answers" not in shown
    alone = cards.render(Comparison(tuple(replace(c, device="", recorded="recorded on X, 1", reason="") for c in told)))
    assert alone.count("Speed") == 2 and alone.count("tokens/s") == 2 and "Recorded answers" in alone
    failed = cards.render(Comparison(tuple(Card(r, "no Hub", error=True) for r in (dense, small))))
    assert failed.count("no Hub") == 1 and failed.count("see above") == 2 and "LLaVA-shapes" in failed
    other = cards.render(Comparison((told[0], replace(told[1], recorded="", device="another machine"))))
    assert other.count("Speed") == 1 and other.count("tokens/s") == 2


def test_recorded_answers_are_there_before_any_model_is_asked() -> None:
    for example, model in itertools.product(get_examples(), results.models_on(HARDWARE)):
        asked = handlers.default_variants(model)
        for card in handlers.recorded_first(example.image, example.question, asked).cards:
            image = recorded.open_image(example.image)
            found = recorded.lookup([card.recipe], image, example.question).get(card.recipe)
            assert (card.answer, card.recorded) == ((found.answer, found.provenance) if found else (None, ""))
            assert card.status == "waiting" and not card.error
            assert (card.agrees is None) == (card.answer is None or card.recipe == card.recipe.baseline)
    (card,) = handlers.recorded_first(example.image, "Is there a star on the moon?", asked[:1]).cards
    assert card.answer is None and not card.recorded


def test_every_offered_variant_and_example_exists() -> None:
    for model in registry.MODELS:
        assert set(handlers.default_variants(model)) <= set(handlers.variants(model))
        for start in range(0, len(handlers.variants(model)), handlers.MAX_VARIANTS):
            handlers.parse_recipes(handlers.variants(model)[start : start + handlers.MAX_VARIANTS])
    for example in get_examples():
        Image.open(example.image).verify()
        assert example.question
    assert sum(e.answer is not None for e in get_examples()) >= 4


def test_a_drawn_scene_comes_with_its_answer() -> None:
    drawn = [draw_scene(seed) for seed in range(20)]
    assert all(image.size == (96, 96) and question and answer for image, question, answer in drawn)
    assert len({image.tobytes() for image, _, _ in drawn}) == 20
    assert draw_scene(3)[1:] == drawn[3][1:]


def test_the_saved_table_is_the_shown_one_and_the_saved_chart_is_a_picture() -> None:
    view = explore_tab.read_filter(HARDWARE, ["llava-shapes"], ["quantized"], "size", None, 0)
    file = downloads.save_table(view)
    lines = list(csv.DictReader(io.StringIO(base64.b64decode(file["content"]).decode())))
    assert sorted(line["recipe"] for line in lines) == sorted(_shown(view))
    for line in lines:
        report = results.find(HARDWARE, line["recipe"])
        assert float(line[f"{TASK}.exact_match_share"]) == report.quality[TASK].exact_match
        assert line[f"{TASK}.exact_match_to_fp16_share"]  # FP16 is filtered out, and still compared with
    picture = downloads.save_chart("png", view)
    assert Image.open(io.BytesIO(base64.b64decode(picture["content"]))).format == "PNG"
    assert b"plotly" in base64.b64decode(downloads.save_chart("html", view)["content"])[:2000000].lower()


def test_what_is_chosen_for_me_is_shown_with_all_that_was_looked_at() -> None:
    found = recommend_tab.advise("llava-shapes", "8GB", 5, "memory")
    assert str(found.best.recipe) in recommend_tab.render(found)
    table = recommend_tab.render_candidates(found)
    assert (
        table.count("<tr>")
        == 1 + len(found.candidates)
        == 1 + len(grid.comparable_reports("llava-shapes", results.reports()))
    )
    assert table.count("<td>chosen</td>") == 1
    for bad in (
        (5, "8GB", 1, "memory"),
        ("llava-shapes", "8GB", "1", "memory"),
        ("llava-shapes", "8GB", True, "memory"),
    ):
        with pytest.raises(ValueError, match="must be"):
            recommend_tab.advise(*bad)


def test_programs_get_the_reports_numbers_or_one_sentence() -> None:
    assert len(results.to_records()) == len(results.reports())
    mine = results.to_records(HARDWARE, "llava-shapes")
    assert {r["hardware"] for r in mine} == {HARDWARE} and all(r["recipe"].startswith("llava-shapes/") for r in mine)
    with pytest.raises(ValueError, match="no results of model"):
        results.to_records(model="gpt")
