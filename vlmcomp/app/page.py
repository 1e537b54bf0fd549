"""The page: its frame, its four views, links to any state of it, and how it is served."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import Any

import gradio as gr

from vlmcomp.app import about_tab, api, compare_tab, explore_tab, handlers, permalink, recommend_tab, results
from vlmcomp.app.compare_tab import CompareComponents
from vlmcomp.app.events import NO_PROGRESS
from vlmcomp.app.explore_tab import ExploreComponents
from vlmcomp.app.permalink import Link
from vlmcomp.app.recommend_tab import RecommendComponents
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe

_HERE = Path(__file__)
CSS = _HERE.with_name("style.css").read_text(encoding="utf-8")
SHARE_JS = _HERE.with_name("share.js").read_text(encoding="utf-8")
THEME = gr.themes.Base(
    primary_hue="indigo",
    secondary_hue="indigo",
    neutral_hue="slate",
    radius_size="lg",
    font=["Inter", "system-ui", "sans-serif"],
    font_mono=["ui-monospace", "Consolas", "monospace"],
)
_HEADER = """<div class="lead"><h1>vlmcomp</h1><p>What does compression cost a vision-language model? Ask the same
question of a model in FP16, in INT8 and INT4, and with neurons or attention heads removed.</p></div>"""
_TITLES = {"compare": "Compare", "explore": "Explore", "choose": "Choose for me", "about": "About the numbers"}
_NUM_RESTORED = 21  # components
_TOGGLE_DARK_JS = "() => { document.body.classList.toggle('dark'); }"
_MARK_READY_JS = "() => { document.body.classList.add('ready'); }"


class StringList(gr.JSON):
    """JSON that tells programs it is a list of texts; of plain JSON an agent is given no valid schema."""

    is_template = True  # drawn as the component it extends

    def api_info(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "string"}}


def launch_options() -> dict[str, Any]:
    """What ``launch`` is given besides the address."""
    return {
        "theme": THEME,
        "css": CSS,
        "max_file_size": "16mb",
        "show_error": False,
        "footer_links": ["api"],
        "run_history": False,
        "mcp_server": importlib.util.find_spec("mcp") is not None,
    }


def build(model: str = registry.DEFAULT_MODEL) -> gr.Blocks:
    """The page, with ``model`` chosen at first."""
    gpu: dict[str, Any] = {"concurrency_id": "gpu", "concurrency_limit": 1}  # timed answers must not share the machine
    if handlers.backend().name == "recorded":
        gpu = {"concurrency_limit": None}
    with gr.Blocks(title="vlmcomp", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        with gr.Row(elem_classes="top"):
            gr.HTML(_HEADER, min_width=240, scale=6)
            share = gr.Button("Copy link", size="sm", elem_id="share", scale=0, min_width=110)
            dark = gr.Button("Light / dark", size="sm", elem_id="theme", scale=0, min_width=110)
        address = gr.Textbox(label="Link to what you see", visible=False, elem_id="link", buttons=["copy"])
        note = gr.Markdown(visible=False, elem_classes="note", elem_id="note")
        seen = gr.State("compare")
        with gr.Tabs(elem_id="views") as tabs:
            with gr.Tab(_TITLES["compare"], id="compare") as first:
                asked = compare_tab.build(model, gpu)
            with gr.Tab(_TITLES["explore"], id="explore") as second:
                explored = explore_tab.build(model, asked.measurements)
            with gr.Tab(_TITLES["choose"], id="choose") as third:
                chosen = recommend_tab.build(model)
            with gr.Tab(_TITLES["about"], id="about") as fourth:
                claimed = about_tab.build()
        for tab, name in zip((first, second, third, fourth), permalink.VIEWS):
            tab.select(lambda name=name: name, None, seen, **NO_PROGRESS)
        fourth.select(about_tab.study_claims, None, claimed, **NO_PROGRESS)
        dark.click(None, js=_TOGGLE_DARK_JS, api_visibility="private")
        _wire(page, asked, explored, chosen, (tabs, seen, share, address, note))
        _wire_api(asked, gpu)
    return page.queue(max_size=32)


def _wire(
    page: gr.Blocks,
    asked: CompareComponents,
    explored: ExploreComponents,
    chosen: RecommendComponents,
    frame: tuple[Any, ...],
) -> None:
    """Links, and the chart's redrawing after the page is opened and after answers."""
    tabs, seen, share, address, note = frame
    form = [asked.model, asked.variants, asked.image, asked.question, asked.known_answer]
    wish = [chosen.model, chosen.memory, chosen.loss, chosen.goal, chosen.task]
    redraw = {
        "fn": explore_tab.draw,
        "inputs": [*explored.filter, explored.opened, asked.measurements],
        "outputs": explored.outputs,
    }
    restored = [note, tabs, seen, *form, *explored.filter, explored.opened, *wish]
    opening = page.load(_restore, None, restored, **NO_PROGRESS)
    opening.then(
        None, js=_MARK_READY_JS, **NO_PROGRESS
    )  # until then nothing can be clicked: what is restored would undo it
    opening.then(**redraw, **NO_PROGRESS)
    for run in asked.ask_events:
        run.then(**redraw, **NO_PROGRESS)
    state = [
        seen,
        asked.model,
        asked.variants,
        asked.question,
        asked.known_answer,
        *explored.filter,
        explored.opened,
        *wish,
    ]
    copied = share.click(_link_of, state, address, **NO_PROGRESS)
    copied.then(None, address, address, js=SHARE_JS, **NO_PROGRESS)


