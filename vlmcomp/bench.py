"""Recipe -> Report. A sweep gives every recipe a fresh process, keeps what is finished, and goes on after a failure.

``python -m vlmcomp.bench`` is the fresh process; people start sweeps with ``vlmcomp bench``.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from vlmcomp import machine, store, zoo
from vlmcomp.measure import latency, metrics, tasks
from vlmcomp.recipe import Recipe
from vlmcomp.report import Memory, Quality, Report

_REPO = Path(__file__).resolve().parent.parent
_MARK = "vlmcomp-progress "  # starts the child's lines that are meant for the parent
Progress = Callable[[str, float], None]  # what is being done, and the share done from 0 to 1


@dataclass(frozen=True)
class Plan:
    """What is measured about each recipe. ``samples`` None: as many as is usual for each task."""

    tasks: tuple[str, ...] = tuple(tasks.TASKS)
    samples: int | None = None
    seed: int = 0
    device: str | None = None
    source: str | None = None
    encoder: str = "auto"
    batch_size: int = 16
    max_new_tokens: int = 64
    new_tokens: int = latency.NEW_TOKENS
    warmup: int = latency.WARMUP_RUNS
    runs: int = latency.TIMED_RUNS

    def check(self) -> None:
        """Raises ``ValueError`` for a task, sample count or encoder that does not exist."""
        found = [tasks.find(name) for name in self.tasks]
        for task in found:
            task.count(self.samples)
        if len({task.name for task in found}) < len(found):
            raise ValueError("two tasks have the same name: rename a folder, or give each task once")
        if not self.tasks:
            raise ValueError(f"a benchmark needs a task: choose from {', '.join(tasks.TASKS)}")
        if self.encoder not in metrics.ENCODERS:
            raise ValueError(f"unknown BERTScore encoder '{self.encoder}': choose from {', '.join(metrics.ENCODERS)}")


def measure(recipe: Recipe, plan: Plan, progress: Progress = lambda text, share: None) -> tuple[Report, dict[str, Any]]:
    """Build ``recipe`` in this process and measure it.

    Returns:
        The report, and the rows of each task.

    Raises:
        ValueError: what ``build`` refuses, or a plan that asks for what is not there.
    """
    from vlmcomp import ask, build, checkpoint
    from vlmcomp.measure import quality, size

    importlib.import_module("bitsandbytes")  # libraries are loaded before memory is counted: they are not the model
    gauge = machine.Gauge(plan.device)
    vlm = build.build(recipe, device=plan.device, source=plan.source, progress=progress)
    peak_build, loaded = gauge.peak(), gauge.held()
    progress("saving", 0.0)
    with tempfile.TemporaryDirectory() as scratch:  # before any answer: the first one may repack INT4 weights
        folder = Path(scratch) / "checkpoint"
        checkpoint.save(vlm, folder)
        disk = sum(f.stat().st_size for f in folder.iterdir() if f.suffix in (".safetensors", ".bin"))
    counted = size.measure(vlm, disk)
    gauge.restart()
    sample = tasks.find(latency.TASK).samples(1, plan.seed)[0]
    ask.ask(vlm, sample.image, sample.question, plan.new_tokens, plan.new_tokens)
    peak_answer = gauge.peak()
    timed = latency.measure(
        vlm, new_tokens=plan.new_tokens, warmup=plan.warmup, runs=plan.runs, seed=plan.seed, progress=progress
    )
    timed = replace(timed, floor=latency.floor(vlm, timed.prompt_tokens))
    memory = Memory(loaded, peak_build, peak_answer, gauge.measure)
    scores, rows = {}, {}
    for task in map(tasks.find, plan.tasks):
        scores[task.name], rows[task.name] = quality.measure(
            vlm,
            task,
            plan.samples,
            seed=plan.seed,
            batch_size=plan.batch_size,
            max_new_tokens=plan.max_new_tokens,
            encoder=plan.encoder,
            progress=progress,
        )
    facts = _circumstances(recipe, plan)
    facts["revision"] = facts["revision"] or vlm.revision
    report = Report(
        **facts,
        dtype_stored=vlm.dtype_stored,
        dtype_computed=vlm.dtype_computed,
        backend=f"{vlm.backend} ({vlm.device.type})",
        build_seconds=vlm.build_seconds,
        pruned=vlm.pruned,
        size=counted,
        memory=memory,
        latency=timed,
        quality=scores,
    )
    return report, rows


def run(
    recipes: Sequence[Recipe],
    plan: Plan = Plan(),
    *,
    root: Path = store.PRECOMPUTED,
    force: bool = False,
    say: Callable[[str], None] | None = None,
) -> list[Report]:
    """Measure each recipe in a fresh process, one after another, and store its report below ``root``.

    A report that already answers the same plan on this hardware is kept, unless ``force``. A recipe that fails
    becomes a report with ``error``. On Ctrl-C everything finished stays.

    Args:
        say: takes one line a recipe, without the progress bar in between; printed by default.

    Raises:
        ValueError: an unknown model or task, or a step that a model cannot do; nothing has run then.
    """
    from tqdm import tqdm

    plan.check()
    for recipe in recipes:
        zoo.check(recipe)
    say, slug, reports = say or tqdm.write, machine.hardware(plan.device).slug, []
    with tqdm(total=len(recipes), unit="recipe", disable=None) as bar:
        for recipe in recipes:
            file = store.path(slug, recipe, root)
            report = None if force else _finished(file, plan)
            if report is not None and report.latency is not None and report.latency.floor is None:
                report = None  # timed before there were floors
            kept = report is not None
            if report is None:
                report = _in_fresh_process(recipe, plan, root, file, bar.set_postfix_str)
            say(summary(report) + (" (kept)" if kept else ""))
            reports.append(report)
            bar.update()
    return reports


def retime(
    recipes: Sequence[Recipe],
    plan: Plan = Plan(),
    *,
    root: Path = store.PRECOMPUTED,
    say: Progress = lambda text, share: None,
) -> list[Report]:
    """Take the latency of measured recipes anew, all held in memory and asked in turns, and store it.

    What else was measured stays as it is. Recipes without a whole report on this hardware are left out.

    Raises:
        ValueError: none of the recipes has a report here.
    """
    from vlmcomp.build import build

    slug = machine.hardware(plan.device).slug
    files = [store.path(slug, recipe, root) for recipe in recipes]
    whole = [report for file in files if (report := _finished(file, plan)) is not None]
    if not whole:
        raise ValueError(f"there is nothing to time again on {slug}: measure the recipes first")
    vlms = []
    for report in whole:
        say(f"building {report.recipe}", 0.0)
        vlms.append(build(Recipe.parse(report.recipe), device=plan.device, source=plan.source))
    settings = {"new_tokens": plan.new_tokens, "warmup": plan.warmup, "runs": plan.runs, "seed": plan.seed}
    timed = latency.interleaved(vlms, progress=say, **settings)
    timed = [replace(t, floor=latency.floor(vlm, t.prompt_tokens)) for vlm, t in zip(vlms, timed)]
    done = [replace(r, latency=t, date=machine.now()) for r, t in zip(whole, timed)]
    for report in done:
        store.save(report, store.load_rows(report, root), root)
    return done


def summary(report: Report) -> str:
    """One line: the recipe's exact match by task, speed and size, or why it failed."""
    if report.error is not None or report.latency is None or report.size is None:
        return f"{report.recipe}: failed: {report.error}"
    hits = ", ".join(map(_scored, report.quality.values()))
    speed = f"{report.latency.decode_ms_per_token_median:.3g} ms/token"
    return f"{report.recipe}: {hits}, {speed}, {report.size.total_bytes / 1e6:.4g} MB"


