"""The state of the page as the query of a link, and back. Every value of a link is validated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

from vlmcomp.app import handlers, results
from vlmcomp.data.images import normalize_question
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.grouping import list_tasks
from vlmcomp.reporting.palette import COLORS
from vlmcomp.reporting.recommend import GOALS, parse_bytes
from vlmcomp.serving.examples import DRAWN_SCENE, find_example

TABS = ("compare", "explore", "choose", "about")


@dataclass(frozen=True)
class Link:
    """One state of the page; the names of the fields are those of the query.

    ``variants`` are names of recipes without the model, such as ``glu30+int8``; ``fits`` and ``memory`` are text such
    as ``8GB``; ``least`` is the task's score in percent and ``loss`` in percentage points.
    """

    tab: str = "compare"
    model: str = registry.DEFAULT_MODEL
    variants: tuple[str, ...] = ()
    example: str = ""
    question: str = ""
    hardware: str = ""
    families: tuple[str, ...] = ()
    techniques: tuple[str, ...] = ()
    axis: str = "speed"
    fits: str = ""
    least: float = 0.0
    opened: str = ""
    memory: str = ""
    loss: float = 1.0
    goal: str = "memory"
    task: str = ""

    def query(self) -> str:
        """``?tab=explore&...``: the fields that differ from their defaults."""
        default = Link()
        changed = {}
        for name in NAMES:
            value = getattr(self, name)
            if value != getattr(default, name):
                changed[name] = ",".join(value) if isinstance(value, tuple) else value
        return "?" + urlencode(changed, safe=",/")


NAMES = tuple(field.name for field in fields(Link))


def _one_of(choices: Callable[[], Any]) -> Callable[[str], str]:
    """A reader of one of the choices, which are looked up when a link is read."""

    def read(text: str) -> str:
        if text not in choices():
            raise ValueError
        return text

    return read


def _some_of(choices: Callable[[], Any]) -> Callable[[str], tuple[str, ...]]:
    """A reader of a comma-separated list of choices."""
    read_one = _one_of(choices)

    def read(text: str) -> tuple[str, ...]:
        items = dict.fromkeys(text.split(","))
        return tuple(read_one(item) for item in items if item)

    return read


def _number(low: float, high: float) -> Callable[[str], float]:
    """A reader of a number in an interval."""

    def read(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return read


def _memory(text: str) -> str:
    parse_bytes(text)
    return text


def _example(text: str) -> str:
    if find_example(text) is None and not DRAWN_SCENE.fullmatch(text):
        raise ValueError(f"there is no example {text}")
    return text


def _question(text: str) -> str:
    return normalize_question(text)


_READERS: Mapping[str, Callable[[str], Any]] = {
    "tab": _one_of(lambda: TABS),
    "model": _one_of(lambda: registry.MODELS),
    "example": _example,
    "question": _question,
    "hardware": _one_of(results.hardware),
    "families": _some_of(lambda: registry.MODELS),
    "techniques": _some_of(lambda: COLORS),
    "axis": _one_of(lambda: results.AXES),
    "fits": _memory,
    "least": _number(0, 100),
    "opened": _one_of(lambda: {r.recipe for r in results.reports()}),
    "memory": _memory,
    "loss": _number(0, 100),
    "goal": _one_of(lambda: GOALS),
    "task": _one_of(lambda: list_tasks(results.reports())),
}


def current_names(query: Mapping[str, str]) -> dict[str, str]:
    """``query`` with ``tab`` for ``view``, its name in earlier links. ``view=api`` is Gradio's and stays."""
    named = {"tab": query["view"]} if query.get("view") in TABS else {}
    return named | dict(query)


def read(query: Mapping[str, str]) -> tuple[Link, list[str]]:
    """Reads the query of a link (``current_names``); parameters with other names are ignored, since they may belong to
    the host.

    Returns:
        The state of the page, and the names of invalid parameters, which keep their defaults.
    """
    query = current_names(query)
    link = Link()
    invalid = []
    for name, reader in _READERS.items():
        if name not in query:
            continue
        try:
            link = replace(link, **{name: reader(str(query[name]))})
        except ValueError:
            invalid.append(name)
    if "variants" in query:
        names = str(query["variants"]).replace(" ", "+").split(",")  # a "+" of a query is decoded as a space
        try:
            recipes = handlers.parse_recipes([f"{link.model}/{name}" for name in names])
            link = replace(link, variants=tuple(recipe.name for recipe in recipes))
        except ValueError:
            invalid.append("variants")
    return link, invalid


def variants_of(link: Link) -> list[str]:
    """The recipes of a link; the model's default ones if it names none."""
    return [str(Recipe.parse(f"{link.model}/{v}")) for v in link.variants] or handlers.default_variants(link.model)
