"""Which variants are asked: presets that answer a question, chips, and controls that add any other variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vlmcomp.app import handlers, results
from vlmcomp.app.errors import user_errors
from vlmcomp.app.events import UNQUEUED
from vlmcomp.models import registry
from vlmcomp.recipe import PRECISIONS, Recipe, precision_title
from vlmcomp.results.schema import Report
from vlmcomp.serving.manager import NOT_BUILT

PRESETS = ("What does 4-bit cost?", "What do removed parts cost?", "Smallest", "Fastest")
_PERCENTS = (0, 10, 20, 30, 40, 50)
_SHOWN = 2  # variants of a preset that is chosen by results, beside FP16


def label(recipe: str) -> str:
    """A variant in words, and its name; of a real model also that nobody has built it here."""
    parsed = Recipe.parse(recipe)
    is_missing = (
        parsed.needs_calibration
        and not registry.get_model_spec(parsed.model).bundled
        and handlers.backend().readiness(parsed) == NOT_BUILT
    )
    return f"{parsed.label} · {parsed.name}" + (" (not built here)" if is_missing else "")


def dropdown(model: str, selected: Sequence[str]) -> gr.Dropdown:
    """The chips of the selected variants, with what the model offers beside them."""
    offered = dict.fromkeys((*handlers.variants(model), *selected))
    return gr.Dropdown(
        [(label(recipe), recipe) for recipe in offered],
        value=list(selected),
        multiselect=True,
        max_choices=handlers.MAX_VARIANTS,
        label=f"Variants, two to {handlers.MAX_VARIANTS}",
        elem_id="variants",
    )


def preset(model: str, name: str) -> list[str]:
    """The recipes of a preset: what the model can do, and of two presets what was measured best."""
    spec = registry.get_model_spec(model)
    mlp, baseline = spec.mlp, str(Recipe(model))
    if name == PRESETS[0]:
        return [baseline, f"{model}/int8", f"{model}/int4"]
    if name == PRESETS[1]:
        steps = [f"{mlp}20", f"{mlp}30", "heads25"] + (["vis50"] if "vis" in spec.pruning_targets else [])
        return [baseline, *(f"{model}/{step}+fp16" for step in steps)]
    found = [r for r in _measured(model) if r.recipe != baseline]
    if name == PRESETS[2]:
        best = sorted(found, key=lambda r: r.size.total_bytes if r.size else 0)
    else:
        best = sorted(found, key=lambda r: r.latency.decode_ms_per_token_median if r.latency else 0)
    return [baseline, *(r.recipe for r in best[:_SHOWN])] if best else [baseline, f"{model}/int8", f"{model}/int4"]


def _measured(model: str) -> list[Report]:
    """The complete reports of a model, on the machine that has most of them."""
    slug = results.main_hardware(model)
    mine = (r for r in results.reports() if r.hardware.slug == slug and Recipe.parse(r.recipe).model == model)
    return [r for r in mine if r.error is None and r.size is not None and r.latency is not None]


def combine(model: str, precision: str, neurons: int, heads: int, image_tokens: int) -> str:
    """The recipe of the controls, whose percentages are 0 for what stays.

    Raises:
        ValueError: the model does not support a step.
    """
    mlp = registry.get_model_spec(model).mlp
    percents = (("vis", image_tokens), ("heads", heads), (mlp, neurons))
    steps = "".join(f"{target}{percent}+" for target, percent in percents if percent)
    recipe = Recipe.parse(f"{model}/{steps}{precision}")
    registry.validate_recipe(recipe)
    return str(recipe)


@dataclass(frozen=True)
class VariantPicker:
    """The component of the chips, and what else depends on the model."""

    chips: gr.Dropdown
    presets: tuple[gr.Button, ...]
    controls: tuple[gr.Dropdown, ...]
    add: gr.Button

    def connect(self, model: gr.Dropdown, clicked: gr.HTML) -> None:
        """Connects presets, controls and the points of a chart (the events of ``clicked``) to the chips."""
        for button, name in zip(self.presets, PRESETS):
            button.click(lambda model, name=name: _take_preset(model, name), model, self.chips, **UNQUEUED)
        self.add.click(_add, [model, self.chips, *self.controls], self.chips, **UNQUEUED)
        clicked.select(_add_clicked, [model, self.chips], self.chips, **UNQUEUED)


def build(model: str, selected: Sequence[str]) -> VariantPicker:
    """Lays out the presets, the chips and the folded controls."""
    with gr.Row(elem_classes="presets"):
        presets = tuple(gr.Button(name, size="sm", min_width=120) for name in PRESETS)
    chips = dropdown(model, selected)
    with gr.Accordion("Another variant", open=False, elem_id="builder"), gr.Row(equal_height=True):
        precisions = [(precision_title(name), name) for name in PRECISIONS]
        controls = [gr.Dropdown(precisions, value="int4", label="Precision", min_width=140, elem_id="precision")]
        for text in ("MLP neurons removed", "Attention heads removed", "Image tokens removed"):
            choices = [(f"{percent} %" if percent else "none", percent) for percent in _PERCENTS]
            controls.append(gr.Dropdown(choices, value=0, label=text, min_width=140))
        add = gr.Button("Add", min_width=80, elem_id="add")
    return VariantPicker(chips, presets, tuple(controls), add)


def _take_preset(model: str, name: str) -> Any:
    return dropdown(model, preset(model, name))


def _add(model: str, selected: list[str], precision: str, neurons: int, heads: int, image_tokens: int) -> Any:
    with user_errors():
        return _with_another(model, selected, combine(model, precision, neurons, heads, image_tokens))


def _add_clicked(model: str, selected: list[str], event: gr.EventData) -> Any:
    name = event._data.get("recipe") if isinstance(event._data, dict) else None
    with user_errors():
        return _with_another(model, selected, str(name))


def _with_another(model: str, selected: list[str] | None, recipe: str) -> gr.Dropdown:
    """The chips with ``recipe`` among them.

    Raises:
        ValueError: that is too many, or it is no recipe.
    """
    together = list(dict.fromkeys((*(selected or ()), recipe)))
    handlers.parse_recipes(together)
    return dropdown(model, together)
