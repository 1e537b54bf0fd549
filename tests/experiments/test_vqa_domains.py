"""Questions of another kind than the calibration's."""

from __future__ import annotations

from itertools import islice

import pytest

from vlmcomp.data import easy_vqa
from vlmcomp.data.questions import TYPES
from vlmcomp.experiments import vqa_domains
from vlmcomp.experiments.domain_tables import vqa_domain_table
from vlmcomp.experiments.trial_log import DENSE
from vlmcomp.experiments.vqa_domains import SOURCES, calibration_samples
from vlmcomp.experiments.vqa_kinds import EASY, SCENES, TYPE_HALVES, is_in_domain


def test_the_halves_share_no_type() -> None:
    first, second = TYPE_HALVES.values()
    assert not set(first) & set(second) and {*first, *second} == set(TYPES)


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_is_the_same_every_time_and_another_for_another_seed(source: str) -> None:
    def texts(seed: int) -> list[tuple[str, str]]:
        return [(question, answer) for _, question, answer in calibration_samples(source, 8, seed, "In a word.")]

    assert len(texts(0)) == 8 and texts(0) == texts(0) != texts(1)


def test_no_tested_image_is_calibrated_on() -> None:
    tested = {sample.load_image().tobytes() for sample in islice(easy_vqa.samples(), 200)}
    assert not tested & {image.tobytes() for image, _, _ in calibration_samples(EASY, 200, 0, "")}


def test_what_belongs_to_a_calibration() -> None:
    half, other = TYPE_HALVES
    assert is_in_domain(half, half) and not is_in_domain(other, half) and not is_in_domain(EASY, SCENES)
    assert is_in_domain(half, f"{SCENES} + {EASY}") and is_in_domain(EASY, f"{SCENES} + {EASY}")


def test_other_kinds_lead_the_table() -> None:
    def row(step: str, calibration: str, easy: float, scenes: float) -> dict:
        kinds = {kind: {"samples": 10, "exact_match": scenes} for kind in TYPE_HALVES}
        kinds[EASY] = {"samples": 20, "exact_match": easy}
        score = "one" if step else DENSE
        return {"step": step, "score": score, "reconstruct": False, "calibration": calibration, "kinds": kinds}

    table = vqa_domain_table([row("", "", 1.0, 0.5), row("glu30", SCENES, 0.9, 0.5), row("glu30", EASY, 1.0, 0.3)])
    assert "| glu30 | one | scenes | 90.0 | 100.0 |" in table and "| glu30 | one | easy-vqa | 60.0 | 100.0 |" in table


def test_every_source_is_tried_with_every_step() -> None:
    found = list(vqa_domains.trials((0,)))
    assert len({trial.key for trial in found}) == len(found)
    tried = {(trial.step, trial.calibration) for trial in found if trial.reconstruct}
    assert tried == {(step, source) for step in vqa_domains.STEPS for source in SOURCES}