def _scored(q: Quality) -> str:
    soft = "" if q.vqa_accuracy is None else f" (VQA accuracy {100 * q.vqa_accuracy:.1f} %)"
    return f"{q.task} {100 * q.exact_match:.1f} %{soft}"


def _finished(file: Path, plan: Plan) -> Report | None:
    """The report in ``file`` if it is whole and measured what ``plan`` asks for, on the same weights."""
    try:
        report = store.load(file)
    except (OSError, ValueError):
        return None
    if report.error is not None or report.latency is None:
        return None
    source, revision = _origin(Recipe.parse(report.recipe), plan)
    same_weights = report.source == source and revision in (None, report.revision)
    timed = report.latency
    same_timing = (timed.new_tokens, timed.warmup_runs, len(timed.ttft_ms)) == (plan.new_tokens, plan.warmup, plan.runs)
    same_questions = all(
        (q := report.quality.get(task.name)) is not None
        and (q.version, q.samples, q.seed) == (task.version, task.count(plan.samples), plan.seed)
        for task in map(tasks.find, plan.tasks)
    )
    return report if same_weights and same_timing and same_questions else None


def _in_fresh_process(recipe: Recipe, plan: Plan, root: Path, file: Path, tell: Callable[[str], None]) -> Report:
    """Run the child, pass on its progress, and read or write the report it leaves."""
    order = json.dumps({"recipe": str(recipe), "root": str(root.resolve()), "plan": asdict(plan)})
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(_REPO), os.environ.get("PYTHONPATH"))))}
    with tempfile.TemporaryFile("w+", errors="replace") as complaints:
        child = subprocess.Popen(
            [sys.executable, "-m", "vlmcomp.bench", order],
            stdout=subprocess.PIPE,
            stderr=complaints,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        try:
            for line in child.stdout or ():
                if line.startswith(_MARK):
                    tell(f"{recipe.name}: {line.removeprefix(_MARK).strip()}")
            code = child.wait()
        finally:
            child.terminate()  # no effect on one that has ended
            child.wait()
        complaints.seek(0)
        said = [line.strip() for line in complaints if line.strip()]
    if code == 0:
        return store.load(file)
    report = Report(**_circumstances(recipe, plan), error=_why(code, said))
    store.save(report, root=root)
    return report


def _why(code: int, said: list[str]) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"the process was ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return f"the process ended with code {code}: {said[-1] if said else 'it said nothing'}"


def _circumstances(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    source, revision = _origin(recipe, plan)
    return {
        "recipe": str(recipe),
        "hardware": machine.hardware(plan.device),
        "date": machine.now(),
        "commit": machine.commit(_REPO),
        "versions": machine.versions(),
        "source": source,
        "revision": revision,
        "weights": "given" if plan.source else zoo.find(recipe.model).origin,
        "seeds": {"samples": plan.seed, "latency": plan.seed},
    }


def _origin(recipe: Recipe, plan: Plan) -> tuple[str, str | None]:
    """Where the dense weights come from, and which they are: a Hub revision, or a digest of local files."""
    entry = zoo.find(recipe.model)
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


def _main(order: dict[str, Any]) -> int:
    """The fresh process: measure one recipe and save its report, whether it succeeds or fails."""
    plan = Plan(**{**order["plan"], "tasks": tuple(order["plan"]["tasks"])})
    recipe, root = Recipe.parse(order["recipe"]), Path(order["root"])

    def tell(text: str, share: float) -> None:
        try:
            print(f"{_MARK}{text} {100 * share:.0f} %", flush=True)
        except BrokenPipeError:  # the sweep was killed: what is half measured must not be recorded as a failure
            os._exit(128 + signal.SIGPIPE)

    try:
        report, rows = measure(recipe, plan, tell)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        traceback.print_exc()
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        report, rows = Report(**_circumstances(recipe, plan), error=kind + " ".join(str(error).split())), None
    store.save(report, rows, root)
    return 0


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
