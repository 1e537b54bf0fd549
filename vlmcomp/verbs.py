"""What each verb of the command line does. torch is imported only by the verbs that need it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from vlmcomp import flat, matrix, store, tables, zoo
from vlmcomp.recipe import Recipe
from vlmcomp.report import Report

CHANGES = (0.02, 0.1)  # shares of answers that pruning and quantizing change


def models(args: argparse.Namespace) -> None:
    if args.sizes:
        from vlmcomp.measure import sizes

        print(sizes.render(sizes.published()))
        return
    rows = [("MODEL", "TITLE", "FAMILY", "STEP", "WEIGHTS", "LICENCE")]
    for m in zoo.MODELS.values():
        place = "embedded" if m.embedded else m.source + (" (gated)" if m.gated else "")
        rows.append((m.name, m.title, m.family, m.mlp, place, m.licence))
    print(tables.aligned(rows))


def _on_stderr() -> Callable[[str, float], None]:
    """Progress as one line a stage, so that stdout holds the result alone and an error stands on its own line."""
    told: set[str] = set()

    def say(text: str, share: float) -> None:
        if share < 1 and text not in told:
            told.add(text)
            print(f"{text} ...", file=sys.stderr, flush=True)

    return say


def build(args: argparse.Namespace) -> None:
    recipe, out = Recipe.parse(args.recipe), Path(args.out)
    zoo.check(recipe)
    if args.calibration and not recipe.steps:
        raise ValueError(f"{recipe} removes nothing: --calibration is for recipes that prune")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty folder: give a new one")
    from vlmcomp import checkpoint, machine
    from vlmcomp.build import build, read_samples
    from vlmcomp.measure.size import parameters, weight_bytes

    machine.hardware(args.device)  # refuses a GPU that is not there
    samples = read_samples(args.calibration) if args.calibration else None
    vlm = build(recipe, device=args.device, source=args.source, calibration=samples, progress=_on_stderr())
    checkpoint.save(vlm, out)
    print(f"precision: {vlm.backend}, computed in {vlm.dtype_computed}")
    print(tables.account(recipe, vlm.pruned, weight_bytes(vlm.model), parameters(vlm.model)))
    if not checkpoint.stock(vlm.model):
        print("\nstock classes of this family hold no such number of heads: load it with vlmcomp.checkpoint.load")
    print(f"\n{recipe} is in {out}")


def ask(args: argparse.Namespace) -> None:
    from vlmcomp.ask import MAX_NEW_TOKENS, ask, clean_question, open_image

    if not 1 <= args.max_new_tokens <= MAX_NEW_TOKENS:
        raise ValueError(f"--max-new-tokens must be 1 to {MAX_NEW_TOKENS}")
    image, question = open_image(args.image), clean_question(args.question)
    folder = Path(args.what)
    recipe = None if folder.is_dir() else Recipe.parse(args.what)
    from vlmcomp import machine

    machine.hardware(args.device)
    if recipe is None:
        from vlmcomp import checkpoint

        vlm = checkpoint.load(folder, args.device)
    else:
        zoo.check(recipe)
        from vlmcomp.build import build

        vlm = build(recipe, device=args.device, source=args.source, progress=_on_stderr())
    answer = ask(vlm, image, question, args.max_new_tokens)
    print(answer.text)
    speed = f"first token {answer.ttft_ms:.1f} ms, {answer.tokens_per_second:.1f} tokens/s"
    print(f"{vlm.recipe} on {vlm.device.type}: {answer.new_tokens} tokens, {speed}", file=sys.stderr)


def _unresolved(samples: int) -> str:
    """What so few questions cannot tell apart."""
    from vlmcomp.paired import resolvable

    spans = [
        f"{100 * resolvable(samples, share):.1f} points where {share:.0%} of the answers change" for share in CHANGES
    ]
    told = " or ".join(spans)
    return f"--quick asks {samples} questions of each task: differences below {told} cannot be told from none"


def bench(args: argparse.Namespace) -> int | None:
    recipes = [Recipe.parse(r) for r in dict.fromkeys(args.recipes)]
    if bool(recipes) == args.all:
        raise ValueError("name the recipes to measure, or give --all")
    if args.model and not args.all:
        raise ValueError("--model belongs to --all: name the recipes, or give --all as well")
    from vlmcomp import bench, sweep
    from vlmcomp.measure import tasks

    if args.weights == "random" and (args.task or args.source or args.all):
        raise ValueError("--weights random answers no questions: name the recipes, without --task, --source and --all")
    if args.quick and args.samples is not None:
        raise ValueError("--quick says how many samples: leave --samples out")
    models = [args.model] if args.model else matrix.embedded()
    recipes = recipes or [recipe for model in models for recipe in matrix.recipes(model)]
    if args.source and len({recipe.model for recipe in recipes}) > 1:
        raise ValueError("--source holds the weights of one model: measure its recipes alone, or give --model")
    samples = bench.QUICK_SAMPLES if args.quick else args.samples
    settings = {
        "samples": samples,
        "quick": args.quick,
        "device": args.device,
        "source": args.source,
        "encoder": args.encoder,
    }
    asked = () if args.weights == "random" else tuple(args.task or tasks.TASKS)
    plan = bench.Plan(asked, **settings, random=args.weights == "random", layers=args.layers)
    if args.retime:
        for group in [[r for r in recipes if r.model == model] for model in dict.fromkeys(r.model for r in recipes)]:
            try:
                timed = sweep.retime(group, plan, root=Path(args.out), say=_on_stderr())
            except ValueError as error:
                if len(models) == 1:
                    raise
                print(f"{group[0].model}: {error}", file=sys.stderr)
                continue
            for found in timed:
                print(sweep.summary(found))
        return 0
    if args.quick:
        print(_unresolved(bench.QUICK_SAMPLES), file=sys.stderr)
    reports = sweep.run(recipes, plan, root=Path(args.out), force=args.force)
    failed = [r.recipe for r in reports if r.error is not None]
    if args.all:
        rows, count = matrix.status(models, reports)
        print(f"{tables.aligned(rows)}\n{count}")
    else:
        told = f"{len(reports) - len(failed)} measured, {len(failed)} failed"
        print(told + (f": {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def study(args: argparse.Namespace) -> None:
    from vlmcomp.study import cells, cost, run
    from vlmcomp.study import tables as study_tables

    if args.seeds < 1:
        raise ValueError("--seeds must be at least 1")
    ledger = cells.Ledger(Path(args.out) if args.out else run.home(), args.force)
    parts, seeds = args.part or list(run.PARTS), range(args.seeds)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    run.run(parts, ledger, samples=args.samples, seeds=seeds, say=say)
    text = study_tables.render(ledger.content(), cost.projection(), whole=True)
    store.write_text(ledger.file.with_suffix(".md"), text + "\n")
    print(text)


def record(args: argparse.Namespace) -> None:
    recipes = [Recipe.parse(r) for r in dict.fromkeys(args.recipes)]
    recipes = recipes or [recipe for model in matrix.embedded() for recipe in matrix.recipes(model)]
    for recipe in recipes:
        zoo.check(recipe)
    from vlmcomp import cache, machine, recorded

    machine.hardware(args.device)
    for recipe in recipes:
        vlm = cache.obtain(recipe, args.device, cache.usual(), _on_stderr())
        print(f"{recipe}: {recorded.save(recorded.answers(vlm), args.device, Path(args.out))}")


def compare(args: argparse.Namespace) -> None:
    from vlmcomp import paired

    root, wanted = Path(args.root), [str(Recipe.parse(r)) for r in (args.recipe, args.other)]
    groups = [{r.recipe: r for r in group if r.error is None} for group in tables.groups(store.load_all(root))]
    pairs = [[found[r] for r in wanted] for found in groups if all(r in found for r in wanted)]
    if not pairs:
        raise ValueError(f"{root} has no machine that measured both alike: run 'vlmcomp bench {' '.join(wanted)}'")
    for after, before in pairs:
        rows = (store.load_rows(r, root) for r in (after, before))
        print(f"On {after.hardware.slug}. {paired.verdict(after, before, *rows)}\n")


def _rescored(reports: list[Report], root: Path, encoder: str | None) -> list[Report]:
    """The reports with new scores, and saved; those without recorded answers as they are. Nothing is saved before all
    are computed."""
    from vlmcomp.measure.quality import rescore

    done: list[tuple[Report, dict[str, store.Rows]]] = []
    for found in reports:
        rows = store.load_rows(found, root)
        if found.error is None and rows:
            found = rescore(found, rows, encoder)
        elif found.error is None:
            print(f"{found.recipe} has no recorded answers and keeps its scores", file=sys.stderr)
        done.append((found, rows))
    for found, rows in done:
        if rows:
            store.save(found, rows, root)
    return [found for found, _ in done]


def _chosen(reports: list[Report], args: argparse.Namespace) -> list[Report]:
    """The reports of ``--model`` and ``--hardware``."""
    for name, read in (("model", lambda r: Recipe.parse(r.recipe).model), ("hardware", lambda r: r.hardware.slug)):
        wanted, known = getattr(args, name), sorted({read(r) for r in reports})
        if wanted and wanted not in known:
            raise ValueError(f"no reports of --{name} {wanted}: choose {' or '.join(known)}")
        reports = [r for r in reports if wanted in (None, read(r))]
    return reports


def report(args: argparse.Namespace) -> None:
    root = Path(args.root)
    reports = store.load_all(root)
    if not reports:  # an empty block must not wipe the README's
        raise ValueError(f"there are no reports in {root}: run 'vlmcomp bench' first")
    if args.readme and (args.model or args.hardware):
        raise ValueError("--readme shows every model: leave out --model and --hardware")
    if args.out and (args.readme or args.plots):
        raise ValueError("--out is for tables: leave it out with --readme and --plots")
    reports = _chosen(reports, args)
    if args.rescore:
        reports = _rescored(reports, root, args.encoder)
    if args.readme:
        _rewrite(Path(args.readme), reports, root)
        return

    def rows(found: Report) -> dict[str, store.Rows]:
        return store.load_rows(found, root)

    if args.plots:
        from vlmcomp import draw

        for file in draw.save_all(reports, rows, Path(args.plots), print):
            print(file)
        return
    text = flat.FORMATS[args.format](flat.flatten(reports, rows)) if args.format else tables.block(reports, rows)
    if not args.out:
        print(text)
        return
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    store.write_text(Path(args.out), text + "\n")
    print(f"{args.out} holds {len(reports)} reports of {root}")


def _rewrite(file: Path, reports: list[Report], root: Path) -> None:
    from vlmcomp import readme

    try:
        new = readme.fill(file.read_text(encoding="utf-8"), reports, root)
        pictures = readme.pictures(new, reports, root)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    for name, picture in pictures.items():
        (file.parent / name).parent.mkdir(parents=True, exist_ok=True)
        store.write_bytes(file.parent / name, picture)
    store.write_text(file, new)
    print(f"{file} holds the results of {root}")


def deploy(args: argparse.Namespace) -> None:
    from huggingface_hub.utils import logging

    from vlmcomp import deploy
    from vlmcomp.report import amount

    logging.set_verbosity_error()  # the client's retries would stand before the sentence
    deploy.check(args.to, args.hardware)
    plan = deploy.plan()
    for what, names in (("pushed as on the disk, not as committed", plan.changed), ("not tracked", plan.untracked)):
        if names:
            print(f"{what}: {', '.join(names)}", file=sys.stderr)
    total = f"{len(plan.files)} files, {amount(sum(plan.files.values()))}, under {plan.licence}"
    if not args.dry_run:
        api = deploy.connect()
        print(f"pushing {total} ...", file=sys.stderr, flush=True)
        print(deploy.push(api, plan, args.to, args.hardware))
        return
    print(tables.aligned([("     BYTES", "FILE"), *((f"{size:10,}", name) for name, size in plan.files.items())]))
    print("\n" + tables.aligned([("MODEL", "LICENCE"), *plan.models.items()]))
    print(f"\n{total}, would go to the Space {args.to}; nothing was pushed")


def recommend(args: argparse.Namespace) -> int | None:
    from vlmcomp.recommend import Wish, advise, read_amount

    wish, root = Wish(args.model, read_amount(args.memory), args.loss, args.goal), Path(args.root)
    reports = store.load_all(root)
    known = sorted({r.hardware.slug for r in reports})
    if args.hardware and args.hardware not in known:
        raise ValueError(f"no reports of --hardware {args.hardware}: choose {' or '.join(known)}")
    reports = [r for r in reports if args.hardware in (None, r.hardware.slug)]
    found = advise(wish, reports, lambda report: store.load_rows(report, root), _published)
    if found.best is None:
        print(f"nothing will do. {found.why}\n({found.basis})")
        return 1
    print(f"{found.best.recipe}\n{found.why}\n{found.cost}\n({found.basis})\n")
    print(f"{found.command}\n\n{found.python}")
    return None


def _published(name: str) -> tuple[dict[str, int], dict[str, int]]:
    from vlmcomp.measure import sizes

    return sizes.by_recipe(name)


def train(args: argparse.Namespace) -> None:
    from vlmcomp.shapes.blueprints import BLUEPRINTS
    from vlmcomp.shapes.train import train

    if args.name not in BLUEPRINTS:
        raise ValueError(f"'{args.name}' cannot be trained here: choose one of {', '.join(BLUEPRINTS)}")
    given = {"steps": args.steps, "tower_steps": args.tower_steps, "seed": args.seed}
    out = Path(args.out or f"runs/{args.name}/model")
    work = Path(args.work or f"runs/{args.name}")
    train(args.name, out, work, compiled=args.compile, **{k: v for k, v in given.items() if v is not None})
    print(f"{args.name} is in {out}")
