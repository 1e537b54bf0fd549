"""A sweep gives every recipe a fresh process, keeps what is finished, survives failures and shares its folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from filelock import FileLock, Timeout

from vlmcomp import files
from vlmcomp.data import task_registry
from vlmcomp.evaluation import latency
from vlmcomp.evaluation.config import Plan
from vlmcomp.evaluation.provenance import REPO, circumstances, hardware, made_alike, origin
from vlmcomp.evaluation.runner import built
from vlmcomp.evaluation.worker import CANNOT_WRITE, MARK
from vlmcomp.feedback import Progress
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.results import provenance, store
from vlmcomp.results.schema import Quality, Report

Say = Callable[[str], None]
_USUAL = Plan()


def run(
    recipes: Sequence[Recipe],
    plan: Plan = _USUAL,
    *,
    root: Path = store.PRECOMPUTED,
    force: bool = False,
    say: Say | None = None,
) -> list[Report]:
    """Measure each recipe in a fresh process, one after another, and store its report below ``root``.

    A report that already answers the same plan on this hardware is kept, unless ``force``. A recipe that fails
    becomes a report with ``error``. On Ctrl-C everything finished stays. What another sweep on the same folder is
    measuring is left to it, and looked at again at the end.

    Args:
        say: takes one line a recipe, without the progress bar in between; printed by default.

    Raises:
        ValueError: an unknown model or task, or a step that a model cannot do; nothing has run then.
        OSError: ``root`` cannot be written; what was finished is kept.
    """
    from tqdm import tqdm

    plan.check()
    for entry in map(registry.check, recipes):
        if plan.random:
            from vlmcomp.models import random_init

            random_init.check(entry, plan.layers)
    files.probe(root)
    say, slug, found = say or tqdm.write, hardware(plan).slug, {}
    with tqdm(total=len(recipes), unit="recipe", disable=None) as bar:
        for wait in (False, True):
            for recipe in (r for r in recipes if r not in found):
                if wait:
                    bar.set_postfix_str(f"{recipe.name}: another sweep is at it")
                try:
                    with _lock(store.path(slug, recipe, root), wait):
                        found[recipe] = _settle(recipe, plan, root, force, bar.set_postfix_str, say)
                except Timeout:
                    continue
                bar.update()
    return [found[recipe] for recipe in recipes]


def _lock(file: Path, wait: bool) -> FileLock:
    """Of one report; whoever dies with it lets go of it. Raises ``Timeout`` on entry if another holds it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file.with_name(f".{file.stem}.lock"), timeout=-1 if wait else 0)


def _settle(recipe: Recipe, plan: Plan, root: Path, force: bool, tell: Say, say: Say) -> Report:
    """The finished report of ``recipe``, or a new one."""
    file = store.path(hardware(plan).slug, recipe, root)
    report = None if force else finished(file, plan)
    if report is not None and report.latency is not None and report.latency.floor is None:
        report = None  # timed before there were floors
    kept = report is not None
    if force:
        _forget(file)
    elif report is None:
        _spare_others(file, recipe, plan)
    if report is None:
        report = _in_fresh_process(recipe, plan, root, file, tell)
        _forget(file)
    say(summary(report) + (" (kept)" if kept else ""))
    return report


def _spare_others(file: Path, recipe: Recipe, plan: Plan) -> None:
    """Refuse to measure where that would drop scores of tasks that ``plan`` does not ask."""
    try:
        old = store.load(file)
    except (OSError, ValueError):
        return
    others = set(old.quality) - {task_registry.find(name).name for name in plan.tasks}
    if others and not made_alike(old, circumstances(recipe, plan)):
        raise ValueError(
            f"{file} also holds {', '.join(sorted(others))}, measured by another version or on other weights: name "
            "those tasks too, give another folder with --out, or drop them with --force"
        )


def _forget(file: Path) -> None:
    """Drop the answers of a measurement that is over."""
    for journal in file.parent.glob(f".{file.stem}.*.partial"):
        journal.unlink()


