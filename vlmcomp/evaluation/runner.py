"""Recipe -> Report, in this process. A sweep runs ``python -m vlmcomp.evaluation.runner`` afresh for every recipe."""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmcomp import hardware as hardware_module
from vlmcomp.data import tasks
from vlmcomp.evaluation import latency, text_metrics
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.results import store
from vlmcomp.results.journal import Journal
from vlmcomp.results.schema import RANDOM, Hardware, Memory, Report

if TYPE_CHECKING:
    from vlmcomp.models.vlm import VLM

REPO = Path(__file__).resolve().parents[2]
MARK = "vlmcomp-progress "  # starts the child's lines that are meant for the parent
QUICK_SAMPLES = 200
_RANDOM_CALIBRATION = 32
CANNOT_WRITE = 74  # EX_IOERR of sysexits.h: the child's disk is full or not to be written
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
Progress = Callable[[str, float], None]  # what is being done, and the share done from 0 to 1
JournalOf = Callable[[tasks.Task], Journal | None]


@dataclass(frozen=True)
class Plan:
    """What is measured about each recipe. ``samples`` None: as many as is usual for each task.

    ``quick``: few samples, which never replace a report of more. ``random``: the architecture with random weights, of
    at most ``layers`` in decoder and towers, for latency, memory and size alone; then no task is asked.
    """

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
    quick: bool = False
    random: bool = False
    layers: int | None = None

    def check(self) -> None:
        """Raises ``ValueError`` for a task, sample count or encoder that does not exist."""
        if self.layers is not None and not self.random:
            raise ValueError("only random weights take a number of layers")
        found = [tasks.find(name) for name in self.tasks]
        for task in found:
            task.count(self.samples)
        if len({task.name for task in found}) < len(found):
            raise ValueError("two tasks have the same name: rename a folder, or give each task once")
        if self.random and (self.tasks or self.source):
            raise ValueError("random weights answer no questions and come from nowhere: leave tasks and source out")
        if not self.tasks and not self.random:
            raise ValueError(f"a benchmark needs a task: choose from {', '.join(tasks.TASKS)}")
        if self.encoder not in text_metrics.ENCODERS:
            raise ValueError(
                f"unknown BERTScore encoder '{self.encoder}': choose from {', '.join(text_metrics.ENCODERS)}"
            )


def measure(
    recipe: Recipe, plan: Plan, progress: Progress = lambda text, share: None, journal: JournalOf = lambda task: None
) -> tuple[Report, dict[str, Any]]:
    """Build ``recipe`` in this process and measure it. What the journal of a task holds is not asked again.

    Returns:
        The report, and the rows of each task.

    Raises:
        ValueError: what ``build`` refuses, or a plan that asks for what is not there.
    """
    from vlmcomp.compression import size
    from vlmcomp.evaluation import quality
    from vlmcomp.runtime import engine

    importlib.import_module("bitsandbytes")  # libraries are loaded before memory is counted: they are not the model
    gauge = hardware_module.Gauge(plan.device)
    vlm = built(recipe, plan, progress)
    peak_build, loaded = gauge.peak(), gauge.held()
    counted = size.measure(vlm, 0 if plan.random else _on_disk(vlm, progress))  # before any answer may repack INT4
    gauge.restart()
    sample = tasks.find(latency.TASK).samples(1, plan.seed)[0]
    engine.ask(vlm, sample.image, sample.question, plan.new_tokens, plan.new_tokens)
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
            journal=journal(task),
        )
    facts = circumstances(recipe, plan)
    facts["revision"] = facts["revision"] or vlm.revision
    report = Report(
        **facts,
        dtype_stored=vlm.dtype_stored,
        dtype_computed=vlm.dtype_computed,
        backend=f"{', '.join(filter(None, (vlm.backend, vlm.kernel)))} ({vlm.device.type})",
        build_seconds=vlm.build_seconds,
        pruned=vlm.pruned,
        size=counted,
        memory=memory,
        latency=timed,
        quality=scores,
    )
    return report, rows


def built(recipe: Recipe, plan: Plan, progress: Progress = lambda text, share: None) -> VLM:
    """The recipe as ``plan`` wants it. Random weights are pruned by few samples: they have nothing to keep."""
    from vlmcomp.compression import pipeline

    if not plan.random:
        return pipeline.build(recipe, device=plan.device, source=plan.source, progress=progress)
    from vlmcomp.models import random_init

    dense = random_init.dense(registry.find(recipe.model), plan.layers)
    few = pipeline.calibration_samples(_RANDOM_CALIBRATION)
    return pipeline.build(recipe, device=plan.device, dense=dense, calibration=few, progress=progress)


def _on_disk(vlm: VLM, progress: Progress) -> int:
    """Bytes of the weights of a checkpoint of ``vlm``."""
    from vlmcomp.compression import checkpoint

    progress("saving", 0.0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "checkpoint"
        checkpoint.save(vlm, folder)
        return sum(f.stat().st_size for f in folder.iterdir() if f.suffix in (".safetensors", ".bin"))


def hardware(plan: Plan) -> Hardware:
    """The machine; for random weights under a name of its own, so that their results share no folder and no axis."""
    found = hardware_module.hardware(plan.device)
    return replace(found, slug=f"{found.slug}-random") if plan.random else found


def circumstances(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    source, revision = origin(recipe, plan)
    return {
        "recipe": str(recipe),
        "hardware": hardware(plan),
        "date": hardware_module.now(),
        "commit": hardware_module.commit(REPO),
        "versions": hardware_module.versions(),
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


def _main(order: dict[str, Any]) -> int:
    """The fresh process: measure one recipe and save its report, whether it succeeds or fails."""
    plan = Plan(**{**order["plan"], "tasks": tuple(order["plan"]["tasks"])})
    recipe, root = Recipe.parse(order["recipe"]), Path(order["root"])

    def tell(text: str, share: float) -> None:
        try:
            print(f"{MARK}{text} {100 * share:.0f} %", flush=True)
        except BrokenPipeError:  # the sweep was killed: what is half measured must not be recorded as a failure
            os._exit(128 + signal.SIGPIPE)

    try:
        report, rows = with_other_tasks(*measure(recipe, plan, tell, journals(recipe, plan, root)), root)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        if any(os.strerror(code) in str(error) for code in _FULL):  # nothing that the recipe has failed at
            return _cannot_write(error)
        traceback.print_exc()
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        report, rows = Report(**circumstances(recipe, plan), error=kind + " ".join(str(error).split())), None
    try:
        store.save(report, rows, root)
    except OSError as error:
        return _cannot_write(error)
    return 0


def _cannot_write(error: Exception) -> int:
    print(f"a file cannot be written: {' '.join(str(error).split())}", file=sys.stderr)
    return CANNOT_WRITE


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
