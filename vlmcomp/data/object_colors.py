"""The main color of a sprite, where a person would not hesitate."""

from __future__ import annotations

import numpy as np

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "gray", "white")
_MAIN_SHARE = 0.6  # of the opaque pixels, from which a color is the main one
_OTHER_SHARE = 0.15  # of the next color, up to which there is only one
# Bounds of hue in degrees, saturation and value; colors between two bounds have no name.
_BOUNDS: tuple[tuple[str, float, float, float, float, float, float], ...] = (
    ("red", -14, 9, 0.65, 1, 0.6, 1),
    ("orange", 16, 35, 0.72, 1, 0.85, 1),
    ("yellow", 43, 62, 0.45, 1, 0.8, 1),
    ("green", 75, 165, 0.3, 1, 0.25, 1),
    ("blue", 192, 245, 0.45, 1, 0.4, 1),
    ("purple", 258, 298, 0.3, 1, 0.35, 1),
    ("pink", 305, 345, 0.2, 1, 0.75, 1),
    ("brown", 5, 40, 0.3, 1, 0.2, 0.68),
)


def main_color(sprite: np.ndarray) -> str | None:
    """One of ``COLORS``, or None if the sprite has no single main color.

    Args:
        sprite: uint8 ``(side, side, 4)``, RGBA.
    """
    pixels = sprite[sprite[..., 3] > 127][:, :3].astype(np.float64) / 255
    if not len(pixels):
        return None
    counts = {name: np.count_nonzero(mask) / len(pixels) for name, mask in _masks(pixels).items()}
    first, second = sorted(counts, key=lambda name: -counts[name])[:2]
    return first if counts[first] >= _MAIN_SHARE and counts[second] <= _OTHER_SHARE else None


def _masks(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """For each color, which of the pixels (N, 3) from 0 to 1 have it."""
    red, green, blue = pixels.T
    value, chroma = pixels.max(1), np.ptp(pixels, 1)
    safe = np.where(chroma > 0, chroma, 1)
    saturation = chroma / np.where(value > 0, value, 1)
    hue = np.select(
        [value == red, value == green],
        [60 * (green - blue) / safe, 120 + 60 * (blue - red) / safe],
        240 + 60 * (red - green) / safe,
    )
    masks = {
        "black": value < 0.22,
        "gray": (saturation < 0.15) & (value > 0.42) & (value < 0.76),
        "white": (saturation < 0.1) & (value > 0.9),
    }
    for name, low, high, s_low, s_high, v_low, v_high in _BOUNDS:
        turned = np.where(hue > high, hue - 360, hue)  # red lies on both sides of 0
        is_hue = (turned >= low) & (turned <= high)
        masks[name] = (
            is_hue & (saturation >= s_low) & (saturation <= s_high) & (value >= max(v_low, 0.22)) & (value <= v_high)
        )
    return masks
