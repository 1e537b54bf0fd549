"""The command line: one subcommand a verb, and errors as one sentence."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from vlmcomp import flat, recommend, store, verbs, zoo

_RECIPE = "MODEL/STEPS+PRECISION, for example llava-shapes/heads25+glu30+int4"
_Verb = Callable[[argparse.Namespace], int | None]  # returns the exit status; None is 0


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one sentence, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vlmcomp",
        description="Compress vision-language models and measure what it costs.",
        epilog="example: vlmcomp ask llava-shapes/int8 --image photo.png --question 'What color is the shape?'",
    )
    subparsers = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: _Verb, text: str, *examples: str) -> argparse.ArgumentParser:
        shown = "\n".join(["examples:", *(f"  vlmcomp {name} {e}".rstrip() for e in examples)])
        kind = argparse.RawDescriptionHelpFormatter
        sub = subparsers.add_parser(name, help=text, description=text, epilog=shown, formatter_class=kind)
        sub.set_defaults(run=run)
        return sub

    def place(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--device", type=_device, help="cpu, cuda or cuda:N; default: a GPU if there is one")
        sub.add_argument("--source", help="folder or Hub id of the dense weights, instead of the model's own")

    sub = verb("models", verbs.models, "list the models", "", "--sizes")
    text = "parameters and GB by part of every real model, from its published shapes; downloads nothing"
    sub.add_argument("--sizes", action="store_true", help=text)
    sub = verb("build", verbs.build, "build a recipe and write its checkpoint", "llava-shapes/glu30+int8 --out small")
    sub.add_argument("recipe", metavar="RECIPE", help=_RECIPE)
    sub.add_argument("--out", required=True, metavar="DIR", help="new folder; stock from_pretrained loads it")
    text = "JSON Lines with image (a path), question and answer to prune by; default: drawn scenes"
    sub.add_argument("--calibration", metavar="FILE", help=text)
    place(sub)
    asked = '--image scene.png --question "How many circles are there?"'
    sub = verb(
        "ask", verbs.ask, "ask a recipe or a checkpoint about an image", f"llava-shapes/int4 {asked}", f"small {asked}"
    )
    sub.add_argument("what", metavar="RECIPE|DIR", help=f"{_RECIPE}; or a folder that build wrote")
    sub.add_argument("--image", required=True, metavar="FILE", help="PNG, JPEG or WebP")
    sub.add_argument("--question", required=True, metavar="TEXT")
    sub.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="longest answer (default: 64)")
    place(sub)
    measured = ("--all", "llava-shapes/fp16 llava-shapes/int8 --task shapes-vqa --samples 200")
    sub = verb("bench", verbs.bench, "measure recipes: size, memory, latency, quality", *measured)
    sub.add_argument("recipes", nargs="*", metavar="RECIPE", help=_RECIPE)
    sub.add_argument("--all", action="store_true", help="every standard cell of --model")
    sub.add_argument("--model", help="for --all; default: all embedded models")
    text = "shapes-vqa, easy-vqa, vqav2, gqa, textvqa, okvqa, or a folder with task.jsonl; of the Hub's four also "
    text += "NAME@REVISION, or NAME=DIR for a copy; may be repeated; default: the first two"
    sub.add_argument("--task", action="append", help=text)
    sub.add_argument("--samples", type=int, help="questions a task")
    sub.add_argument("--quick", action="store_true", help="few questions; says what they cannot resolve")
    text = "random: a real model's architecture, nothing downloaded, for latency, memory and size alone"
    sub.add_argument("--weights", choices=["trained", "random"], default="trained", help=text)
    sub.add_argument("--layers", type=int, metavar="N", help="of --weights random: keep no more of each part")
    sub.add_argument("--encoder", default="auto", help="BERTScore encoder: auto, minilm or roberta-large")
    sub.add_argument("--out", default=str(store.PRECOMPUTED), help="folder of the reports")
    sub.add_argument("--force", action="store_true", help="measure again what is there")
    sub.add_argument("--retime", action="store_true", help="only take the latency anew, all recipes in turns")
    place(sub)
    studied = ("", "--part shapes --samples 500")
    sub = verb("study", verbs.study, "compare the ways to prune, and what pruning costs", *studied)
    sub.add_argument(
        "--part", action="append", choices=["timing", "cost", "language", "peer", "shapes"], help="default: all"
    )
    sub.add_argument("--samples", type=int, metavar="N", help="questions of each task; calibration sequences of text")
    sub.add_argument("--seeds", type=int, default=3, metavar="N", help="calibration sets (default 3)")
    sub.add_argument("--force", action="store_true", help="measure anew what is already measured")
    sub.add_argument("--out", metavar="FILE", help="default: this machine's file in precomputed/")
    reported = ("", "--readme README.md", "--format csv --out results.csv", "--plots plots --model llava-shapes")
    sub = verb("report", verbs.report, "print the results as tables, or draw them", *reported)
    sub.add_argument("--root", default=str(store.PRECOMPUTED), help="folder of the reports")
    sub.add_argument("--model", help="only this model's results")
    sub.add_argument("--hardware", metavar="SLUG", help="only this machine's results")
    way = sub.add_mutually_exclusive_group()
    way.add_argument("--readme", metavar="FILE", help="rewrite the generated blocks and plots of this file instead")
    way.add_argument("--format", choices=list(flat.FORMATS), help="one flat row a recipe, with every circumstance")
    text = "draw one machine's results into this folder, as PNG, SVG and self-contained Plotly HTML"
    way.add_argument("--plots", metavar="DIR", help=text)
    sub.add_argument("--out", metavar="FILE", help="write the tables there instead of printing them")
    text = "first compute every score anew from the recorded answers; needs no model"
    sub.add_argument("--rescore", action="store_true", help=text)
    sub.add_argument("--encoder", help="BERTScore encoder of --rescore; default: the one that was used")
    text = "record the answers to the app's examples, which it shows where nothing can run"
    sub = verb("record", verbs.record, text, "", "llava-shapes/int8")
    sub.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"{_RECIPE}; default: the embedded models' cells")
    sub.add_argument("--device", type=_device, help="cpu, cuda or cuda:N; default: a GPU if there is one")
    sub.add_argument("--out", default=str(store.PRECOMPUTED), help="folder of the reports")
    sub = verb(
        "compare", verbs.compare, "say what differs between two measured recipes", "llava-shapes/int4 llava-shapes/fp16"
    )
    sub.add_argument("recipe", metavar="RECIPE", help=_RECIPE)
    sub.add_argument("other", metavar="OTHER", help="the recipe it is held against")
    sub.add_argument("--root", default=str(store.PRECOMPUTED), help="folder of the reports")
    deployed = ("--to user/space --dry-run", "--to user/space --hardware zero-a10g")
    sub = verb("deploy", verbs.deploy, "push the app to a Space on the Hub", *deployed)
    sub.add_argument("--to", required=True, metavar="USER/SPACE", help="made if it is not there")
    sub.add_argument("--dry-run", action="store_true", help="list the files and licences, and push nothing")
    text = "of the Space, such as cpu-basic, zero-a10g (ZeroGPU) or l4x1; default: the Hub's, or as it is"
    sub.add_argument("--hardware", metavar="NAME", help=text)
    wanted = ("--memory 8GB --loss 2 --for memory --model llava-1.5-7b", "--memory 70MB --loss 1 --for speed")
    sub = verb("recommend", verbs.recommend, "choose a recipe for a device from the measured results", *wanted)
    sub.add_argument("--memory", required=True, metavar="AMOUNT", help="what the device has, such as 8GB")
    sub.add_argument(
        "--loss", type=float, default=1.0, metavar="POINTS", help="of exact match that may go (default: 1)"
    )
    sub.add_argument("--for", dest="goal", choices=recommend.GOALS, default="memory", help="default: memory")
    sub.add_argument("--model", default=zoo.DEFAULT, help=f"default: {zoo.DEFAULT}")
    sub.add_argument("--hardware", metavar="SLUG", help="only this machine's results")
    sub.add_argument("--root", default=str(store.PRECOMPUTED), help="folder of the reports")
    sub = verb("train", verbs.train, "train an embedded model", "llava-shapes --out trial --steps 200")
    sub.add_argument("name")
    sub.add_argument("--out", help="folder of the trained model")
    sub.add_argument("--work", help="folder of the training checkpoints")
    for name in ("--steps", "--tower-steps", "--seed"):
        sub.add_argument(name, type=int)
    sub.add_argument("--compile", action="store_true", help="torch.compile: faster, needs a C++ compiler")
    return parser


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a device: use cpu, cuda or cuda:N")
    return text


def _sentence(error: Exception) -> str:
    """The error as one line for people."""
    if isinstance(error, ImportError):
        return f"{error.name or error} cannot be imported: pip install -r requirements.txt"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, RuntimeError):
        return "the device has not enough memory for this model: use int8 or int4, or --device cpu"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 if a recipe of a sweep failed; 2 for bad input, told in one sentence on stderr; 130 when interrupted.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        args = _parser().parse_args(argv)
        status = args.run(args) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("vlmcomp: stopped; what was finished is kept", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "out of memory" not in str(error):
            raise
        print(f"vlmcomp: {_sentence(error)}", file=sys.stderr)
        return 2
