"""Built variants on disk: what comes back is what was built, whole or not at all, and never too much."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from vlmcomp import files
from vlmcomp.compression import checkpoint, pipeline
from vlmcomp.compression.size import weight_bytes
from vlmcomp.hardware import has_native_bfloat16
from vlmcomp.models import registry
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.engine import Engine
from vlmcomp.serving import variant_cache, variants
from vlmcomp.serving.variant_cache import CacheKey, VariantCache
from vlmcomp.serving.variants import cache_key, get_or_build

ROOT = Path(__file__).resolve().parents[2]
INT8 = Recipe.parse("llava-shapes/int8")


def _silent(text: str, fraction: float) -> None:
    pass


@pytest.fixture
def cache(tmp_path: Path) -> VariantCache:
    return VariantCache(tmp_path / "cache", 10**9)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that were really built, in order."""
    real, done = pipeline.compress, []

    def counted(recipe: Recipe, **settings: object) -> VLM:
        done.append(recipe)
        return real(recipe, **settings)

    monkeypatch.setattr(pipeline, "compress", counted)
    return done


def _get(cache: VariantCache, key: CacheKey) -> VLM | None:
    return cache.get(key, lambda folder: variants.load(folder, key, "cpu"), _silent)


def _put(cache: VariantCache, key: CacheKey, vlm: VLM) -> None:
    cache.put(key, partial(checkpoint.save, vlm), _silent)


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
        "qwen2-vl-shapes/heads25+fp16",  # no config of transformers holds its head counts
    ],
)
def test_what_is_reloaded_is_what_was_built(
    text: str, cache: VariantCache, builds: list, samples: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.parse(text)
    reports: list[tuple[str, float]] = []
    monkeypatch.setitem(
        registry.MODELS, recipe.model, replace(registry.get_model_spec(recipe.model), num_calibration_samples=32)
    )  # fewer, for speed
    first = get_or_build(recipe, "cpu", cache)
    again = get_or_build(recipe, "cpu", cache, lambda text, fraction: reports.append((text, fraction)))
    assert builds == [recipe]
    assert torch.equal(_logits(again, samples[0]), _logits(first, samples[0]))
    assert [Engine(again).generate(i, q, 12).text for i, q, _ in samples] == [
        Engine(first).generate(i, q, 12).text for i, q, _ in samples
    ]
    assert weight_bytes(again.model) == weight_bytes(first.model)
    facts = [
        (v.recipe, v.pruned, v.quantization_backend, v.storage_dtype, v.compute_dtype, v.revision)
        for v in (first, again)
    ]
    assert facts[0] == facts[1]
    fractions = [fraction for _, fraction in reports]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert {"checking the cached variant", "loading the cached variant"} <= {text for text, _ in reports}


def test_the_baseline_is_not_cached(cache: VariantCache) -> None:
    get_or_build(INT8.baseline, "cpu", cache)
    assert cache.entries() == []


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


def test_whatever_is_damaged_is_built_again(cache: VariantCache, builds: list, samples: list) -> None:
    wanted = _logits(get_or_build(INT8, "cpu", cache), samples[0])
    for number, (name, damage) in enumerate(DAMAGES.items(), 2):
        ((entry, _),) = cache.entries()
        damage(entry)
        assert torch.equal(_logits(get_or_build(INT8, "cpu", cache), samples[0]), wanted), name
        assert len(builds) == number, name
        assert _get(cache, cache_key(INT8, "cpu")) is not None, name
    assert len(cache.entries()) == 1


def test_an_entry_that_is_whole_but_of_another_recipe_is_not_taken(cache: VariantCache, built) -> None:
    key = CacheKey(INT8, {"revision": None})
    _put(cache, key, built("llava-shapes/glu30+int8"))
    assert _get(cache, key) is None and cache.entries() == []


def test_everything_that_a_build_depends_on_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned = Recipe.parse("llava-shapes/glu30+int8")
    spec = registry.get_model_spec("llava-shapes")
    plain = cache_key(pruned, "cpu").digest
    native = has_native_bfloat16()
    assert cache_key(pruned, "cpu").digest == plain
    weights = tmp_path / "weights"
    shutil.copytree(spec.name_or_path, weights)
    assert cache_key(pruned, "cpu", str(weights)).digest == plain  # the same weights in another folder
    file = weights / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    found = {plain, cache_key(pruned, "cpu", str(weights)).digest, cache_key(INT8, "cpu").digest}
    found |= {cache_key(pruned, "cuda").digest}
    changes = [
        ("vlmcomp.data.calibration_data", "CALIBRATION_SEED", 1),
        (variant_cache, "BUILD_VERSION", variant_cache.BUILD_VERSION + 1),
        (registry, "validate_recipe", lambda recipe: replace(spec, num_calibration_samples=7)),
        ("vlmcomp.models.dtypes", "has_native_bfloat16", lambda: not native),
        ("vlmcomp.results.provenance", "package_versions", lambda: {"torch": "1.0"}),
    ]
    for target, name, value in changes:
        with monkeypatch.context() as patch:
            patch.setattr(*((f"{target}.{name}", value) if isinstance(target, str) else (target, name, value)))
            found.add(cache_key(pruned, "cpu").digest)
    assert len(found) == 4 + len(changes)


def test_the_least_recently_used_goes_first_and_the_size_is_bounded(built, tmp_path: Path) -> None:
    vlm, keys = (
        built("llava-shapes/glu30+int8"),
        [CacheKey(Recipe.parse("llava-shapes/glu30+int8"), {"revision": None, "n": n}) for n in range(4)],
    )
    first = VariantCache(tmp_path, 10**9)
    _put(first, keys[0], vlm)
    ((_, size),) = first.entries()
    cache = VariantCache(tmp_path, 2 * size + size // 2)
    _put(cache, keys[1], vlm)
    os.utime(cache._entry(keys[0]) / "entry.json", (1, 1))
    os.utime(cache._entry(keys[1]) / "entry.json", (2, 2))
    assert _get(cache, keys[0]) is not None  # used: now the newest
    _put(cache, keys[2], vlm)
    assert {entry for entry, _ in cache.entries()} == {cache._entry(keys[0]), cache._entry(keys[2])}
    assert sum(size for _, size in cache.entries()) <= cache.limit_bytes
    _put(VariantCache(tmp_path, size - 1), keys[3], vlm)
    assert cache._entry(keys[3]) not in {entry for entry, _ in cache.entries()}


_CHILD = """
import sys, time
from pathlib import Path
from vlmcomp.serving import variant_cache, variants
from vlmcomp.recipe import Recipe
from vlmcomp.models.processor import ProcessorMixin

def hang(*args, **kwargs):
    print("here", flush=True)
    time.sleep(600)

def progress(text, fraction):
    if sys.argv[2] == "build" and text.startswith("quantizing"):
        hang()

if sys.argv[2] == "write":
    ProcessorMixin.save_pretrained = hang  # the weights are written, the rest is not
cache = variant_cache.VariantCache(Path(sys.argv[1]), 10**9)
variants.get_or_build(Recipe.parse("llava-shapes/int8"), "cpu", cache, progress)
"""


@pytest.mark.parametrize("when", ["build", "write"])
def test_after_a_kill_the_next_start_is_clean(when: str, cache: VariantCache, builds: list) -> None:
    command = [sys.executable, "-c", _CHILD, str(cache.root), when]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "here\n"
        left = list(cache.root.rglob("*.safetensors")) if cache.root.exists() else []
        assert bool(left) == (when == "write")
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert cache.entries() == []
    get_or_build(INT8, "cpu", cache)
    assert len(builds) == 1 and len(cache.entries()) == 1
    assert not list(cache.root.glob(".half-*")) and not list(cache.root.glob(".gone-*"))
    get_or_build(INT8, "cpu", cache)
    assert len(builds) == 1


def test_a_disk_that_fails_costs_a_warning_and_no_answer(tmp_path: Path, samples: list, caplog) -> None:
    (tmp_path / "file").write_text("not a folder")
    vlm = get_or_build(INT8, "cpu", VariantCache(tmp_path / "file" / "cache", 10**9))
    assert Engine(vlm).generate(samples[0][0], samples[0][1], 4).text
    assert any("is not cached" in record.message for record in caplog.records)


def test_the_default_folder_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(files.CACHE_DIR_ENV, raising=False)
    monkeypatch.delenv(variant_cache.ENV_CACHE_GB, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert variant_cache.default_cache().root == tmp_path / "vlmcomp"
    assert 0 < variant_cache.default_cache().limit_bytes <= min(40e9, shutil.disk_usage(tmp_path).free)
    monkeypatch.setenv(files.CACHE_DIR_ENV, str(tmp_path / "mine"))
    monkeypatch.setenv(variant_cache.ENV_CACHE_GB, "0.001")
    assert variant_cache.default_cache() == VariantCache(tmp_path / "mine", 10**6)
    monkeypatch.setenv(variant_cache.ENV_CACHE_GB, "0")
    assert variant_cache.default_cache().limit_bytes == 0
    monkeypatch.setenv(variant_cache.ENV_CACHE_GB, "much")
    with pytest.raises(ValueError, match="give a number of GB"):
        variant_cache.default_cache()
