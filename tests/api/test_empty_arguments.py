"""An empty text never stands for a default, or for the current folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import vlmcomp
from vlmcomp.compression import pipeline
from vlmcomp.data.images import open_image
from vlmcomp.data.task_registry import get_task
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.models import download, registry
from vlmcomp.recipe import Recipe

PAIR = ("llava-shapes/int8", "llava-shapes/fp16")
SPEC = registry.get_model_spec("llava-shapes")
CALLS: dict[str, tuple[Callable, list[str]]] = {
    "compress": (
        lambda **given: vlmcomp.compress("llava-shapes/glu30+int8", **{"device": "cpu"} | given),
        ["source", "device", "prompt_template", "calibration_data"],
    ),
    "benchmark": (
        lambda **given: vlmcomp.benchmark("llava-shapes/int8", **{"device": "cpu"} | given),
        ["source", "device", "prompt_template", "results_dir"],
    ),
    "load": (lambda **given: vlmcomp.load(**{"folder_or_repo": "user/x"} | given), ["folder_or_repo", "revision"]),
    "compare": (lambda **given: vlmcomp.compare(*PAIR, **given), ["results_dir", "hardware", "task"]),
    "recommend": (lambda **given: vlmcomp.recommend(memory="8GB", **given), ["results_dir", "hardware", "task"]),
    "pipeline": (lambda **given: pipeline.compress(Recipe("llava-shapes"), device="cpu", **given), ["source"]),
    "config": (lambda **given: BenchmarkConfig(**given).validate(), ["source", "prompt_template"]),
    "task": (lambda **given: get_task(given["task"]), ["task"]),
    "revision": (lambda **given: download.resolve_revision(SPEC, **given), ["source"]),
}


@pytest.mark.parametrize("empty", ["", " \n"])
@pytest.mark.parametrize(("call", "name"), [(call, name) for call, (_, names) in CALLS.items() for name in names])
def test_an_empty_argument_is_refused_by_its_name(
    call: str, name: str, empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^{name} is empty: give a value, or leave it out$"):
        CALLS[call][0](**{name: empty})
    assert not list(tmp_path.iterdir())


def test_nothing_is_saved_to_an_empty_name(built: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = vlmcomp.Model(built("llava-shapes/int8"))
    with pytest.raises(ValueError, match="folder is empty"):
        model.save_pretrained("")
    with pytest.raises(ValueError, match="repo_id is empty"):
        model.push_to_hub("")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("empty", [None, "", " "])
def test_an_image_without_a_name_is_none(empty: str | None) -> None:
    with pytest.raises(ValueError, match=r"^there is no image: choose or upload one first$"):
        open_image(empty)


def test_a_model_lists_the_parts_that_it_has(built: Callable) -> None:
    size = vlmcomp.Model(built("llava-shapes/int8")).size
    assert all(size.values()) and "projector" in size and "Q-Former" not in size
    assert "Q-Former" in vlmcomp.Model(built("blip2-shapes/fp16")).size
