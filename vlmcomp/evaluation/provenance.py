"""Circumstances of a report: where the weights come from, and whether two reports were made alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from vlmcomp import hardware as hardware_module
from vlmcomp.data import tasks
from vlmcomp.evaluation.config import Plan
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.results import provenance, store
from vlmcomp.results.journal import Journal
from vlmcomp.results.schema import RANDOM, Hardware, Report

REPO = Path(__file__).resolve().parents[2]


JournalOf = Callable[[tasks.Task], Journal | None]


def hardware(plan: Plan) -> Hardware:
    """The machine; for random weights under a name of its own, so that their results share no folder and no axis."""
    found = hardware_module.hardware(plan.device)
    return replace(found, slug=f"{found.slug}-random") if plan.random else found


def circumstances(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    source, revision = origin(recipe, plan)
    return {
        "recipe": str(recipe),
        "hardware": hardware(plan),
        "date": provenance.now(),
        "commit": provenance.commit(REPO),
        "versions": provenance.versions(),
        "source": source,
        "revision": revision,
        "weights": RANDOM if plan.random else "given" if plan.source else registry.find(recipe.model).origin,
        "seeds": {"samples": plan.seed, "latency": plan.seed},
    }


def origin(recipe: Recipe, plan: Plan) -> tuple[str, str | None]:
    """Where the dense weights come from, and which they are: a Hub revision, or a digest of local files."""
    entry = registry.find(recipe.model)
    if plan.random:
        from vlmcomp.models import random_init

        return random_init.source(entry, plan.layers), None
    local = Path(plan.source or entry.location)
    if plan.source is None and not entry.embedded:
        return entry.source, entry.revision
    return plan.source or entry.source, _digest(local) if local.is_dir() else None


@cache
def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".bin")):
        with file.open("rb") as data:
            while block := data.read(1 << 20):
                digest.update(block)
    return f"sha256:{digest.hexdigest()[:16]}"


def journals(recipe: Recipe, plan: Plan, root: Path) -> JournalOf:
    """Where the answers of each task lie while ``recipe`` is being measured, beside the report to come."""
    home = store.path(hardware(plan).slug, recipe, root)
    facts = circumstances(recipe, plan)
    fixed = {name: facts[name] for name in ("recipe", "commit", "versions", "source", "revision")}
    asked = {name: getattr(plan, name) for name in ("samples", "seed", "batch_size", "max_new_tokens")}

    def of(task: tasks.Task) -> Journal:
        file = home.with_name(f".{recipe.name}.{task.sha256[:12]}.partial")
        return Journal(file, {**fixed, **asked, "task": task.sha256, "version": task.version})

    return of


def made_alike(one: Report, facts: Mapping[str, Any]) -> bool:
    """Whether a report's answers are those that the same weights, code and libraries would give again."""
    same = all(getattr(one, name) == facts[name] for name in ("source", "commit", "versions"))
    return same and facts["revision"] in (None, one.revision)  # None: a Hub's newest, which only loading tells


def with_other_tasks(report: Report, rows: dict[str, store.Rows], root: Path) -> tuple[Report, dict[str, store.Rows]]:
    """With the scores and rows of the tasks that the report in its place holds, if it was made alike."""
    try:
        old = store.load(store.path(report.hardware.slug, Recipe.parse(report.recipe), root))
    except (OSError, ValueError):
        return report, rows
    if old.error is not None or not made_alike(old, report.to_dict()):
        return report, rows
    return replace(report, quality=old.quality | report.quality), store.load_rows(old, root) | rows
