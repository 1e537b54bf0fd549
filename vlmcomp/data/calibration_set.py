"""The samples of one or several calibration sources, and what the record of a build says about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmcomp.data.bad_rows import BadRow, check_choice, format_skipped, refuse
from vlmcomp.data.calibration_data import (
    CalibrationSample,
    load_calibration_file,
    load_images,
    open_calibration_samples,
    short_digest,
)
from vlmcomp.data.calibration_mixture import load_mixture
from vlmcomp.data.calibration_source import ANSWERS, GIVEN, MIXTURE, SELF, SHAPES, HubSource, list_images, parse_sources
from vlmcomp.data.drawn_samples import default_calibration_data
from vlmcomp.data.hub_calibration import load_hub_samples
from vlmcomp.feedback import Progress

OWN_NAME = "own samples"
SELF_NOTE = "answers of the original model"
DEFAULT_NAMES = {SHAPES: "drawn scenes", MIXTURE: "real mixture"}


@dataclass(frozen=True)
class CalibrationSet:
    """What a model is pruned and rounded by.

    Attributes:
        samples: (image, question, answer).
        weights: of each sample in the statistics; of equal ones only the ratio counts.
        name: where they come from.
        skipped: rows that could not be used.
        answers: ``given``, or ``self`` if they are those of the original model, which writes them during the build.
        digest: ``short_digest`` of the samples as they were given; empty for scenes that the code draws.
    """

    samples: tuple[CalibrationSample, ...]
    weights: tuple[float, ...]
    name: str = OWN_NAME
    skipped: tuple[BadRow, ...] = ()
    answers: str = GIVEN
    digest: str = ""

    @property
    def description(self) -> str:
        """``real mixture, sha256:0123456789abcdef, 2 bad rows skipped``."""
        skipped = format_skipped(len(self.skipped)) if self.skipped else ""
        answers = SELF_NOTE if self.answers == SELF else ""
        return ", ".join(filter(None, (self.name, self.digest, skipped, answers)))


def default_source(bundled: bool) -> str:
    """The source for a model: the scenes that the bundled models are trained on, the mixture for those of the Hub."""
    return SHAPES if bundled else MIXTURE


def own_samples(data: Iterable[Any], bad_rows: str = "error", answers: str = GIVEN) -> CalibrationSet:
    """The samples of an iterable, as ``open_calibration_samples``."""
    samples, skipped = open_calibration_samples(data, bad_rows, answers)
    return _make_set([(OWN_NAME, 1.0, samples)], skipped, answers)


def load_sources(
    text: str, count: int, *, bad_rows: str = "error", answers: str = GIVEN, progress: Progress
) -> CalibrationSet:
    """The samples of all sources in ``text``.

    Args:
        text: as for ``parse_sources``.
        count: number of samples of a source that has more than anybody needs: drawn scenes, and data sets on the Hub
            that state none.
        bad_rows: what to do with rows that cannot be used, one of ``BAD_ROWS``; those of the mixture are skipped.
        answers: one of ``ANSWERS``.
        progress: called with what is done, and the fraction done.

    Raises:
        ValueError: a source does not exist, cannot be read or downloaded, or has rows that may not be skipped.
    """
    check_choice(bad_rows)
    check_answers(answers)
    parts: list[tuple[str, float, list[CalibrationSample]]] = []
    skipped: list[BadRow] = []
    for source in parse_sources(text):
        name, samples, bad = _load(source.place, count, bad_rows, answers, progress)
        parts.append((name, source.weight, samples))
        skipped += bad
    return _make_set(parts, skipped, answers)


def check_answers(answers: str) -> None:
    """Raises ``ValueError`` for a source of answers that does not exist."""
    if answers not in ANSWERS:
        raise ValueError(f"answers is {answers!r}: it must be {' or '.join(ANSWERS)}")


def _load(
    place: str | Path | HubSource, count: int, bad_rows: str, answers: str, progress: Progress
) -> tuple[str, list[CalibrationSample], list[BadRow]]:
    """The name, the samples and the skipped rows of one source."""
    if place == SHAPES:
        scenes = default_calibration_data(count)
        return DEFAULT_NAMES[SHAPES], [(i, q, "") for i, q, _ in scenes] if answers == SELF else scenes, []
    if place == MIXTURE:
        return DEFAULT_NAMES[MIXTURE], *load_mixture(answers, progress)
    if isinstance(place, HubSource):
        samples, bad, source = load_hub_samples(place, count, answers, progress)
        refuse(bad, len(bad) + len(samples), bad_rows)
        return str(source), samples, bad
    if (path := Path(place)).is_file():
        return OWN_NAME, *load_calibration_file(path, bad_rows, answers)
    if answers == GIVEN:
        raise ValueError(f"{path} has images alone: let the original model describe them, with --answers self")
    return OWN_NAME, *load_images(list_images(path), bad_rows)


def _make_set(
    parts: Sequence[tuple[str, float, list[CalibrationSample]]], skipped: Sequence[BadRow], answers: str
) -> CalibrationSet:
    """The set of parts, each with its name and the weight of its samples."""
    samples = tuple(sample for *_, part in parts for sample in part)
    weights = tuple(weight for _, weight, part in parts for _ in part)
    names = [name if weight == 1 else f"{name} x{weight:g}" for name, weight, _ in parts]
    digest = "" if [name for name, *_ in parts] == [DEFAULT_NAMES[SHAPES]] else short_digest(samples)
    return CalibrationSet(samples, weights, " + ".join(dict.fromkeys(names)), tuple(skipped), answers, digest)