def retime(
    recipes: Sequence[Recipe],
    plan: Plan = _USUAL,
    *,
    root: Path = store.PRECOMPUTED,
    say: Progress = lambda text, share: None,
) -> list[Report]:
    """Take the latency of measured recipes anew, all held in memory and asked in turns, and store it.

    What else was measured stays as it is. Recipes without a whole report on this hardware are left out.

    Raises:
        ValueError: none of the recipes has a report here.
    """
    from vlmcomp.runtime.engine import Engine

    slug = hardware(plan).slug
    paths = [store.path(slug, recipe, root) for recipe in recipes]
    whole = [report for path in paths if (report := finished(path, plan)) is not None]
    if not whole:
        raise ValueError(f"there is nothing to time again on {slug}: measure the recipes first")
    files.probe(root)
    engines = []
    for report in whole:
        say(f"building {report.recipe}", 0.0)
        engines.append(Engine(built(Recipe.parse(report.recipe), plan)))
    settings = {"new_tokens": plan.new_tokens, "warmup": plan.warmup, "runs": plan.runs, "seed": plan.seed}
    timed = latency.interleaved(engines, progress=say, **settings)
    timed = [replace(t, floor=latency.floor(e.vlm, t.prompt_tokens)) for e, t in zip(engines, timed)]
    done = []
    for report, times in zip(whole, timed):
        file = store.path(slug, Recipe.parse(report.recipe), root)
        with _lock(file, wait=True):
            now = finished(file, plan) or report  # another sweep may have measured it anew meanwhile
            done.append(replace(now, latency=times, date=provenance.now()))
            store.save(done[-1], store.load_rows(now, root), root)
    return done


def summary(report: Report) -> str:
    """One line: the recipe's exact match by task, speed and size, or why it failed."""
    if report.error is not None or report.latency is None or report.size is None:
        return f"{report.recipe}: failed: {report.error}"
    hits = ", ".join(map(_scored, report.quality.values())) or report.weights
    speed = f"{report.latency.decode_ms_per_token_median:.3g} ms/token"
    return f"{report.recipe}: {hits}, {speed}, {report.size.total_bytes / 1e6:.4g} MB"


def _scored(q: Quality) -> str:
    soft = "" if q.vqa_accuracy is None else f" (VQA accuracy {100 * q.vqa_accuracy:.1f} %)"
    return f"{q.task} {100 * q.exact_match:.1f} %{soft}"


def finished(file: Path, plan: Plan) -> Report | None:
    """The report in ``file`` if it is whole and measured what ``plan`` asks for, on the same weights.

    A quick plan is content with a report of more questions.
    """
    try:
        report = store.load(file)
    except (OSError, ValueError):
        return None
    if report.error is not None or report.latency is None:
        return None
    source, revision = origin(Recipe.parse(report.recipe), plan)
    same_weights = report.source == source and revision in (None, report.revision)
    timed = report.latency
    same_timing = (timed.new_tokens, timed.warmup_runs, len(timed.ttft_ms)) == (plan.new_tokens, plan.warmup, plan.runs)
    answered = all(
        (q := report.quality.get(task.name)) is not None
        and (q.version, q.seed) == (task.version, plan.seed)
        and (q.samples == (wanted := task.count(plan.samples)) or (plan.quick and q.samples > wanted))
        for task in map(task_registry.find, plan.tasks)
    )
    return report if same_weights and same_timing and answered else None


def _in_fresh_process(recipe: Recipe, plan: Plan, root: Path, file: Path, tell: Say) -> Report:
    """Run the child, pass on its progress, and read or write the report it leaves."""
    order = json.dumps({"recipe": str(recipe), "root": str(root.resolve()), "plan": asdict(plan)})
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(REPO), os.environ.get("PYTHONPATH"))))}
    with tempfile.TemporaryFile("w+", errors="replace") as complaints:
        child = subprocess.Popen(
            [sys.executable, "-m", "vlmcomp.evaluation.worker", order],
            stdout=subprocess.PIPE,
            stderr=complaints,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        try:
            for line in child.stdout or ():
                if line.startswith(MARK):
                    tell(f"{recipe.name}: {line.removeprefix(MARK).strip()}")
            code = child.wait()
        finally:
            child.terminate()  # no effect on one that has ended
            child.wait()
        complaints.seek(0)
        said = [line.strip() for line in complaints if line.strip()]
    if code == 0:
        return store.load(file)
    if code == CANNOT_WRITE:
        raise OSError(f"{said[-1]}; what was finished is kept, and the sweep goes on from there when there is room")
    report = Report(**circumstances(recipe, plan), error=_why(code, said))
    store.save(report, root=root)
    return report


def _why(code: int, said: list[str]) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"the process was ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return f"the process ended with code {code}: {said[-1] if said else 'it said nothing'}"
