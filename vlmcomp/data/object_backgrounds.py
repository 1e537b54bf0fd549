"""Backgrounds of scenes of things: plain, gradient, clouds, grain, stripes and checks, in whole numbers."""

from __future__ import annotations

import random
from functools import cache

import numpy as np

_FINE = 16  # weights of the interpolation sum to this


def background(rng: random.Random, size: int) -> np.ndarray:
    """A background: int32 ``(size, size, 3)`` from 0 to 255."""
    base = np.array([rng.randint(70, 250) for _ in range(3)], np.int32)
    if rng.random() < 0.7:  # pale or dull, as most walls and tables are
        base = (base + 3 * int(base.sum()) // 3) // 4
    style = rng.choice(("plain", "gradient", "clouds", "clouds", "stripes", "checks"))
    if style in ("stripes", "checks"):
        ground = base + _pattern(rng, size, style)
    else:
        nodes = {"plain": 2, "gradient": 2, "clouds": rng.randint(4, 9)}[style]
        contrast = 8 if style == "plain" else rng.randint(20, 90)
        ground = base + _smooth(rng, size, nodes, contrast)
    if rng.random() < 0.4:
        ground = ground + _smooth(rng, size, size // 4, rng.randint(5, 22))  # a texture
    return np.clip(ground, 0, 255).astype(np.int32)


def _smooth(rng: random.Random, size: int, nodes: int, contrast: int) -> np.ndarray:
    """Noise of ``nodes`` x ``nodes`` values from -contrast to contrast, interpolated to ``(size, size, 3)``.

    The products are of floats that hold whole numbers below 2^24, so they are exact in any order of summation.
    """
    gray = rng.random() < 0.5
    values = np.frombuffer(rng.randbytes(nodes * nodes * 3), np.uint8).astype(np.int32).reshape(nodes, nodes, 3)
    if gray:
        values = values[..., :1].repeat(3, -1)
    grid = ((values - 128) * contrast >> 7).astype(np.float32)
    weights = _weights(size, nodes)
    rows = (weights @ grid.reshape(nodes, -1)).reshape(size, nodes, 3)
    columns = weights @ rows.transpose(1, 0, 2).reshape(nodes, -1)
    return columns.reshape(size, size, 3).transpose(1, 0, 2).astype(np.int32) // (_FINE * _FINE)


@cache
def _weights(size: int, nodes: int) -> np.ndarray:
    """Linear interpolation from ``nodes`` to ``size`` values: float32 ``(size, nodes)``, rows sum to ``_FINE``."""
    position = np.arange(size) * (nodes - 1) * _FINE // (size - 1)
    left = np.minimum(position // _FINE, nodes - 2)
    part = position - left * _FINE
    weights = np.zeros((size, nodes), np.float32)
    weights[np.arange(size), left] = _FINE - part
    weights[np.arange(size), left + 1] = part
    return weights


def _pattern(rng: random.Random, size: int, style: str) -> np.ndarray:
    """Two tones in stripes or checks: int32 ``(size, size, 3)``."""
    tone = np.array([rng.randint(-45, 45) for _ in range(3)], np.int32)
    x, y = np.arange(size)[None], np.arange(size)[:, None]
    width = rng.randint(6, 24)
    a, b = rng.choice(((1, 0), (0, 1), (1, 1), (1, -1), (2, 1)))
    first = (a * x + b * y) // width % 2
    if style == "checks":
        first = first ^ ((a * y - b * x) // width % 2)
    return (first[..., None] * tone).astype(np.int32)
