"""The command line: one subcommand a verb. torch is imported only by the verbs that need it."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from vlmcomp import __version__, store, tables, zoo
from vlmcomp.recipe import PRECISIONS, Recipe

_RECIPE_HELP = "MODEL/STEPS+PRECISION, for example llava-shapes/int8 or llava-shapes/heads25+glu30+int4"


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one sentence, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when done, 1 when a recipe of a sweep failed, 2 for bad input (one sentence on stderr), 130 on Ctrl-C.
    """
    try:
        options = _parser().parse_args(argv)
        code = options.do(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("vlmcomp: stopped; what was finished is kept", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"vlmcomp: {_sentence(error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        print(
            "vlmcomp: the device has not enough memory for this model: use int8 or int4, or --device cpu",
            file=sys.stderr,
        )
        return 2


def _sentence(error: Exception) -> str:
    """The error as one line for people."""
    if isinstance(error, ImportError):
        return f"{error.name or error} cannot be imported: pip install -r requirements.txt"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _models(options: argparse.Namespace) -> int:
    rows = [("MODEL", "TITLE", "STEPS", "WEIGHTS", "LICENCE")]
    for m in zoo.MODELS.values():
        steps = f"headsNN, {m.mlp}NN"
        rows.append((m.name, m.title, steps, "in this repository" if m.embedded else m.source, m.licence))
    print(tables.aligned(rows))
    print(f"\nNN: percent to remove, 1 to 90. Precisions: {', '.join(PRECISIONS)}. Default model: {zoo.DEFAULT}.")
    return 0


def _build(options: argparse.Namespace) -> int:
    recipe, out = Recipe.parse(options.recipe), Path(options.out)
    zoo.check(recipe)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty folder: give a new one")
    from vlmcomp import build, checkpoint, machine
    from vlmcomp.measure import size

    machine.hardware(options.device)
    vlm = build.build(recipe, device=options.device, source=options.source, progress=_on_stderr())
    checkpoint.save(vlm, out)
    print(tables.account(recipe, vlm.pruned, size.weight_bytes(vlm.model), size.parameters(vlm.model)))
    print(f"\n{recipe} ({recipe.label}) built in {vlm.build_seconds:.1f} s and saved to {out}")
    return 0


def _ask(options: argparse.Namespace) -> int:
    folder = Path(options.recipe)
    recipe = None if folder.is_dir() else Recipe.parse(options.recipe)
    if recipe is not None:
        zoo.check(recipe)
    from vlmcomp.ask import MAX_NEW_TOKENS, ask, clean_question, open_image

    if not 1 <= options.max_new_tokens <= MAX_NEW_TOKENS:
        raise ValueError(f"--max-new-tokens must be from 1 to {MAX_NEW_TOKENS}, not {options.max_new_tokens}")
    image, question = open_image(options.image), clean_question(options.question)
    from vlmcomp import build, checkpoint, machine

    machine.hardware(options.device)
    if recipe is None:
        vlm = checkpoint.load(folder, device=options.device)
    else:
        vlm = build.build(recipe, device=options.device, progress=_on_stderr())
    answer = ask(vlm, image, question, max_new_tokens=options.max_new_tokens)
    print(answer.text)
    print(
        f"{answer.new_tokens} tokens in {answer.total_ms:.0f} ms, the first after {answer.ttft_ms:.0f} ms "
        "(cold start; 'vlmcomp bench' measures warmed up)",
        file=sys.stderr,
    )
    return 0


def _bench(options: argparse.Namespace) -> int:
    if options.all == bool(options.recipes):
        raise ValueError("name recipes to measure, or give --all for the standard sweep of a model")
    from vlmcomp import bench

    if options.all:
        recipes = bench.every_recipe(options.model or zoo.DEFAULT)
    elif options.model:
        raise ValueError("--model goes with --all: a recipe names its own model")
    else:
        recipes = [Recipe.parse(text) for text in dict.fromkeys(options.recipes)]
    plan = bench.Plan(
        tasks=tuple(dict.fromkeys(options.task)) if options.task else bench.Plan.tasks,
        samples=options.samples,
        device=options.device,
        source=options.source,
        encoder=options.encoder,
    )
    reports = bench.run(recipes, plan, root=Path(options.results), force=options.force)
    failed = [r.recipe for r in reports if r.error is not None]
    print(f"{len(reports) - len(failed)} of {len(reports)} measured; reports are in {options.results}")
    return 1 if failed else 0


def _report(options: argparse.Namespace) -> int:
    root = Path(options.results)
    reports = [r for r in store.load_all(root) if options.hardware in (None, r.hardware.slug)]
    if not reports:
        raise ValueError(f"there are no reports in {root}: run 'vlmcomp bench' first")
    block = tables.block(reports, lambda report: store.load_rows(report, root))
    if options.readme is None:
        print(block)
        return 0
    file = Path(options.readme)
    try:
        old = file.read_text(encoding="utf-8")
        new = tables.rewrite(old, block)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if new != old:
        file.write_text(new, encoding="utf-8")
    print(f"{file}: {'results rewritten' if new != old else 'already up to date'}, {len(reports)} reports")
    return 0


def _train(options: argparse.Namespace) -> int:
    entry = zoo.find(options.name)
    if not entry.embedded:
        raise ValueError(f"{entry.name} is not trained here: its weights come from {entry.source}")
    out = Path(options.out or entry.location)
    work = Path(options.work or Path("runs") / entry.name)
    if options.steps is not None and options.steps < 1:
        raise ValueError(f"--steps must be at least 1, not {options.steps}")
    from vlmcomp.shapes.train import train

    train(entry.name, out, work, options.compile, **({} if options.steps is None else {"steps": options.steps}))
    print(f"{entry.title} trained and saved to {out}")
    return 0


def _on_stderr() -> Callable[[str, float], None]:
    """Progress as one line a stage, on stderr so that stdout holds the result alone."""
    told: list[str] = []

    def say(text: str, share: float) -> None:
        if text not in told:
            told.append(text)
            print(f"{text} ...", file=sys.stderr, flush=True)

    return say


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vlmcomp", description="Compress vision-language models and measure what it costs.")
    parser.add_argument("--version", action="version", version=f"vlmcomp {__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def verb(name: str, do: Callable[[argparse.Namespace], int], what: str, *examples: str) -> argparse.ArgumentParser:
        epilog = "examples:\n" + "\n".join(f"  vlmcomp {e}" for e in examples)
        sub = verbs.add_parser(
            name, help=what, description=what, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        sub.set_defaults(do=do)
        return sub

    verb("models", _models, "List the models, their steps and licences.", "models")
    p = verb(
        "build", _build, "Prune and quantize a model and save it.", "build llava-shapes/glu30+int8 --out small",
        "build llava-1.5-7b/int4 --out llava-int4 --device cuda",
    )  # fmt: skip
    p.add_argument("recipe", metavar="RECIPE", help=_RECIPE_HELP)
    p.add_argument("--out", metavar="DIR", required=True, help="new folder; stock from_pretrained loads it")
    _add_device(p)
    _add_source(p)
    p = verb(
        "ask", _ask, "Ask a compressed model a question about an image.",
        'ask llava-shapes/int4 --image scene.png --question "How many circles are there?"',
        'ask small --image scene.png --question "Describe the image."',
    )  # fmt: skip
    p.add_argument("recipe", metavar="RECIPE|DIR", help=f"{_RECIPE_HELP}; or a folder that build wrote")
    p.add_argument("--image", metavar="FILE", required=True, help="PNG, JPEG or WebP")
    p.add_argument("--question", metavar="TEXT", required=True)
    p.add_argument("--max-new-tokens", metavar="N", type=int, default=64, help="longest answer (default: %(default)s)")
    _add_device(p)
    _add_bench(verb)
    p = verb(
        "report", _report, "Print the results as Markdown tables.", "report", "report --readme README.md",
    )  # fmt: skip
    p.add_argument("--readme", metavar="FILE", help=f"rewrite what stands between {tables.BEGIN} and {tables.END}")
    p.add_argument("--hardware", metavar="NAME", help="only the results of this machine, a folder name in the results")
    _add_results(p)
    p = verb(
        "train", _train, "Train an embedded model from nothing; an interrupted run goes on.", "train llava-shapes",
        "train llava-shapes --steps 200 --out trial --work trial-work",
    )  # fmt: skip
    p.add_argument(
        "name", metavar="NAME", help=f"one of {', '.join(m.name for m in zoo.MODELS.values() if m.embedded)}"
    )
    p.add_argument("--out", metavar="DIR", help="where the weights go (default: the model's own place in assets/)")
    p.add_argument("--work", metavar="DIR", help="where an interrupted run is kept (default: runs/NAME)")
    p.add_argument("--steps", metavar="N", type=int, help="optimizer steps of the last stage (default: the plan's)")
    p.add_argument("--compile", action="store_true", help="use torch.compile; needs a C++ compiler")
    return parser


def _add_bench(verb: Callable[..., argparse.ArgumentParser]) -> None:
    p = verb(
        "bench", _bench, "Measure size, memory, latency and quality; finished reports are kept.",
        "bench llava-shapes/fp16 llava-shapes/int8", "bench --all",
        "bench --all --model llava-1.5-7b --task shapes-vqa --samples 200",
    )  # fmt: skip
    p.add_argument("recipes", metavar="RECIPE", nargs="*", help=_RECIPE_HELP)
    p.add_argument("--all", action="store_true", help="the standard sweep of --model instead of named recipes")
    p.add_argument("--model", metavar="NAME", help=f"model of --all (default: {zoo.DEFAULT})")
    p.add_argument("--task", metavar="NAME", action="append", help="shapes-vqa, easy-vqa; repeat it (default: both)")
    p.add_argument(
        "--samples", metavar="N", type=int, help="questions a task (default: shapes-vqa 2000, easy-vqa 1000)"
    )
    p.add_argument("--force", action="store_true", help="measure again what is already measured")
    p.add_argument("--encoder", metavar="NAME", default="auto", help="BERTScore's: auto, minilm or roberta-large")
    _add_device(p)
    _add_source(p)
    _add_results(p)


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a device: use cpu, cuda or cuda:N")
    return text


def _add_device(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", metavar="NAME", type=_device, help="cuda or cpu (default: a GPU if there is one)")


def _add_source(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--source", metavar="PLACE", help="folder or Hub id of the dense weights, instead of the model's own"
    )


def _add_results(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--results", metavar="DIR", default=str(store.PRECOMPUTED), help="reports' folder (default: precomputed/)"
    )
