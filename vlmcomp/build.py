"""Recipe -> VLM: load, remove heads, remove MLP neurons, quantize. The only place that knows the order."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from PIL import Image
from transformers import AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin
from transformers.utils import logging as transformers_logging

from vlmcomp import anatomy, processor, zoo
from vlmcomp.ask import open_image
from vlmcomp.calibrate import sequences
from vlmcomp.prune.cut import Method, plans, prune
from vlmcomp.quantize import BACKENDS, quantize, round_to_int4
from vlmcomp.recipe import Recipe
from vlmcomp.shapes.questions import sample_question
from vlmcomp.shapes.scenes import render, sample_scene
from vlmcomp.vlm import VLM, compute_dtype, default_device, round_to_float16

Progress = Callable[[str, float], None]  # what is being done, and the share done from 0 to 1

CALIBRATION_SEED = 0
COLUMNS = ("image", "question", "answer")  # of a calibration file
INT4_BLOCK = 64  # bitsandbytes repacks 4-bit weights for a CPU in blocks of so many inputs


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
    for plan in plans(model, recipe.steps):
        columns = plan.kept * plan.size
        if recipe.precision == "int4" and device == "cpu" and columns % INT4_BLOCK:
            raise ValueError(
                f"{plan.step} leaves {columns} inputs to the matrix that reads the {plan.step.kind}, and INT4 on a CPU "
                f"takes multiples of {INT4_BLOCK}: use int8, a GPU or another percentage"
            )


def load(recipe: Recipe, device: str, source: str | None = None) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The dense model of ``recipe`` and its processor, from ``source`` (folder or Hub id) or the zoo's own place.

    Raises:
        ValueError: the weights cannot be had, or belong to a family that is not supported.
    """
    entry = zoo.find(recipe.model)
    if entry.embedded:
        transformers_logging.disable_progress_bar()  # loads in no time
    place, revision = source or entry.location, None if source else entry.revision
    try:
        reader = processor.load(place, revision)
        model = AutoModelForImageTextToText.from_pretrained(
            place, revision=revision, dtype=compute_dtype(device), device_map={"": device}
        )
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"the weights of {entry.name} cannot be loaded from {place}: {reason}") from error
    anatomy.of(model)
    round_to_float16(model)
    return model.eval(), reader


def _finish(layer: anatomy.Layer) -> None:
    round_to_float16(layer.block)


def _finish_int4(layer: anatomy.Layer) -> None:
    _finish(layer)
    round_to_int4(layer)


def _within(say: Progress, text: str, start: float, part: float) -> Callable[[float], None]:
    """Progress of one stage, as progress of the whole."""
    return lambda share: say(text, start + part * share)


def build(
    recipe: Recipe,
    *,
    device: str | None = None,
    source: str | None = None,
    calibration: Iterable[tuple[Image.Image, str, str]] | None = None,
    method: Method | None = None,
    progress: Progress | None = None,
) -> VLM:
    """Make ``recipe`` in memory: load, prune in the order written, quantize.

    Args:
        device: "cuda", "cpu", ...; a GPU if there is one.
        source: folder or Hub id to load the dense weights from instead of the zoo's.
        calibration: (image, question, answer) samples to prune by; scenes of shapes if none are given.
        method: how units are chosen and made up for.
        progress: called with a text and the share done.

    Raises:
        ValueError: unknown model, a step its anatomy cannot do, weights that cannot be had, or calibration samples of
            another shape.
    """
    say = progress or (lambda text, share: None)
    entry, device, start = zoo.check(recipe), device or default_device(), time.perf_counter()
    say(f"loading {entry.title}", 0.0)
    model, reader = load(recipe, device, source)
    dtype = str(compute_dtype(device)).removeprefix("torch.")
    stored = "float16" if recipe.precision == "fp16" else f"{recipe.precision} decoder, rest float16"
    vlm = VLM(model, reader, recipe, entry, stored, dtype, BACKENDS[recipe.precision])
    if recipe.steps:
        refuse(model, recipe, device)
        say("calibrating", 0.1)
        samples = calibration_samples(entry.calibration) if calibration is None else calibration
        removed = " and ".join(map(str, recipe.steps))
        told = _within(say, f"pruning {removed}", 0.2, 0.6)
        finish = _finish_int4 if recipe.precision == "int4" else _finish  # INT8 rounds too little to make up for
        vlm.pruned = prune(model, recipe.steps, sequences(vlm, samples), method, told, finish)
    if recipe.precision != "fp16":
        quantize(vlm, _within(say, f"quantizing to {recipe.precision.upper()}", 0.8, 0.2))
    vlm.build_seconds = time.perf_counter() - start
    say("ready", 1.0)
    return vlm
