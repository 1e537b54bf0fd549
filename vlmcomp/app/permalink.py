"""What a visitor chose, as the query of a link, and back. Pure; whatever a link says is checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

from vlmcomp.app import handlers, results
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.grouping import list_tasks
from vlmcomp.reporting.palette import COLORS
from vlmcomp.reporting.recommend import GOALS, parse_bytes

VIEWS = ("compare", "explore", "choose", "about")


@dataclass(frozen=True)
class Link:
    """One state of the page. ``variants`` are names such as ``glu30+int8``; ``fits`` is text such as ``8GB``."""

    view: str = "compare"
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
        """``?view=explore&...``: only what differs from the usual."""
        usual = Link()
        parts = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != getattr(usual, f.name)}
        return "?" + urlencode({k: ",".join(v) if isinstance(v, tuple) else v for k, v in parts.items()}, safe=",/")


def _one_of(known: Callable[[], Any]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in known():
            raise ValueError
        return text

    return read


def _some_of(known: Callable[[], Any]) -> Callable[[str], tuple[str, ...]]:
    return lambda text: tuple(map(_one_of(known), filter(None, dict.fromkeys(text.split(",")))))


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return read


def _memory(text: str) -> str:
    parse_bytes(text)
    return text


def _question(text: str) -> str:
    from vlmcomp.data.images import normalize_question

    return normalize_question(text)


_READERS: Mapping[str, Callable[[str], Any]] = {
    "view": _one_of(lambda: VIEWS),
    "model": _one_of(lambda: registry.MODELS),
    "example": _one_of(lambda: {e.name for e in handlers.examples()}),
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

NAMES = tuple(f.name for f in fields(Link))


def read(query: Mapping[str, str]) -> tuple[Link, list[str]]:
    """The state that a query asks for, and the names of its parts that cannot be had: those are left as usual.

    Parts of other names are passed over: they may be the host's.
    """
    found, bad = Link(), []
    for name, reader in _READERS.items():
        if name not in query:
            continue
        try:
            found = replace(found, **{name: reader(str(query[name]))})
        except ValueError:
            bad.append(name)
    if "variants" in query:
        try:
            texts = [f"{found.model}/{name}" for name in str(query["variants"]).replace(" ", "+").split(",")]
            variants = tuple(r.name for r in handlers.parse_recipes(texts))
            found = replace(found, variants=variants)
        except ValueError:
            bad.append("variants")
    return found, bad


def variants_of(link: Link) -> list[str]:
    """The variants as recipes; the usual ones where the link names none."""
    return [str(Recipe.parse(f"{link.model}/{v}")) for v in link.variants] or handlers.default_variants(link.model)
