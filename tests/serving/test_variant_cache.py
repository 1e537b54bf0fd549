"""Built variants on disk: what comes back is what was built, whole or not at all, and never too much."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vlmcomp import files
from vlmcomp.compression import pipeline
from vlmcomp.compression.size import weight_bytes
from vlmcomp.hardware import native_bfloat16
from vlmcomp.models import registry
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.engine import Engine
from vlmcomp.serving import variant_cache
from vlmcomp.serving.variant_cache import Cache, Key, identify, obtain

ROOT = Path(__file__).resolve().parents[2]
INT8 = Recipe.parse("llava-shapes/int8")


def _silent(text: str, share: float) -> None:
    pass


@pytest.fixture
def kept(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 10**9)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that were really built, in order."""
    real, done = pipeline.build, []

    def counted(recipe: Recipe, **settings: object) -> VLM:
        done.append(recipe)
        return real(recipe, **settings)

    monkeypatch.setattr(pipeline, "build", counted)
    return done


def _logits(vlm: VLM, sample: tuple) -> torch.Tensor:
    with torch.inference_mode():
        return vlm.model(**vlm.encode([sample[0]], [sample[1]])).logits


@pytest.mark.parametrize(
    "text",
    [
        "llava-shapes/glu30+int8",
        "llava-shapes/heads25+glu30+int4",
        "blip2-shapes/int4",
        "paligemma-shapes/int8",
        "qwen2-vl-shapes/heads25+fp16",  # no stock config tells of its heads
    ],
)
def test_what_is_reloaded_is_what_was_built(
    text: str, kept: Cache, builds: list, samples: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, told = Recipe.parse(text), []
    monkeypatch.setitem(
        registry.MODELS, recipe.model, replace(registry.find(recipe.model), calibration=32)
    )  # soon done
    first = obtain(recipe, "cpu", kept)
    again = obtain(recipe, "cpu", kept, lambda what, share: told.append((what, share)))
    assert builds == [recipe]
    assert torch.equal(_logits(again, samples[0]), _logits(first, samples[0]))
    assert [Engine(again).generate(i, q, 12).text for i, q, _ in samples] == [
        Engine(first).generate(i, q, 12).text for i, q, _ in samples
    ]
    assert weight_bytes(again.model) == weight_bytes(first.model)
    facts = [(v.recipe, v.pruned, v.backend, v.dtype_stored, v.dtype_computed, v.revision) for v in (first, again)]
    assert facts[0] == facts[1]
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert {"checking the cached variant", "loading the cached variant"} <= {what for what, _ in told}


def test_the_dense_model_is_not_kept_twice(kept: Cache) -> None:
    obtain(INT8.baseline, "cpu", kept)
    assert kept.entries() == []


def _flip(entry: Path) -> None:
    file = entry / "model" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def _truncate(entry: Path) -> None:
    file = entry / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit flipped": _flip,
    "half written": _truncate,
    "a file gone": lambda entry: (entry / "model" / "config.json").unlink(),
    "a file too many": lambda entry: (entry / "model" / "adapter_config.json").write_text("{}"),
    "other settings": lambda entry: (entry / "model" / "generation_config.json").write_text("{}"),
    "no facts": lambda entry: (entry / "entry.json").unlink(),
    "facts damaged": lambda entry: (entry / "entry.json").write_text("[1]"),
    "facts of another": lambda entry: (entry / "entry.json").write_text('{"key": "0", "files": {}}'),
}


def test_whatever_is_damaged_is_built_again(kept: Cache, builds: list, samples: list) -> None:
    wanted = _logits(obtain(INT8, "cpu", kept), samples[0])
    for number, (name, damage) in enumerate(DAMAGES.items(), 2):
        ((entry, _),) = kept.entries()
        damage(entry)
        assert torch.equal(_logits(obtain(INT8, "cpu", kept), samples[0]), wanted), name
        assert len(builds) == number, name
        assert kept.get(identify(INT8, "cpu"), "cpu", _silent) is not None, name
    assert len(kept.entries()) == 1


def test_an_entry_that_is_whole_but_of_another_recipe_is_not_taken(kept: Cache, built) -> None:
    key = Key(INT8, {"revision": None})
    kept.put(key, built("llava-shapes/glu30+int8"), _silent)
    assert kept.get(key, "cpu", _silent) is None and kept.entries() == []


