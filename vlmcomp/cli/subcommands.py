"""Every subcommand: its options, what checks them, and the function that runs it."""

from __future__ import annotations

import argparse
import os

from vlmcomp.cli import checks
from vlmcomp.cli.options import (
    ENV_MODEL,
    RECIPE,
    LazyFunction,
    Subcommands,
    add_calibration_options,
    add_device,
    add_model,
    add_renamed,
    add_result_filters,
    add_results_folder,
    add_weights_options,
)
from vlmcomp.models import registry
from vlmcomp.reporting import export
from vlmcomp.reporting import recommend as advice


def add_all(subcommands: Subcommands) -> None:
    """Adds the subcommands in the order of the help."""
    _add_app(subcommands)
    _add_models(subcommands)
    _add_compress(subcommands)
    _add_ask(subcommands)
    _add_train(subcommands)
    _add_bench(subcommands)
    _add_experiment(subcommands)
    _add_doctor(subcommands)
    _add_record(subcommands)
    _add_report(subcommands)
    _add_compare(subcommands)
    _add_recommend(subcommands)
    _add_deploy(subcommands)


def _add_app(subcommands: Subcommands) -> None:
    text = "start the app that compares compressed models side by side"
    sub = subcommands.add("app", "vlmcomp.cli.commands.app:run", text, "--port 7860", checks.check_app)
    first = os.environ.get(ENV_MODEL) or registry.DEFAULT_MODEL
    add_model(sub, f"model that the page shows first (default: ${ENV_MODEL}, or {registry.DEFAULT_MODEL})", first)
    host = os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    sub.add_argument("--host", default=host, metavar="ADDRESS", help="address to serve at (default: %(default)s)")
    sub.add_argument("--port", type=int, metavar="N", help="port to serve at (default: 7860, or the next free one)")
    sub.add_argument("--share", action="store_true", help="also create a public link (downloads a tunnel)")


def _add_models(subcommands: Subcommands) -> None:
    sub = subcommands.add("models", "vlmcomp.cli.commands.models:run", "list the supported models", "--sizes")
    text = "parameters and GB of each part of the real models, computed from their configs; downloads nothing"
    sizes = LazyFunction("vlmcomp.cli.commands.model_sizes:run")
    sub.add_argument("--sizes", dest="run", action="store_const", const=sizes, help=text)


def _add_compress(subcommands: Subcommands) -> None:
    text = "compress a model by a recipe and save the checkpoint"
    run = "vlmcomp.cli.commands.compress:run"
    example = "llava-shapes/glu30+int8 --out small"
    sub = subcommands.add("compress", run, text, example, checks.check_compress)
    sub.add_argument("recipe", metavar="RECIPE", help=RECIPE)
    text = (
        "new folder for the checkpoint, which from_pretrained of transformers can load (default: the cache, from which "
        "the app and ask load it)"
    )
    sub.add_argument("--out", metavar="DIR", help=text)
    add_calibration_options(sub)
    add_weights_options(sub)


def _add_ask(subcommands: Subcommands) -> None:
    example = 'llava-shapes/int4 --image scene.png --question "How many circles are there?"'
    text = "ask a recipe or a checkpoint a question about an image"
    check_question = LazyFunction("vlmcomp.cli.question_check:check")
    sub = subcommands.add("ask", "vlmcomp.cli.commands.ask:run", text, example, checks.check_ask, check_question)
    text = f"{RECIPE}; or a folder that 'vlmcomp compress' wrote"
    sub.add_argument("recipe_or_folder", metavar="RECIPE|DIR", help=text)
    sub.add_argument(
        "--image",
        required=True,
        metavar="FILE",
        help="PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF, or HEIC with pillow-heif",
    )
    sub.add_argument("--question", required=True, metavar="TEXT", type=str)  # an empty one has a sentence of its own
    text = "maximum length of the answer (default: 64)"
    sub.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help=text)
    add_calibration_options(sub)
    add_weights_options(sub)


