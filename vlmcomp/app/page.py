"""The page: its frame, its four tabs, links to any state of it, and its launch."""

from __future__ import annotations

import importlib.util
import threading
from dataclasses import dataclass
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
_HEADER = """<div class="lead"><h1>vlmcomp</h1><p>What does compression cost a vision-language model? Ask a model the
same question in FP16, INT8 and INT4, and with neurons or attention heads removed.</p></div>"""
_TITLES = {"compare": "Compare", "explore": "Explore", "choose": "Choose for me", "about": "About the numbers"}
_MOST_WAITING = 48  # visitors whose questions are answered or wait for their turn; others wait in Gradio's queue
_NUM_RESTORED = 21  # components that a link sets
_TOGGLE_DARK_JS = "() => { document.body.classList.toggle('dark'); }"
_MARK_READY_JS = "() => { document.body.classList.add('ready'); }"


class StringList(gr.JSON):
    """JSON whose schema is a list of strings; ``gr.JSON`` alone gives agents no valid schema."""

    is_template = True  # rendered as the component it extends

    def api_info(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "string"}}


def launch_options() -> dict[str, Any]:
    """The arguments of ``Blocks.launch`` besides the address."""
    return {
        "theme": THEME,
        "css": CSS,
        "max_file_size": "16mb",
        "show_error": False,
        "footer_links": ["api"],
        "run_history": False,
        "max_threads": 2 * _MOST_WAITING,  # a question that waits has a thread, and the page needs others
        "mcp_server": importlib.util.find_spec("mcp") is not None,
    }


