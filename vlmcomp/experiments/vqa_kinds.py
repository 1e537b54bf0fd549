"""Kinds of questions that a model is calibrated on and asked: see ``vqa_domains``."""

from __future__ import annotations

from vlmcomp.data.questions import TYPES

PART = "vqa-domains"
TYPE_HALVES = {"scenes, types A": TYPES[::2], "scenes, types B": TYPES[1::2]}
SCENES, EASY = "scenes", "easy-vqa"


def is_in_domain(kind: str, calibration: str) -> bool:
    """Whether the calibration held questions of this kind."""
    return any(part == kind or (part == SCENES and kind in TYPE_HALVES) for part in calibration.split(" + "))
