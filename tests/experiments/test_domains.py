"""Perplexity on text of another kind than the calibration's."""

from __future__ import annotations

import pytest
import torch

from vlmcomp.experiments import language_model
from vlmcomp.experiments.domain_tables import domain_table, out_of_domain
from vlmcomp.experiments.texts import SEQUENCE_LENGTH, TEXTS, tokenize
from vlmcomp.experiments.trial_log import DENSE


class Characters:
    """A tokenizer whose tokens are characters."""

    eos_token_id = 0

    def __call__(self, text: str) -> Characters:
        self.input_ids = list(map(ord, text))
        return self


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_long_enough_and_its_parts_share_no_sequence(name: str) -> None:
    text = tokenize(name, Characters())
    assert text.held_out.numel() >= 12_000 and text.calibration.shape[1] == text.held_out.shape[1] == SEQUENCE_LENGTH
    seen = set(map(tuple, text.calibration.tolist()))
    assert not any(tuple(row) in seen for row in text.held_out.tolist())
    assert text.digest == tokenize(name, Characters()).digest and TEXTS[name].origin
    assert torch.is_tensor(text.calibration) and len(text.calibration) >= language_model.NUM_DOMAIN_CALIBRATION


def _row(score: str, calibration: str, values: dict[str, float], seed: int = 0) -> dict:
    texts = {name: {"perplexity": value, "held_out_tokens": 10} for name, value in values.items()}
    row = {"step": "glu20" if calibration else "", "score": score, "reconstruct": False, "seed": seed}
    return row | {"calibration": calibration, "texts": texts, "calibration_tokens": 5}


def test_the_worst_other_text_leads_the_table() -> None:
    dense = _row(DENSE, "", {"a": 10.0, "b": 20.0, "c": 10.0})
    on_a = _row("one", "a", {"a": 30.0, "b": 22.0, "c": 12.0})
    assert out_of_domain(on_a, dense) == 1.2  # a is the calibration's own
    both = _row("two", "a + self-generated", {"a": 11.0, "b": 21.0, "c": 11.0})
    table = domain_table([dense, on_a, both])
    assert "| glu20 | one | a | 1.200 | 3.000 | 1.100 | 1.200 |" in table
    assert table.index("| two |") < table.index("| one |")


def test_every_method_is_tried_on_the_same_sources() -> None:
    trials = list(language_model.domain_trials(("optipfair MAW", "optipfair MAW hybrid"), (0, 1)))
    assert len({trial.key for trial in trials}) == len(trials)
    mixed = {(t.score, t.step, t.seed) for t in trials if t.calibration == language_model.MIXED}
    assert {score for score, _, _ in mixed} == {"second order", "activation", "optipfair MAW hybrid"}
    assert {t.calibration for t in trials if t.reconstruct} >= {*TEXTS, language_model.SELF_GENERATED}
