"""What a camera does to a picture: color cast, blur, noise and the blocks of JPEG, in whole numbers."""

from __future__ import annotations

import math
import random

import numpy as np

_DCT_SCALE = 64
_DCT = np.array(  # of 8 values, rounded, so that products of blocks are whole numbers
    [
        [
            round(_DCT_SCALE * math.sqrt((1 if k == 0 else 2) / 8) * math.cos(math.pi * (2 * n + 1) * k / 16))
            for n in range(8)
        ]
        for k in range(8)
    ],
    np.float64,
)


def degrade(rng: random.Random, pixels: np.ndarray) -> np.ndarray:
    """``pixels``, int32 ``(size, size, 3)`` from 0 to 255, as a camera might save them: uint8."""
    if rng.random() < 0.5:
        pixels = _cast(rng, pixels)
    for _ in range(rng.choices((0, 1, 2), weights=(6, 3, 1))[0]):
        pixels = _blur(pixels)
    if rng.random() < 0.6:
        pixels = pixels + _noise(rng, pixels.shape, rng.randint(2, 14))
    if rng.random() < 0.3:
        pixels = _compress(pixels, rng.randint(3, 14))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _cast(rng: random.Random, pixels: np.ndarray) -> np.ndarray:
    """Other brightness, contrast and white balance."""
    light = rng.randint(205, 300)
    gain = np.array([light + rng.randint(-18, 18) for _ in range(3)], np.int32)
    return np.clip((pixels * gain >> 8) + rng.randint(-14, 14), 0, 255)


def _blur(pixels: np.ndarray) -> np.ndarray:
    """Binomial filter of 3 x 3 pixels."""
    for axis in (0, 1):
        wide = np.concatenate([pixels.take([0], axis), pixels, pixels.take([-1], axis)], axis)
        size = pixels.shape[axis]
        before, after = (wide.take(range(start, start + size), axis) for start in (0, 2))
        pixels = (before + 2 * pixels + after + 2) >> 2
    return pixels


def _noise(rng: random.Random, shape: tuple[int, ...], strength: int) -> np.ndarray:
    """Sums of two bytes, so triangular, with a standard deviation of about 0.8 ``strength``."""
    count = math.prod(shape)
    first, second = np.frombuffer(rng.randbytes(2 * count), np.uint8).reshape(2, *shape).astype(np.int32)
    return (first + second - 255) * strength >> 7


def _compress(pixels: np.ndarray, coarseness: int) -> np.ndarray:
    """Blocks of 8 x 8 pixels with rounded cosine coefficients, as JPEG stores them (without its coding of color)."""
    side = pixels.shape[0] // 8
    blocks = np.clip(pixels, 0, 255).reshape(side, 8, side, 8, 3).transpose(0, 2, 4, 1, 3).astype(np.float64) - 128
    steps = np.add.outer(np.arange(8), np.arange(8)) * coarseness / 2 + coarseness
    steps = np.floor(steps)
    scale = _DCT_SCALE * _DCT_SCALE
    coefficients = np.floor((_DCT @ blocks @ _DCT.T) / (steps * scale) + 0.5) * steps
    restored = np.floor((_DCT.T @ coefficients @ _DCT) / scale + 0.5) + 128
    return restored.transpose(0, 3, 1, 4, 2).reshape(pixels.shape).astype(np.int32)