def _add_train(subcommands: Subcommands) -> None:
    text = "train one of the small models of this repository from scratch"
    example = "llava-shapes --out trial --steps 200"
    sub = subcommands.add("train", "vlmcomp.cli.commands.train:run", text, example, checks.check_train)
    sub.add_argument(
        "name", metavar="MODEL", help="llava-shapes, blip2-shapes, paligemma-shapes, qwen2-vl-shapes or llava-objects"
    )
    sub.add_argument("--out", metavar="DIR", help="folder of the trained model (default: runs/MODEL/model)")
    sub.add_argument("--work", metavar="DIR", help="folder of the training checkpoints (default: runs/MODEL)")
    sub.add_argument(
        "--steps", type=int, metavar="N", help="optimizer steps of the whole model (default: the model's plan)"
    )
    text = "optimizer steps that pretrain the vision tower (default: the model's plan)"
    sub.add_argument("--tower-steps", type=int, metavar="N", help=text)
    sub.add_argument("--seed", type=int, metavar="N", help="random seed (default: the model's plan)")
    text = "use torch.compile, which is faster and requires a C++ compiler"
    sub.add_argument("--compile", action="store_true", help=text)


def _add_bench(subcommands: Subcommands) -> None:
    run = "vlmcomp.cli.commands.bench:run"
    text = "measure size, memory, latency and quality of recipes"
    example = "llava-shapes/fp16 llava-shapes/int8 --task shapes-vqa --samples 200"
    check_settings = LazyFunction("vlmcomp.cli.bench_settings:check")
    _bench_options(subcommands.add("bench", run, text, example, checks.check_bench, check_settings))


def _bench_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("recipes", nargs="*", metavar="RECIPE", help=RECIPE)
    sub.add_argument("--all", action="store_true", help="measure every recipe of --model's results grid")
    add_model(sub, "model of --all (default: all bundled models)")
    text = (
        "shapes-vqa, easy-vqa, objects-vqa, vqav2, gqa, textvqa, okvqa, or a folder with task.jsonl; the last four "
        "also as NAME@REVISION, or NAME=DIR for a local copy; may be repeated (default: shapes-vqa and easy-vqa)"
    )
    sub.add_argument("--task", action="append", help=text)
    sub.add_argument("--samples", type=int, metavar="N", help="questions per task (default: the task's own number)")
    text = "few questions per task; prints the smallest difference that they can detect"
    sub.add_argument("--quick", action="store_true", help=text)
    text = "random: the model's architecture without a download, for latency, memory and size only (default: trained)"
    sub.add_argument("--weights", choices=["trained", "random"], default="trained", help=text)
    text = "with --weights random: at most N layers in the decoder and in the vision tower (default: all)"
    sub.add_argument("--layers", type=int, metavar="N", help=text)
    text = "encoder of BERTScore: auto, minilm or roberta-large (default: auto)"
    add_renamed(sub, "--bertscore-model", "--encoder", metavar="NAME", default="auto", help=text)
    add_results_folder(sub, "--out")
    sub.add_argument("--force", action="store_true", help="measure again even if a report exists")
    add_calibration_options(sub)
    text = "only measure the latency again, of all recipes in alternation"
    add_renamed(sub, "--latency-only", "--retime", action="store_true", help=text)
    text = "only measure again the memory that answering takes"
    sub.add_argument("--memory-only", action="store_true", help=text)
    add_weights_options(sub)


def _add_experiment(subcommands: Subcommands) -> None:
    run = "vlmcomp.cli.commands.experiment:run"
    text = "compare pruning methods, and measure what pruning costs"
    sub = subcommands.add("experiment", run, text, "--part shapes --samples 500", checks.check_experiment)
    parts = ["speed", "cost", "language", "domains", "vqa-domains", "peer", "shapes"]
    sub.add_argument("--part", action="append", choices=parts, help="may be repeated (default: all)")
    text = "cuda: for --part speed only (default: cpu)"
    sub.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help=text)
    text = "questions per task, calibration sequences of text, or rounds of timing (default: the part's own number)"
    sub.add_argument("--samples", type=int, metavar="N", help=text)
    sub.add_argument("--seeds", type=int, default=3, metavar="N", help="number of calibration sets (default: 3)")
    sub.add_argument("--force", action="store_true", help="measure the parts again if they are already measured")
    sub.add_argument("--out", metavar="FILE", help="JSON file of the results (default: this machine's in precomputed/)")


def _add_doctor(subcommands: Subcommands) -> None:
    text = "time every precision on this device and recommend one"
    example = "--model llava-1.5-7b"
    sub = subcommands.add("doctor", "vlmcomp.cli.commands.doctor:run", text, example, checks.check_doctor)
    text = f"whose layer sizes to time (default: {registry.DEFAULT_MODEL})"
    add_model(sub, text, registry.DEFAULT_MODEL)
    add_device(sub)


