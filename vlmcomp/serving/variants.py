"""Variants of a model, from the cache or built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

from vlmcomp.compression import checkpoint, pipeline
from vlmcomp.compression.pruning.pruner import PruningMethod
from vlmcomp.data import calibration_data
from vlmcomp.data.calibration_mixture import MIXTURE
from vlmcomp.feedback import Progress
from vlmcomp.hardware import default_device
from vlmcomp.models import download, registry, source_digest
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import BASE_PRECISIONS, TORCHAO, Recipe
from vlmcomp.results import provenance
from vlmcomp.serving import variant_cache
from vlmcomp.serving.variant_cache import CacheKey, VariantCache

_VERSIONED_LIBRARIES = ("torch", "transformers", "bitsandbytes")


def cache_key(recipe: Recipe, device: str, source: str | None = None) -> CacheKey:
    """The key of ``recipe`` as ``compress`` builds it on ``device`` with the default calibration data.

    Args:
        recipe: what is built.
        device: for example "cpu" or "cuda:0"; its index does not matter.
        source: folder or Hub repository of the dense weights, instead of the registry's.

    Raises:
        ValueError: the dense weights cannot be found.
    """
    spec = registry.validate_recipe(recipe)
    folder = Path(source or spec.name_or_path)
    revision = download.resolve_revision(spec, source)
    installed = provenance.package_versions()
    libraries = _VERSIONED_LIBRARIES if recipe.precision in BASE_PRECISIONS else (*_VERSIONED_LIBRARIES, TORCHAO)
    inputs = {
        "weights": revision or source_digest.weights_digest(folder),
        "settings": None if revision else source_digest.settings_digest(folder),
        "revision": revision,
        "calibration": [*_default_data(spec), astuple(PruningMethod())] if recipe.needs_calibration else None,
        "versions": {name: installed.get(name) for name in libraries},
        "build": variant_cache.BUILD_VERSION,
        "device": device.partition(":")[0],
        "dtype": str(compute_dtype(device, spec)),
    }
    return CacheKey(recipe, inputs)


def _default_data(spec: registry.ModelSpec) -> list[Any]:
    """What decides the default calibration data of a model."""
    if spec.bundled:
        return [spec.num_calibration_samples, calibration_data.CALIBRATION_SEED]
    return [str(part) for part in MIXTURE]


def get_or_build(
    recipe: Recipe, device: str | None = None, cache: VariantCache | None = None, progress: Progress | None = None
) -> VLM:
    """The variant of ``recipe`` from ``cache``, or built and then cached. A baseline is never cached: its files exist.

    Args:
        recipe: what is loaded or built.
        device: the default device if None.
        cache: where to look; None builds.
        progress: called with what is being done and the fraction done.

    Raises:
        ValueError: as ``compress``.
    """
    progress = progress or (lambda text, fraction: None)
    device = device or default_device()
    if cache is None or cache.limit_bytes <= 0 or recipe == recipe.baseline:
        return pipeline.compress(recipe, device=device, progress=progress)
    key = cache_key(recipe, device)
    vlm = get([cache], key, device, progress)
    if vlm is None:
        vlm = build([cache], key, device, progress)
    return vlm


def get(caches: Sequence[VariantCache], key: CacheKey, device: str, progress: Progress) -> VLM | None:
    """The variant of ``key`` from the first of ``caches`` that has it intact, on ``device``; None if none has."""
    for cache in caches:
        if cache.has(key):
            vlm = cache.get(key, lambda folder: load(folder, key, device), progress)
            if vlm is not None:
                return vlm
    return None


def build(caches: Sequence[VariantCache], key: CacheKey, device: str, progress: Progress) -> VLM:
    """The variant of ``key``, built and stored in the first of ``caches`` that can.

    Raises:
        ValueError: as ``compress``.
    """
    vlm = pipeline.compress(key.recipe, device=device, progress=progress)
    save = partial(checkpoint.save, vlm)  # before it answers, which may repack weights
    any(cache.put(key, save, progress) for cache in caches if cache.limit_bytes > 0)
    return vlm


def load(folder: Path, key: CacheKey, device: str) -> VLM:
    """The variant of ``key`` from its folder in the cache, on ``device``.

    Raises:
        ValueError: the folder contains another recipe, or no checkpoint that can be read.
    """
    vlm = checkpoint.load(folder, device)
    if vlm.recipe != key.recipe:
        raise ValueError(f"it contains {vlm.recipe}")
    vlm.revision = key.inputs["revision"]
    return vlm
