"""Recipe -> VLM: load, leave image tokens out, remove heads and MLP neurons, quantize. The only place that knows the
order."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from PIL import Image
from transformers import PreTrainedModel

from vlmcomp.compression.calibration import sequences
from vlmcomp.compression.layerwise import Care
from vlmcomp.compression.pruning.pruner import Method, plans, prune
from vlmcomp.compression.quantization.quantize import BACKENDS, mark, quantize, require, round_to_int4
from vlmcomp.compression.quantization.torchao import GROUP, ROWS
from vlmcomp.compression.visual_tokens import pruner as token_pruner
from vlmcomp.data.images import open_image
from vlmcomp.data.questions import sample_question
from vlmcomp.data.scenes import render, sample_scene
from vlmcomp.models import architecture, registry
from vlmcomp.models.loading import Arrival, Dense, load
from vlmcomp.models.vlm import VLM, default_device, round_to_float16
from vlmcomp.recipe import Recipe, bits, precision_title

Progress = Callable[[str, float], None]  # what is being done, and the share done from 0 to 1

CALIBRATION_SEED = 0
COLUMNS = ("image", "question", "answer")  # of a calibration file
# What the inputs of a matrix must be a multiple of; bitsandbytes repacks its weights for a CPU alone.
INT4_BLOCKS = {("int4", "cpu"): 64, ("int4-torchao", "cpu"): GROUP, ("int4-torchao", "cuda"): GROUP}


def calibration_samples(count: int, seed: int = CALIBRATION_SEED) -> Iterator[tuple[Image.Image, str, str]]:
    """Image, question and answer over scenes of shapes drawn for calibration alone: no split shares their seed."""
    rng = random.Random(f"calibrate-{seed}")
    for _ in range(count):
        scene = sample_scene(rng)
        question = sample_question(rng, scene)
        yield render(scene), question.text, question.answer


def read_samples(file: str | Path) -> list[tuple[Image.Image, str, str]]:
    """The (image, question, answer) samples of a JSON Lines file; image paths are relative to it.

    Raises:
        ValueError: no such file, a line without the three columns, or an image that cannot be read.
    """
    file, samples = Path(file), []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the calibration file {file} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            image, question, answer = (row[column] for column in COLUMNS)
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{file}, line {number}: it must be a JSON object with {', '.join(COLUMNS)}") from None
        if not all(isinstance(part, str) and part.strip() for part in (image, question, answer)):
            raise ValueError(f"{file}, line {number}: {', '.join(COLUMNS)} must be texts that are not empty")
        samples.append((open_image(file.parent / image), question, answer))
    return samples


def refuse(model: PreTrainedModel, recipe: Recipe, device: str) -> None:
    """Stop before any work on a recipe that the model's shape rules out.

    Raises:
        ValueError: a percentage that rounds to nothing removed or nothing left, or a width that INT4 cannot hold.
    """
    where = device.partition(":")[0]
    block = INT4_BLOCKS.get((recipe.precision, where), 1)
    for plan in plans(model, recipe.steps):
        columns = plan.kept * plan.size
        if columns % block:
            way = "int8, a GPU" if recipe.precision == "int4" else "int8-torchao"
            raise ValueError(
                f"{plan.step} leaves {columns} inputs to the matrix that reads the {plan.step.kind}, and "
                f"{precision_title(recipe.precision)} on a {'CPU' if where == 'cpu' else 'GPU'} takes multiples of "
                f"{block}: use {way} or another percentage"
            )
    if recipe.precision == "int4-torchao":
        for path, linear in architecture.decoder_linears(model):
            if linear.in_features % GROUP or linear.out_features % ROWS:
                raise ValueError(
                    f"{path} is {linear.out_features} x {linear.in_features}, and {precision_title(recipe.precision)} "
                    f"takes multiples of {ROWS} x {GROUP}: use int4"
                )
        if where == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
            raise ValueError("INT4 (torchao) on a GPU needs compute capability 8.0 or more: use int4")


def _care(arrival: Arrival, precision: str) -> Care:
    """A layer arrives dense, is rounded to what will be stored, and is packed once nothing asks it any more.

    Least squares makes up for rounding to INT4 in the layers after it; INT8 rounds too little for that.
    """

    def finish(layer: architecture.Layer) -> None:
        round_to_float16(layer.block)
        if bits(precision) == "int4":
            round_to_int4(layer, precision)

    def leave(layer: architecture.Layer) -> None:
        if precision != "fp16":
            quantize(layer, precision, arrival.dtype)

    return Care(arrival.layer, finish, leave)


def _within(say: Progress, text: str, start: float, part: float) -> Callable[[float], None]:
    """Progress of one stage, as progress of the whole."""
    return lambda share: say(text, start + part * share)


def build(
    recipe: Recipe,
    *,
    device: str | None = None,
    source: str | None = None,
    dense: Dense | None = None,
    calibration: Iterable[tuple[Image.Image, str, str]] | None = None,
    method: Method | None = None,
    progress: Progress | None = None,
) -> VLM:
    """Make ``recipe`` in memory: load, prune in the order written, quantize; layer by layer, so that no more than one
    dense layer is on the device beside the result.

    Args:
        device: "cuda", "cpu", ...; a GPU if there is one.
        source: folder or Hub id to load the dense weights from instead of the zoo's.
        dense: the dense model instead of one that is loaded; it is used up.
        calibration: (image, question, answer) samples to prune by; scenes of shapes if none are given.
        method: how units are chosen and made up for.
        progress: called with a text and the share done.

    Raises:
        ValueError: unknown model, a step its anatomy cannot do, a library that is not installed, weights that cannot be
            had, or calibration samples of another shape.
    """
    require(recipe.precision)
    say = progress or (lambda text, share: None)
    entry, device, start = registry.check(recipe), device or default_device(), time.perf_counter()
    dense = dense or load(entry, source, say)
    model, precision = dense.model, recipe.precision
    refuse(model, recipe, device)
    arrival = Arrival(model, device, entry)
    arrival.rest()
    dtype = str(arrival.dtype).removeprefix("torch.")
    half = "bfloat16" if arrival.dtype == torch.bfloat16 else "float16"
    stored = half if precision == "fp16" else f"{precision} decoder, rest {half}"
    vlm = VLM(model, dense.processor, recipe, entry, stored, dtype, BACKENDS[precision], revision=dense.revision)
    if recipe.unseen:
        token_pruner.attach(model, recipe.unseen)
    care = _care(arrival, precision)
    work = [f"pruning {step}" for step in recipe.steps]
    work += [f"quantizing to {precision_title(precision)}"] * (precision != "fp16")
    told = _within(say, " and ".join(work) or "reading the weights", 0.1, 0.9)
    if recipe.steps:
        say("calibrating", 0.1)
        samples = calibration_samples(entry.calibration) if calibration is None else calibration
        vlm.pruned = prune(model, recipe.steps, sequences(vlm, samples), method, told, care)
    else:
        for index, layer in enumerate(layers := architecture.layers(model)):
            care.arrive(layer)
            care.leave(layer)
            told((index + 1) / len(layers))
    if precision != "fp16":
        mark(model, precision, arrival.dtype)
    vlm.build_seconds = time.perf_counter() - start
    say("ready", 1.0)
    return vlm