def _add_record(subcommands: Subcommands) -> None:
    text = "record the answers to the app's examples, which the app shows where no model can run"
    run = "vlmcomp.cli.commands.record:run"
    sub = subcommands.add("record", run, text, "llava-shapes/int8", checks.check_record)
    text = f"{RECIPE} (default: every recipe of the bundled models)"
    sub.add_argument("recipes", nargs="*", metavar="RECIPE", help=text)
    add_device(sub)
    add_results_folder(sub, "--out")


def _add_report(subcommands: Subcommands) -> None:
    run = "vlmcomp.cli.commands.report:run"
    text = "print the results as tables, export or plot them, or update the docs with them"
    sub = subcommands.add("report", run, text, "--format csv --out results.csv", checks.check_report)
    add_results_folder(sub)
    add_model(sub, "only the results of this model (default: of every model)")
    text = "only the results on this task, as the measure of quality (default: the one that most results have)"
    add_result_filters(sub, text)
    output = sub.add_mutually_exclusive_group()
    text = "update the generated blocks and plots of README.md and docs/*.md in DIR (default: the current folder)"
    output.add_argument("--docs", nargs="?", const=".", metavar="DIR", help=text)
    output.add_argument("--readme", metavar="FILE", help=argparse.SUPPRESS)  # earlier spelling: updates one file
    text = "one flat row per recipe with everything that was recorded (default: tables for people)"
    output.add_argument("--format", choices=list(export.WRITERS), help=text)
    text = (
        "plot the results of one machine into this folder, as PNG, SVG and self-contained Plotly HTML (default: none)"
    )
    output.add_argument("--plots", metavar="DIR", help=text)
    sub.add_argument("--out", metavar="FILE", help="write the tables to this file (default: print them)")
    text = "first recompute every score from the recorded answers; loads no model"
    sub.add_argument("--rescore", action="store_true", help=text)
    text = "BERTScore encoder of --rescore (default: the one that was used)"
    add_renamed(sub, "--bertscore-model", "--encoder", metavar="NAME", help=text)


def _add_compare(subcommands: Subcommands) -> None:
    text = "compare two measured recipes: quality, speed and memory"
    example = "llava-shapes/int4 llava-shapes/fp16"
    sub = subcommands.add("compare", "vlmcomp.cli.commands.compare:run", text, example)
    sub.add_argument("recipe", metavar="RECIPE", help=RECIPE)
    sub.add_argument("baseline", metavar="BASELINE", help="recipe to compare with")
    add_result_filters(sub, "only this task (default: every task that both have)")
    add_results_folder(sub)


def _add_recommend(subcommands: Subcommands) -> None:
    example = "--memory 8GB --max-accuracy-drop 2 --optimize-for memory --model llava-1.5-7b"
    text = "choose a recipe for a device from the measured results"
    sub = subcommands.add("recommend", "vlmcomp.cli.commands.recommend:run", text, example)
    sub.add_argument("--memory", required=True, metavar="SIZE", help="memory of the device, such as 8GB")
    text = "largest acceptable loss of the task's score, in percentage points (default: 1)"
    add_renamed(sub, "--max-accuracy-drop", "--loss", type=float, default=1.0, metavar="POINTS", help=text)
    text = "memory: the smallest recipe that qualifies; speed: the fastest (default: memory)"
    add_renamed(sub, "--optimize-for", "--for", choices=advice.GOALS, default="memory", help=text)
    text = f"model to compress (default: {registry.DEFAULT_MODEL})"
    add_model(sub, text, registry.DEFAULT_MODEL)
    add_result_filters(sub, "task of the accuracy drop (default: the one that most results of the model have)")
    add_results_folder(sub)


def _add_deploy(subcommands: Subcommands) -> None:
    run = "vlmcomp.cli.commands.deploy:run"
    example = "--to user/space --hardware zero-a10g --dry-run"
    sub = subcommands.add("deploy", run, "push the app to a Space on the Hugging Face Hub", example)
    sub.add_argument("--to", required=True, metavar="USER/SPACE", help="the Space; created if it does not exist")
    sub.add_argument("--dry-run", action="store_true", help="list the files and licenses without pushing them")
    text = "cpu-basic, zero-a10g (ZeroGPU), l4x1, ... (default: cpu-basic for a new Space, unchanged for another)"
    sub.add_argument("--hardware", metavar="NAME", help=text)
    text = (
        "model that the page shows first, downloaded when the Space is built (default: smolvlm-500m on a CPU, "
        "qwen2-vl-2b on ZeroGPU, llava-1.5-7b on a GPU)"
    )
    add_model(sub, text, None)
