"""Arguments of the wrong type or size: one sentence that names what was expected, before any work."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vlmcomp

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "assets/examples/scene-6.png"
IMAGE = Image.new("RGB", (96, 96), "red")
RECIPE = "llava-shapes/int8"
PRUNED = "llava-shapes/glu30+fp16"
NO_TEXT: list[Any] = [5, 1.5, True, b"x", [], {}, ["x"], Path("x")]
NO_PATH: list[Any] = [5, True, b"x", [], {}, object()]
NO_COUNT: list[Any] = [1.5, 2.0, "3", True, [], b"1", float("nan"), float("inf"), object()]
NO_IMAGE: list[Any] = [5, b"\x89PNG", bytearray(b"x"), np.zeros((9, 9, 3), np.uint8), torch.zeros(3, 9, 9), [IMAGE], {}]


def refused(call: Callable, match: str) -> None:
    with pytest.raises(ValueError, match=match) as found:
        call()
    assert "\n" not in str(found.value) and len(str(found.value)) < 400 and "object at 0x" not in str(found.value)


@pytest.fixture(scope="module")
def model(built: Callable) -> vlmcomp.Model:
    return vlmcomp.Model(built(RECIPE))


def asked(model: vlmcomp.Model, image: Any = IMAGE, question: Any = "What?", count: Any = 2) -> list[Callable]:
    """The three ways to ask."""
    return [
        lambda: model.ask(image, question, count),
        lambda: model.stream(image, question, count),
        lambda: model.generate([image], [question], count),
    ]


@pytest.mark.parametrize("recipe", [123, None, *NO_TEXT])
def test_what_is_no_recipe(recipe: Any) -> None:
    for call in (vlmcomp.compress, vlmcomp.benchmark, vlmcomp.Recipe.parse):
        refused(lambda call=call: call(recipe), "is not a recipe")
    refused(lambda: vlmcomp.compare(recipe, RECIPE), "is not a recipe")
    refused(lambda: vlmcomp.compare(RECIPE, recipe), "is not a recipe")
    refused(lambda: vlmcomp.compress(recipe, "int8"), "is not a (recipe|model name)")


@pytest.mark.parametrize("value", [value for value in NO_TEXT if value not in ([], {})])
def test_what_is_no_part_of_a_recipe(value: Any) -> None:
    refused(lambda: vlmcomp.compress("llava-shapes", value), "steps must be a text")
    refused(lambda: vlmcomp.Recipe(value), "is not a model name")
    refused(lambda: vlmcomp.Recipe("llava-shapes", value), "steps must be a tuple")
    refused(lambda: vlmcomp.Recipe("llava-shapes", (), value), "unknown precision")
    refused(lambda: vlmcomp.Recipe("llava-shapes", "int8"), "steps must be a tuple")  # type: ignore[arg-type]


@pytest.mark.parametrize("image", NO_IMAGE, ids=lambda value: type(value).__name__)
def test_what_is_no_image(model: vlmcomp.Model, image: Any) -> None:
    for call in asked(model, image=image):
        refused(call, f"an image must be a path or a PIL image, not {type(image).__name__}")
    rows = [(image, "What?", "red")] * 2
    refused(lambda: vlmcomp.compress(PRUNED, calibration_data=rows), "calibration sample 0: an image must be")


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (None, "there is no image"),
        ("", "there is no image"),
        ("no.png", "there is no image file no.png"),
        (Path("no.png"), "there is no image file no.png"),
        ("no\nfile\0.png", r"there is no image file no\\nfile\\x00.png"),
        (ROOT, "is a folder"),
        (str(ROOT), "is a folder"),
        (FILE / "x.png", "there is no image file"),
        (Image.new("RGB", (0, 0)), "only 0 x 0 pixels"),
        (Image.new("P", (0, 9)), "only 0 x 9 pixels"),
        (Image.new("1", (50_001, 1000)), "at most 50 million"),
        (Image.new("L", (3000, 2)), "only 3000 x 2 pixels"),
    ],
)
def test_images_that_cannot_be_used(model: vlmcomp.Model, image: Any, sentence: str) -> None:
    for call in asked(model, image=image):
        refused(call, sentence)


@pytest.mark.parametrize("image", [FILE, str(FILE), Image.open(FILE), io.BytesIO(FILE.read_bytes())])
def test_what_is_an_image(model: vlmcomp.Model, image: Any) -> None:
    assert model.ask(image, "What?", 1).new_tokens == 1


@pytest.mark.parametrize("question", NO_TEXT)
def test_what_is_no_question(model: vlmcomp.Model, question: Any) -> None:
    for call in asked(model, question=question):
        refused(call, "the question must be a text, not")


@pytest.mark.parametrize("count", [0, -1, 257, 10**30, None, *NO_COUNT])
def test_what_is_no_number_of_tokens(model: vlmcomp.Model, count: Any) -> None:
    for call in asked(model, count=count):
        refused(call, "max_new_tokens must be a whole number from 1 to 256")


def test_numbers_of_numpy_are_numbers(model: vlmcomp.Model) -> None:
    assert model.ask(IMAGE, "What?", np.int64(1)).new_tokens == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "questions", "sentence"),
    [
        (IMAGE, ["What?"], "images must be a list"),
        ("a.png", ["What?"], "images must be a list"),
        (Path("a.png"), ["What?"], "images must be a list"),
        (None, ["What?"], "images must be a list"),
        (5, ["What?"], "images must be a list"),
        ([IMAGE], "What?", "questions must be a list"),
        ([IMAGE], None, "questions must be a list"),
        ([IMAGE] * 5, "What?", "questions must be a list"),
        ([IMAGE], [], "1 image and 0 questions"),
        ([], ["a"], "0 images and 1 question:"),
    ],
)
def test_what_is_no_batch(model: vlmcomp.Model, images: Any, questions: Any, sentence: str) -> None:
    refused(lambda: model.generate(images, questions), sentence)


def test_a_batch_may_be_any_sequence(model: vlmcomp.Model) -> None:
    assert len(model.generate(iter([IMAGE]), (q for q in ["What?"]), 1)) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("device", [5, True, "gpu", "cpu ", "cuda:", "cuda:-1", "cuda:x", "mps", [], {}, b"cpu"])
def test_what_is_no_device(device: Any) -> None:
    calls = [
        lambda: vlmcomp.compress(RECIPE, device=device),
        lambda: vlmcomp.load(ROOT, device=device),
        lambda: vlmcomp.benchmark(RECIPE, tasks=["shapes-vqa"], num_samples=1, device=device),
    ]
    for call in calls:
        refused(call, "is not a device: use cpu, cuda or cuda:N")


@pytest.mark.parametrize("value", NO_PATH)
def test_what_is_no_path(model: vlmcomp.Model, value: Any) -> None:
    calls = [
        lambda: vlmcomp.load(value),
        lambda: model.save_pretrained(value),
        lambda: vlmcomp.benchmark(RECIPE, tasks=["shapes-vqa"], results_dir=value),
        lambda: vlmcomp.compare(RECIPE, "llava-shapes/fp16", results_dir=value),
        lambda: vlmcomp.recommend(memory="8GB", results_dir=value),
        lambda: vlmcomp.compress(RECIPE, source=value),
        lambda: vlmcomp.benchmark(RECIPE, source=value),
    ]
    for call in calls:
        refused(call, "must be a path")


@pytest.mark.parametrize("value", [5, True, b"x", {"a": 1}, []])
def test_what_is_no_text(model: vlmcomp.Model, value: Any) -> None:
    calls = [
        lambda: vlmcomp.compress(RECIPE, prompt_template=value),
        lambda: vlmcomp.benchmark(RECIPE, prompt_template=value),
        lambda: vlmcomp.load("user/model", revision=value),
        lambda: vlmcomp.compare(RECIPE, "llava-shapes/fp16", hardware=value),
        lambda: vlmcomp.recommend(memory="8GB", hardware=value),
        lambda: model.push_to_hub(value),
    ]
    for call in calls:
        refused(call, "must be a text")
    refused(lambda: vlmcomp.recommend(model=value, memory="8GB"), "unknown model")
    refused(lambda: vlmcomp.recommend(memory=value), "is not an amount of memory")
    refused(lambda: vlmcomp.recommend(memory="8GB", optimize_for=value), "is not a goal")
    for name in ("compress", "benchmark"):
        data = {"calibration_data": [(IMAGE, "a", "b")] * 2} if name == "compress" else {}
        refused(lambda name=name, data=data: getattr(vlmcomp, name)(PRUNED, bad_rows=value, **data), "bad rows")


@pytest.mark.parametrize("value", ["1", b"1", [], True, None, object(), float("nan"), -1, 101])
def test_what_is_no_drop(value: Any) -> None:
    refused(
        lambda: vlmcomp.recommend(memory="8GB", max_accuracy_drop=value), "max_accuracy_drop must be a number|a drop"
    )


@pytest.mark.parametrize("value", [5, "x", True, [], object()])
def test_what_is_no_progress(value: Any) -> None:
    refused(lambda: vlmcomp.compress(RECIPE, progress=value), "progress must be a function")
    refused(lambda: vlmcomp.benchmark(RECIPE, progress=value), "progress must be a function")


@pytest.mark.parametrize("data", [5, True, {}, {"a": 1}, b"x", IMAGE, object()])
def test_what_is_no_calibration_data(data: Any) -> None:
    refused(lambda: vlmcomp.compress(PRUNED, calibration_data=data), "calibration_data must be a list")


@pytest.mark.parametrize("row", [5, None, "abc", (IMAGE, "a"), (IMAGE, 5, "a"), (IMAGE, "a", None), {"image": IMAGE}])
def test_what_is_no_calibration_sample(row: Any) -> None:
    refused(lambda: vlmcomp.compress(PRUNED, calibration_data=[row, row]), "calibration sample 0: its? ")


@pytest.mark.parametrize("tasks", ["/path", "shapes-vqa", Path("/path"), b"x", 5, None, True, {"shapes-vqa": 1}])
def test_tasks_are_a_list(tasks: Any) -> None:
    refused(lambda: vlmcomp.benchmark(RECIPE, tasks=tasks), r"tasks must be a list of names and folders, .*\[")


@pytest.mark.parametrize("task", [5, None, b"x", [], "", True])
def test_what_is_no_task(task: Any) -> None:
    refused(lambda: vlmcomp.benchmark(RECIPE, tasks=[task]), "tasks must be a list of names and folders")


def test_folders_of_tasks_may_be_paths(tmp_path: Path) -> None:
    refused(lambda: vlmcomp.benchmark(RECIPE, tasks=[tmp_path]), "is not a task: task.jsonl")  # type: ignore[list-item]


@pytest.mark.parametrize("value", [0, -1, *NO_COUNT])
def test_what_is_no_number_of_samples(value: Any) -> None:
    refused(lambda: vlmcomp.benchmark(RECIPE, num_samples=value), "num_samples must be a whole number from 1")


@pytest.mark.parametrize("value", [None, *NO_COUNT])
def test_what_is_no_seed(value: Any) -> None:
    refused(lambda: vlmcomp.benchmark(RECIPE, num_samples=1, seed=value), "seed must be a whole number")


@pytest.mark.parametrize("model", [5, None, "llava", IMAGE, torch.nn.Linear(2, 2)])
def test_what_is_no_model(model: Any) -> None:
    refused(lambda: vlmcomp.prune_(model, "glu30", []), "the model must be a transformers model, not")
    refused(lambda: vlmcomp.quantize_(model, "int8"), "the model must be a transformers model, not")


def test_arguments_of_the_functions_in_place(model: vlmcomp.Model, built: Callable) -> None:
    dense = built("llava-shapes/fp16")
    for value in (5, None, b"glu30", ["glu30"], ""):
        refused(lambda value=value: vlmcomp.prune_(dense.model, value, []), "is not a step|steps must be")
        refused(lambda value=value: vlmcomp.quantize_(dense.model, value), "unknown precision")
    for data in (5, None, "file", {"a": 1}):
        call = lambda data=data: vlmcomp.prune_(dense.model, "glu30", data, processor=dense.processor)  # noqa: E731
        refused(call, "calibration_data must be|calibration sample|at least 2")
    refused(lambda: vlmcomp.prune_(dense.model, "glu30", torch.zeros(3)), "token ids")
    refused(lambda: vlmcomp.prune_(dense.model, "glu30", torch.zeros(2, 3)), "token ids")
