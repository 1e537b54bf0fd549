"""Layout and wiring of the app."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr
from PIL.Image import DecompressionBombError

from vlmcomp import zoo
from vlmcomp.demo import handlers
from vlmcomp.demo.charts import LATENCIES, QUALITIES, Live, View, scatter
from vlmcomp.recipe import Recipe

CSS = Path(__file__).with_name("style.css").read_text()
THEME = gr.themes.Soft(primary_hue="blue", neutral_hue="slate", font=["system-ui", "sans-serif"])
_LEAD = """# vlmcomp
What does compression cost a vision-language model? Ask one question of the same model in FP16, INT8, INT4 and with
neurons or attention heads removed, and see answers, speed and size side by side."""
_HEAD = ["Recipe", "Exact match %", "Composite", "First token ms", "ms per token", "Weights MB"]


class _Upload(gr.Image):
    """An image whose unreadable file is one sentence, and not an error inside the component."""

    is_template = True  # drawn as the component it extends

    def preprocess(self, payload: Any) -> Any:
        try:
            return super().preprocess(payload)
        except (OSError, SyntaxError, DecompressionBombError):
            raise gr.Error(
                "the image cannot be read: use a PNG, JPEG or WebP file of usual size", print_exception=False
            ) from None


def _table(model: str, hardware: str | None) -> list[list[Any]]:
    rows = []
    for r in handlers.results():
        if Recipe.parse(r["recipe"]).model != model or r["hardware"] != hardware:
            continue
        if r["error"] or r["exact_match"] is None:
            rows.append([r["recipe"], "failed", "", "", "", ""])
            continue
        shown = (f"{100 * r['exact_match']:.1f}", f"{r['composite']:.3f}", f"{r['ttft_ms']:.1f}")
        rows.append([r["recipe"], *shown, f"{r['decode_ms_per_token']:.2f}", f"{r['weight_bytes'] / 1e6:.2f}"])
    return rows


def _ask(
    image: str | None,
    question: str,
    recipes: list[str],
    model: str,
    hardware: str | None,
    quality: str,
    latency: str,
    progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by its default
) -> Iterator[tuple[str, Any, list[dict[str, Any]], str]]:
    view = View(hardware, model, quality, latency)
    try:
        for news in handlers.compare(image, question, recipes, lambda text, share: progress(share, desc=text)):
            live = [{**asdict(m), "recipe": str(m.recipe)} for m in news.live]
            done = len(news.live) == len(news.cards) or not any(c.status == "answering" for c in news.cards)
            figure = scatter(handlers.reports(), view, news.live) if done else gr.skip()
            yield handlers.cards_html(news), figure, live, handlers.resident_text()
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from None


def _draw(model: str, hardware: str | None, quality: str, latency: str, live: list[dict[str, Any]]) -> tuple[Any, Any]:
    measured = [Live(**{**m, "recipe": Recipe.parse(m["recipe"])}) for m in live]
    figure = scatter(handlers.reports(), View(hardware, model, quality, latency), measured)
    return figure, _table(model, hardware)


def _choose_model(model: str) -> Any:
    return gr.CheckboxGroup(choices=_choices(model), value=handlers.usual_variants(model))


def _choices(model: str) -> list[tuple[str, str]]:
    return [(Recipe.parse(v).name, v) for v in handlers.variants(model)]


def compare(image: str | None, question: str, recipes: list[str]) -> list[dict[str, Any]]:
    """Ask one question about an image of several compressed variants.

    Args:
        image: path of an uploaded image.
        question: the question, at most 500 characters.
        recipes: variants such as "llava-shapes/int8"; at most six.

    Returns:
        One record a variant: recipe, answer, agrees with FP16, times in milliseconds, weight bytes,
        where and when it was recorded if it is not live, error.
    """
    try:
        *_, last = handlers.compare(image, question, recipes)
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from None
    return [
        {
            "recipe": str(c.recipe),
            "answer": c.answer.text if c.answer else None,
            "agrees_with_fp16": c.agrees,
            "ttft_ms": c.answer.ttft_ms if c.answer else None,
            "tokens_per_second": c.answer.tokens_per_second if c.answer else None,
            "total_ms": c.answer.total_ms if c.answer else None,
            "weight_bytes": c.weight_bytes,
            "recorded": c.recorded or None,
            "error": c.status if c.error else None,
        }
        for c in last.cards
    ]


def results() -> list[dict[str, Any]]:
    """Every recorded result: recipe, hardware, quality, latency and weight bytes."""
    return handlers.results()


def build(model: str = zoo.DEFAULT) -> gr.Blocks:
    """The page, with ``model`` chosen at first."""
    gpu: dict[str, Any] = {"concurrency_id": "gpu", "concurrency_limit": 1}  # timed answers must not share the machine
    if handlers.models().name == "replay":
        gpu = {"concurrency_limit": None}
    machines = handlers.hardware()
    first = machines[0] if machines else None
    with gr.Blocks(title="vlmcomp", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(_LEAD)
        live = gr.State([])
        with gr.Row(elem_classes="sides"):
            with gr.Column(scale=2, min_width=320):
                image = _Upload(type="filepath", sources=["upload", "webcam", "clipboard"], label="Image", height=300)
                question = gr.Textbox(label="Question", placeholder="What color is the shape?", lines=2, max_lines=4)
                gr.Examples(handlers.examples(), [image, question], label="Examples", examples_per_page=8)
            with gr.Column(scale=3, min_width=320):
                choice = gr.Dropdown(list(zoo.MODELS), value=model, label="Model")
                picked = gr.CheckboxGroup(
                    _choices(model), value=handlers.usual_variants(model), label="Variants (at most six)"
                )
                with gr.Row():
                    go = gr.Button("Ask", variant="primary", elem_id="ask")
                    stop = gr.Button("Stop", variant="secondary")
                cards = gr.HTML('<p class="hint">Answers appear here.</p>', elem_id="cards")
                held = gr.Markdown(handlers.resident_text(), elem_classes="resident")
        gr.Markdown(
            "## Quality against speed\nRecorded results; bubble area is weight size. Hollow: measured just now."
        )
        with gr.Row():
            machine = gr.Dropdown(machines, value=first, label="Recorded on")
            quality = gr.Dropdown(list(QUALITIES), value=next(iter(QUALITIES)), label="Quality")
            latency = gr.Dropdown(list(LATENCIES), value=next(iter(LATENCIES)), label="Latency")
        view = [choice, machine, quality, latency]
        plot = gr.Plot(scatter(handlers.reports(), View(first, model)), elem_id="scatter", show_label=False)
        table = gr.Dataframe(_table(model, first), headers=_HEAD, interactive=False, label="The same as a table")
        inputs, outputs = [image, question, picked, *view], [cards, plot, live, held]
        runs = [
            event(_ask, inputs, outputs, api_visibility="private", show_progress_on=cards, **gpu)
            for event in (go.click, question.submit)
        ]
        stop.click(None, cancels=runs, api_visibility="private")
        choice.change(_choose_model, choice, picked, api_visibility="private")
        for part in view:
            part.change(_draw, [*view, live], [plot, table], api_visibility="private")
        asked, told, knock = gr.JSON(visible=False), gr.JSON(visible=False), gr.Button(visible=False)
        # through the image component, which admits uploaded files alone; gr.api would take any path
        knock.click(compare, [image, question, asked], told, api_name="compare", **gpu)
        gr.api(results, api_name="results")
    return page.queue(max_size=32)


def launch(page: gr.Blocks, host: str, port: int | None, share: bool) -> None:
    """Serve ``page``; a share link that cannot be had does not stop it."""
    settings: dict[str, Any] = {
        "server_name": host,
        "server_port": port,
        "theme": THEME,
        "css": CSS,
        "max_file_size": "16mb",
        "show_error": False,
        "footer_links": ["api"],
        "run_history": False,
    }
    try:
        page.launch(share=share, **settings)
    except Exception as error:
        if not share:
            raise
        print(f"No share link could be made ({type(error).__name__}); serving on this machine alone.")
        page.launch(share=False, **settings)