def test_everything_that_a_build_depends_on_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned = Recipe.parse("llava-shapes/glu30+int8")
    entry, plain, native = registry.find("llava-shapes"), identify(pruned, "cpu").digest, native_bfloat16()
    assert identify(pruned, "cpu").digest == plain
    weights = tmp_path / "weights"
    shutil.copytree(entry.location, weights)
    assert identify(pruned, "cpu", str(weights)).digest == plain  # the same weights in another place
    file = weights / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    found = {plain, identify(pruned, "cpu", str(weights)).digest, identify(INT8, "cpu").digest}
    found |= {identify(pruned, "cuda").digest}
    changes = [
        (pipeline, "CALIBRATION_SEED", 1),
        (variant_cache, "BUILD_VERSION", variant_cache.BUILD_VERSION + 1),
        (registry, "check", lambda recipe: replace(entry, calibration=7)),
        ("vlmcomp.models.dtypes", "native_bfloat16", lambda: not native),
        ("vlmcomp.results.provenance", "versions", lambda: {"torch": "1.0"}),
    ]
    for place, name, value in changes:
        with monkeypatch.context() as patch:
            patch.setattr(*((f"{place}.{name}", value) if isinstance(place, str) else (place, name, value)))
            found.add(identify(pruned, "cpu").digest)
    assert len(found) == 4 + len(changes)


def test_the_least_recently_used_goes_first_and_the_size_is_kept(built, tmp_path: Path) -> None:
    vlm, keys = (
        built("llava-shapes/glu30+int8"),
        [Key(Recipe.parse("llava-shapes/glu30+int8"), {"revision": None, "n": n}) for n in range(4)],
    )
    first = Cache(tmp_path, 10**9)
    first.put(keys[0], vlm, _silent)
    ((_, size),) = first.entries()
    kept = Cache(tmp_path, 2 * size + size // 2)
    kept.put(keys[1], vlm, _silent)
    os.utime(kept._entry(keys[0]) / "entry.json", (1, 1))
    os.utime(kept._entry(keys[1]) / "entry.json", (2, 2))
    assert kept.get(keys[0], "cpu", _silent) is not None  # used: now the newest
    kept.put(keys[2], vlm, _silent)
    assert {entry for entry, _ in kept.entries()} == {kept._entry(keys[0]), kept._entry(keys[2])}
    assert sum(held for _, held in kept.entries()) <= kept.limit_bytes
    Cache(tmp_path, size - 1).put(keys[3], vlm, _silent)
    assert kept._entry(keys[3]) not in {entry for entry, _ in kept.entries()}


_CHILD = """
import sys, time
from pathlib import Path
from vlmcomp import cache
from vlmcomp.recipe import Recipe
from vlmcomp.processor import ProcessorMixin

def stay(*args, **kwargs):
    print("here", flush=True)
    time.sleep(600)

def say(text, share):
    if sys.argv[2] == "build" and text.startswith("quantizing"):
        stay()

if sys.argv[2] == "write":
    ProcessorMixin.save_pretrained = stay  # the weights are written, the rest is not
cache.obtain(Recipe.parse("llava-shapes/int8"), "cpu", cache.Cache(Path(sys.argv[1]), 10**9), say)
"""


@pytest.mark.parametrize("when", ["build", "write"])
def test_after_a_kill_the_next_start_is_clean(when: str, kept: Cache, builds: list) -> None:
    command = [sys.executable, "-c", _CHILD, str(kept.root), when]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "here\n"
        left = list(kept.root.rglob("*.safetensors")) if kept.root.exists() else []
        assert bool(left) == (when == "write")
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert kept.entries() == []
    obtain(INT8, "cpu", kept)
    assert len(builds) == 1 and len(kept.entries()) == 1
    assert not list(kept.root.glob(".half-*")) and not list(kept.root.glob(".gone-*"))
    obtain(INT8, "cpu", kept)
    assert len(builds) == 1


def test_a_disk_that_fails_costs_a_warning_and_no_answer(tmp_path: Path, samples: list, caplog) -> None:
    (tmp_path / "file").write_text("not a folder")
    vlm = obtain(INT8, "cpu", Cache(tmp_path / "file" / "cache", 10**9))
    assert Engine(vlm).generate(samples[0][0], samples[0][1], 4).text
    assert any("is not kept" in record.message for record in caplog.records)


def test_the_usual_place_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(files.PLACE, raising=False)
    monkeypatch.delenv(variant_cache.LIMIT, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert variant_cache.usual().root == tmp_path / "vlmcomp"
    assert 0 < variant_cache.usual().limit_bytes <= min(40e9, shutil.disk_usage(tmp_path).free)
    monkeypatch.setenv(files.PLACE, str(tmp_path / "mine"))
    monkeypatch.setenv(variant_cache.LIMIT, "0.001")
    assert variant_cache.usual() == Cache(tmp_path / "mine", 10**6)
    monkeypatch.setenv(variant_cache.LIMIT, "0")
    assert variant_cache.usual().limit_bytes == 0
    monkeypatch.setenv(variant_cache.LIMIT, "much")
    with pytest.raises(ValueError, match="give a number of GB"):
        variant_cache.usual()