def build(model: str = registry.DEFAULT_MODEL) -> gr.Blocks:
    """The page with ``model`` selected."""
    # Live answers take turns by themselves (``serving.waiting``): what waits for one holds nobody up.
    live: dict[str, Any] = {"concurrency_id": "live", "concurrency_limit": _MOST_WAITING}
    handlers.serve(model)
    if handlers.backend().name == "recorded":
        live = {"concurrency_limit": None}
    with gr.Blocks(title="vlmcomp", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        with gr.Row(elem_classes="top"):
            gr.HTML(_HEADER, min_width=240, scale=6)
            share = gr.Button("Copy link", size="sm", elem_id="share", scale=0, min_width=110)
            dark = gr.Button("Light / dark", size="sm", elem_id="theme", scale=0, min_width=110)
        address = gr.Textbox(label="Link to this view", visible=False, elem_id="link", buttons=["copy"])
        note = gr.Markdown(visible=False, elem_classes="note", elem_id="note")
        view = gr.State("compare")
        with gr.Tabs(elem_id="views") as tabs:
            with gr.Tab(_TITLES["compare"], id="compare") as first:
                compare = compare_tab.build(model, live)
            with gr.Tab(_TITLES["explore"], id="explore") as second:
                explore = explore_tab.build(model, compare.measurements)
            with gr.Tab(_TITLES["choose"], id="choose") as third:
                recommend = recommend_tab.build(model)
            with gr.Tab(_TITLES["about"], id="about") as fourth:
                claims = about_tab.build()
        for tab, name in zip((first, second, third, fourth), permalink.VIEWS):
            tab.select(lambda name=name: name, None, view, **NO_PROGRESS)
        fourth.select(about_tab.study_claims, None, claims, **NO_PROGRESS)
        dark.click(None, js=_TOGGLE_DARK_JS, api_visibility="private")
        _connect(page, compare, explore, recommend, _Frame(tabs, view, share, address, note))
        _connect_api(compare, live)
    return page.queue(max_size=32)


@dataclass(frozen=True)
class _Frame:
    """The components around the tabs; ``view`` is the open tab, ``address`` the link, ``note`` its errors."""

    tabs: gr.Tabs
    view: gr.State
    share: gr.Button
    address: gr.Textbox
    note: gr.Markdown


def _connect(
    page: gr.Blocks,
    compare: CompareComponents,
    explore: ExploreComponents,
    recommend: RecommendComponents,
    frame: _Frame,
) -> None:
    """Restores and creates links, and draws the chart when the page opens and after each answer."""
    constraints = [recommend.model, recommend.memory, recommend.loss, recommend.goal, recommend.task]
    filters = [*explore.filter, explore.opened]
    redraw = {"fn": explore_tab.draw, "inputs": [*filters, compare.measurements], "outputs": explore.outputs}
    form = [compare.model, compare.variants, compare.image, compare.question, compare.known_answer]
    restored = [frame.note, frame.tabs, frame.view, *form, *filters, *constraints]
    opening = page.load(_restore, None, restored, **NO_PROGRESS)
    # nothing can be clicked before the page is marked ready: restoring the link would undo it
    opening.then(None, js=_MARK_READY_JS, **NO_PROGRESS)
    opening.then(**redraw, **NO_PROGRESS)
    page.load(handlers.status, None, compare.status, **NO_PROGRESS)
    for event in compare.ask_events:
        event.then(**redraw, **NO_PROGRESS)
    form = [compare.model, compare.variants, compare.question, compare.known_answer]
    copied = frame.share.click(_link_of, [frame.view, *form, *filters, *constraints], frame.address, **NO_PROGRESS)
    copied.then(None, frame.address, frame.address, js=SHARE_JS, **NO_PROGRESS)


def _connect_api(compare: CompareComponents, live: dict[str, Any]) -> None:
    """Adds the endpoints of ``api``."""
    recipes = StringList(visible=False)
    cards = gr.JSON(visible=False)
    trigger = gr.Button(visible=False)
    # through the image component, which accepts uploaded files only; gr.api would accept any path
    trigger.click(api.compare, [compare.image, compare.question, recipes], cards, api_name="compare", **live)
    gr.api(api.recommend, api_name="recommend", concurrency_limit=2)
    gr.api(api.results, api_name="results")


def _restore(request: gr.Request) -> tuple[Any, ...]:
    """New values of the components from the query of the page's URL; nothing changes without such a query."""
    query = dict(request.query_params)
    if not set(query) & set(permalink.NAMES):
        return (gr.skip(),) * _NUM_RESTORED
    link, invalid = permalink.read(query)
    note = ""
    if invalid:
        note = f"Some values of this link are not available here ({', '.join(invalid)}): defaults are shown instead."
    # a visitor may have opened another tab meanwhile: only a link that names a tab opens it
    view = (gr.Tabs(selected=link.view), link.view) if "view" in query else (gr.skip(), gr.skip())
    task = recommend_tab.task_dropdown(link.model, link.task)
    constraints = (link.model, link.memory or recommend_tab.DEFAULT_MEMORY, link.loss, link.goal, task)
    return gr.Markdown(note, visible=bool(note)), *view, *_restore_form(link), *_restore_filters(link), *constraints


def _restore_form(link: Link) -> tuple[Any, ...]:
    """Values of the tab Compare: model, variants, image, question, known answer."""
    image = None
    question = link.question
    known = compare_tab.NO_KNOWN_ANSWER
    if link.example:
        image, example_question, known = compare_tab.load_example(link.example)
        question = question or example_question
    choices = compare_tab.variant_choices(link.model)
    variants = gr.CheckboxGroup(choices=choices, value=permalink.variants_of(link))
    return link.model, variants, image, question, known


def _restore_filters(link: Link) -> tuple[Any, ...]:
    """Values of ``ExploreComponents.filter`` and of the opened recipe."""
    machines = results.hardware()
    hardware = link.hardware or (machines[0] if machines else None)
    models = results.models_on(hardware)
    families = [m for m in link.families if m in models] or results.default_models(hardware, link.model)
    limit = explore_tab.largest_megabytes(hardware)
    return (
        hardware,
        gr.CheckboxGroup(models, value=families),
        list(link.techniques),
        link.axis,
        gr.Slider(0, limit, explore_tab.parse_megabytes(link.fits, hardware)),
        link.least,
        explore_tab.task_dropdown(hardware, families, link.task),
        gr.Dropdown([link.opened] if link.opened else [], value=link.opened or None),
    )


def _link_of(*state: Any) -> Any:
    """The link to the state of the page, in the textbox that shows it."""
    view, model, variants, question, known, *rest = state
    hardware, families, techniques, axis, fits, least, task, opened, *constraints = rest
    recommend_model, memory, loss, goal, recommend_task = constraints
    is_recommend = view == "choose"
    example = (known or {}).get("example", "")
    example_question = (known or {}).get("question")
    machines = results.hardware()
    if is_recommend:
        task_name = _link_task(recommend_task, recommend_tab.tasks_of(recommend_model))
    else:
        task_name = _link_task(task, results.tasks_on(hardware, families))
    link = Link(
        view=view,
        model=recommend_model if is_recommend else model,
        variants=() if is_recommend else _link_variants(model, variants),
        example=example,
        question="" if example and question == example_question else question or "",
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
        task=task_name,
    )
    return gr.Textbox(link.query(), visible=True)


def _link_task(task: str | None, tasks: list[str]) -> str:
    """``task``; empty if it is the first of ``tasks``, which is the default."""
    return "" if not task or task == next(iter(tasks), None) else task


def _link_variants(model: str, recipes: list[str]) -> tuple[str, ...]:
    """Names of the selected recipes; empty if they are the model's defaults."""
    if recipes == handlers.default_variants(model):
        return ()
    return tuple(Recipe.parse(recipe).name for recipe in recipes)


def launch(page: gr.Blocks, host: str, port: int | None, share: bool) -> None:
    """Serves the page until it is interrupted.

    Args:
        page: what ``build`` returns.
        host: address to bind.
        port: None for 7860, or the next free one.
        share: also create a public link; without success the page is served locally.
    """
    options: dict[str, Any] = {"server_name": host, "server_port": port, "prevent_thread_lock": True} | launch_options()
    try:
        page.launch(share=share, **options)
    except Exception as error:
        if not share:
            raise
        print(f"The share link could not be created ({type(error).__name__}); serving locally only.")
        page.launch(share=False, **options)
    threading.Thread(target=handlers.warm_up, daemon=True).start()  # before the first question
    page.block_thread()
