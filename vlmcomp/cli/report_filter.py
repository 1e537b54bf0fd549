"""The reports that the options ``--model``, ``--hardware`` and ``--task`` select."""

from __future__ import annotations

from vlmcomp.recipe import Recipe
from vlmcomp.reporting import grouping
from vlmcomp.results.schema import Report


def matching(
    reports: list[Report], model: str | None = None, hardware: str | None = None, task: str | None = None
) -> list[Report]:
    """The reports of a model, of a machine and on a task; None for all. Failed reports belong to every task.

    Raises:
        ValueError: no reports of that model or machine, or on that task.
    """
    for name, wanted, value_of in (
        ("model", model, lambda r: Recipe.parse(r.recipe).model),
        ("hardware", hardware, lambda r: r.hardware.slug),
    ):
        known = sorted({value_of(r) for r in reports})
        if wanted and wanted not in known:
            raise ValueError(f"no reports of --{name} {wanted}: {_choose(known)}")
        reports = [r for r in reports if not wanted or value_of(r) == wanted]
    tasks = grouping.list_tasks(reports)
    if task and task not in tasks:
        raise ValueError(f"no reports of --task {task}: {_choose(tasks)}")
    return [r for r in reports if not task or task in r.quality or r.error is not None]


def _choose(known: list[str]) -> str:
    return f"choose {' or '.join(known)}" if known else "there are none, so run 'vlmcomp bench' first"