def _wire_api(asked: CompareComponents, gpu: dict[str, Any]) -> None:
    variants, told, knock = StringList(visible=False), gr.JSON(visible=False), gr.Button(visible=False)
    # through the image component, which admits uploaded files alone; gr.api would take any path
    knock.click(api.compare, [asked.image, asked.question, variants], told, api_name="compare", **gpu)
    gr.api(api.recommend, api_name="recommend", concurrency_limit=2)
    gr.api(api.results, api_name="results")


def _restore(request: gr.Request) -> tuple[Any, ...]:
    """Every component as the page's address asks for it; none where it asks for nothing."""
    asked = dict(request.query_params)
    if not set(asked) & set(permalink.NAMES):
        return (gr.skip(),) * _NUM_RESTORED
    found, bad = permalink.read(asked)
    odd = f"This link names something that is not here ({', '.join(bad)}): the usual is shown instead." if bad else ""
    image, question, known = None, found.question, compare_tab.NO_KNOWN_ANSWER
    if found.example:
        image, usual, known = compare_tab.load_example(found.example)
        question = question or usual
    picked = gr.CheckboxGroup(choices=compare_tab.variant_choices(found.model), value=permalink.variants_of(found))
    machines = results.hardware()
    hardware = found.hardware or (machines[0] if machines else None)
    there, end = results.models_on(hardware), explore_tab.largest_megabytes(hardware)
    families = [m for m in found.families if m in there] or results.default_models(hardware, found.model)
    filters = (
        hardware,
        gr.CheckboxGroup(there, value=families),
        list(found.techniques),
        found.axis,
        gr.Slider(0, end, explore_tab.parse_megabytes(found.fits, hardware)),
        found.least,
        explore_tab.task_dropdown(hardware, families, found.task),
    )
    opened = gr.Dropdown([found.opened] if found.opened else [], value=found.opened or None)
    task = recommend_tab.task_dropdown(found.model, found.task)
    wish = (found.model, found.memory or recommend_tab.DEFAULT_MEMORY, found.loss, found.goal, task)
    form = (found.model, picked, image, question, known)
    # a visitor may have moved on meanwhile: only a link that names a view takes them there
    place = (gr.Tabs(selected=found.view), found.view) if "view" in asked else (gr.skip(), gr.skip())
    return gr.Markdown(odd, visible=bool(odd)), *place, *form, *filters, opened, *wish


def _link_of(*state: Any) -> Any:
    seen, model, picked, question, known, *rest = state
    hardware, families, techniques, axis, fits, least, task, opened, chosen, memory, loss, goal, chosen_task = rest
    example = (known or {}).get("example", "")
    usual = (known or {}).get("question")
    machines = results.hardware()
    found = Link(
        view=seen,
        model=chosen if seen == "choose" else model,
        variants=() if seen == "choose" else _variants(model, picked),
        example=example,
        question="" if example and question == usual else question or "",
        hardware="" if machines and hardware == machines[0] else hardware or "",
        families=() if families == results.default_models(hardware, model) else tuple(families),
        techniques=tuple(techniques or ()),
        axis=axis,
        fits=explore_tab.format_megabytes(fits, hardware),
        least=least or 0.0,
        opened=opened or "",
        memory="" if memory == recommend_tab.DEFAULT_MEMORY else memory or "",
        loss=loss,
        goal=goal,
        task=_link_task(chosen_task, recommend_tab.tasks_of(chosen))
        if seen == "choose"
        else _link_task(task, results.tasks_on(hardware, families)),
    )
    return gr.Textbox(found.query(), visible=True)


def _link_task(task: str | None, tasks: list[str]) -> str:
    """``task`` of the ``tasks`` that are offered; empty for the first of them, the default."""
    return "" if not task or task == next(iter(tasks), None) else task


def _variants(model: str, picked: list[str]) -> tuple[str, ...]:
    """The chosen variants by name; none where they are the usual ones."""
    return () if picked == handlers.default_variants(model) else tuple(Recipe.parse(p).name for p in picked)


def launch(page: gr.Blocks, host: str, port: int | None, share: bool) -> None:
    """Serve ``page`` until it is stopped; a share link that cannot be had does not stop it."""
    place: dict[str, Any] = {"server_name": host, "server_port": port, "prevent_thread_lock": True, **launch_options()}
    try:
        page.launch(share=share, **place)
    except Exception as error:
        if not share:
            raise
        print(f"No share link could be made ({type(error).__name__}); serving on this machine alone.")
        page.launch(share=False, **place)
    threading.Thread(target=handlers.warm_up, daemon=True).start()  # while the first visitor looks around
    page.block_thread()
