"""Scores and reconstruction: pure functions on tensors."""

from __future__ import annotations

import itertools

import pytest
import torch

from vlmcomp.compression.activation_stats import Moments
from vlmcomp.compression.pruning import importance
from vlmcomp.compression.pruning.importance import SCORES, Units, choose
from vlmcomp.compression.pruning.reconstruction import error, least_squares


def _seeing(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | float = 0.0) -> Moments:
    """The moments of inputs x for a Linear that is to go on giving what it gives."""
    return Moments.of(x, x @ weight.T + bias)


def _problem(n: int = 24, out: int = 6, tokens: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated inputs and a weight."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(n, n, generator=generator) / n**0.5
    return torch.randn(tokens, n, generator=generator) @ mix, torch.randn(out, n, generator=generator)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("size, runs", [(1, 1), (4, 1), (4, 2)])
def test_as_many_units_stay_as_asked_for(score: str, size: int, runs: int) -> None:
    x, weight = _problem()
    x[:, 3] = 0
    units = Units(weight, _seeing(x, weight), kept=4, size=size, runs=runs)
    values = SCORES[score](units)
    assert values.shape == (24 // size,) and not values.isnan().any()
    kept = choose(score, units)
    assert len(kept) == 4 and kept.tolist() == sorted(set(kept.tolist()))
    assert all(((kept // (units.count // runs)) == r).sum() == 4 // runs for r in range(runs))


@pytest.mark.parametrize("score", ["activation", "variance", "second order"])
def test_a_silent_unit_goes_first(score: str) -> None:
    x, weight = _problem()
    x[:, 3] = 0
    assert 3 not in choose(score, Units(weight, _seeing(x, weight), kept=23))


def test_variance_alone_sees_that_a_constant_unit_needs_only_a_bias() -> None:
    x, weight = _problem()
    x[:, 3] = 100.0
    units = Units(weight, _seeing(x, weight), kept=23)
    assert 3 not in choose("variance", units) and 3 in choose("activation", units)


def test_max_abs_weight_reads_the_writers() -> None:
    x, weight = _problem()
    gate, up = torch.ones(24, 8), torch.ones(24, 8)
    gate[5], up[7] = 0.1, 0.2
    units = Units(weight, _seeing(x, weight), kept=22, writers=(gate, up))
    assert set(range(24)) - set(choose("max-abs-weight", units).tolist()) == {5, 7}


def test_second_order_sees_that_a_copy_can_go() -> None:
    """Of two equal units either is free to remove, however large: no score that looks at units alone knows."""
    x, weight = _problem()
    x[:, 3] = 10 * x[:, 0]
    kept = choose("second order", Units(weight, _seeing(x, weight), kept=23)).tolist()
    assert {0, 3} - set(kept)
    assert {0, 3} & set(kept)


def test_second_order_leaves_less_error_than_every_other_score() -> None:
    for seed in range(5):
        x, weight = _problem(seed=seed)
        moments = _seeing(x, weight)
        left = {s: error(weight, moments, choose(s, Units(weight, moments, kept=16))) for s in SCORES}
        assert min(left, key=left.get) == "second order"


@pytest.mark.parametrize("runs", [1, 2])
def test_few_heads_are_chosen_by_trying_every_subset(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = _problem(seed=3)
    moments = _seeing(x, weight)
    units = Units(weight, moments, kept=4, size=4, runs=runs)

    def left(kept: torch.Tensor) -> float:
        return error(weight, moments, units.columns(kept))

    ways = [k for k in itertools.combinations(range(6), 4) if runs == 1 or sum(u < 3 for u in k) == 2]
    best = min(left(torch.tensor(k)) for k in ways)
    assert left(choose("second order", units)) == pytest.approx(best)
    monkeypatch.setattr(importance, "EXHAUSTIVE", 0)
    greedy = left(choose("second order", units))
    assert best <= greedy < 3 * left(choose("random", units))


def test_least_squares_is_exact_where_the_removed_units_depend_on_the_kept() -> None:
    torch.manual_seed(0)
    free = torch.randn(200, 6)
    x = torch.cat([free, free @ torch.randn(6, 4)], 1)
    weight, keep = torch.randn(5, 10), torch.arange(6)
    solved, bias = least_squares(weight, _seeing(x, weight), keep, ridge=1e-9)
    torch.testing.assert_close(x[:, :6] @ solved.T, x @ weight.T, rtol=1e-3, atol=1e-3)
    assert bias is None


def test_least_squares_never_fits_worse_than_cutting() -> None:
    x, weight = _problem(seed=1)
    keep, full = torch.arange(0, 24, 2), x @ weight.T
    solved, _ = least_squares(weight, _seeing(x, weight), keep)
    after = (x[:, keep] @ solved.T - full).square().sum(1).mean()
    assert after < (x[:, keep] @ weight[:, keep].T - full).square().sum(1).mean()
    assert error(weight, _seeing(x, weight), keep) == pytest.approx(float(after), rel=1e-3)


def test_a_bias_takes_over_what_is_constant() -> None:
    x, weight = _problem(seed=2)
    x[:, 5] = 4.0
    offset, keep = torch.randn(6), torch.tensor([u for u in range(24) if u != 5])
    solved, bias = least_squares(weight, _seeing(x, weight, offset), keep, bias=True)
    torch.testing.assert_close(x[:, keep] @ solved.T + bias, x @ weight.T + offset, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "x", [torch.zeros(5, 8), torch.ones(5, 8), torch.randn(2, 8)], ids=["silent", "constant", "rank 2"]
)
def test_poor_calibration_degrades_gracefully(x: torch.Tensor, bias: bool) -> None:
    weight = torch.randn(4, 8)
    for score in SCORES:
        keep = choose(score, Units(weight, _seeing(x, weight), kept=5, bias=bias))
        solved, shift = least_squares(weight, _seeing(x, weight), keep, bias=bias)
        assert solved.isfinite().all() and solved.norm() < 100
        assert shift is None or shift.isfinite().all()


@pytest.mark.parametrize("bias", [False, True])
def test_keeping_everything_changes_nothing(bias: bool) -> None:
    x, weight = _problem()
    offset = torch.randn(6) if bias else torch.zeros(6)
    solved, shift = least_squares(weight, _seeing(x, weight, offset), torch.arange(24), bias=bias)
    torch.testing.assert_close(solved, weight, rtol=1e-3, atol=1e-3)
    assert shift is None or torch.allclose(shift, offset, atol=1e-3)
