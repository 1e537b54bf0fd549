"""Scores and reconstruction: pure functions on tensors."""

from __future__ import annotations

import itertools

import pytest
import torch

from vlmcomp.compression.activation_stats import ActivationStats
from vlmcomp.compression.pruning import importance
from vlmcomp.compression.pruning.importance import IMPORTANCE_SCORES, PruningUnits, select_units
from vlmcomp.compression.pruning.reconstruction import least_squares, reconstruction_error


def _stats(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | float = 0.0) -> ActivationStats:
    """The statistics of inputs x for a Linear whose targets are its own outputs."""
    return ActivationStats.from_tokens(x, x @ weight.T + bias)


def _problem(n: int = 24, out: int = 6, tokens: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated inputs and a weight."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(n, n, generator=generator) / n**0.5
    return torch.randn(tokens, n, generator=generator) @ mix, torch.randn(out, n, generator=generator)


@pytest.mark.parametrize("score", IMPORTANCE_SCORES)
@pytest.mark.parametrize("width, groups", [(1, 1), (4, 1), (4, 2)])
def test_the_requested_number_of_units_remains(score: str, width: int, groups: int) -> None:
    x, weight = _problem()
    x[:, 3] = 0
    units = PruningUnits(weight, _stats(x, weight), num_kept=4, unit_width=width, num_groups=groups)
    values = IMPORTANCE_SCORES[score](units)
    assert values.shape == (24 // width,) and not values.isnan().any()
    kept = select_units(score, units)
    assert len(kept) == 4 and kept.tolist() == sorted(set(kept.tolist()))
    assert all(((kept // (units.num_units // groups)) == r).sum() == 4 // groups for r in range(groups))


@pytest.mark.parametrize("score", ["activation", "variance", "second order"])
def test_a_silent_unit_goes_first(score: str) -> None:
    x, weight = _problem()
    x[:, 3] = 0
    assert 3 not in select_units(score, PruningUnits(weight, _stats(x, weight), num_kept=23))


def test_variance_alone_sees_that_a_constant_unit_needs_only_a_bias() -> None:
    x, weight = _problem()
    x[:, 3] = 100.0
    units = PruningUnits(weight, _stats(x, weight), num_kept=23)
    assert 3 not in select_units("variance", units) and 3 in select_units("activation", units)


def test_max_abs_weight_reads_the_producers() -> None:
    x, weight = _problem()
    gate, up = torch.ones(24, 8), torch.ones(24, 8)
    gate[5], up[7] = 0.1, 0.2
    units = PruningUnits(weight, _stats(x, weight), num_kept=22, producers=(gate, up))
    assert set(range(24)) - set(select_units("max-abs-weight", units).tolist()) == {5, 7}


def test_second_order_sees_that_a_copy_can_go() -> None:
    """Of two equal units either is free to remove, however large: no score that looks at units alone knows."""
    x, weight = _problem()
    x[:, 3] = 10 * x[:, 0]
    kept = select_units("second order", PruningUnits(weight, _stats(x, weight), num_kept=23)).tolist()
    assert {0, 3} - set(kept)
    assert {0, 3} & set(kept)


def test_second_order_leaves_less_error_than_every_other_score() -> None:
    for seed in range(5):
        x, weight = _problem(seed=seed)
        stats = _stats(x, weight)
        left = {
            s: reconstruction_error(weight, stats, select_units(s, PruningUnits(weight, stats, num_kept=16)))
            for s in IMPORTANCE_SCORES
        }
        assert min(left, key=left.get) == "second order"


@pytest.mark.parametrize("groups", [1, 2])
def test_few_heads_are_chosen_by_trying_every_subset(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = _problem(seed=3)
    stats = _stats(x, weight)
    units = PruningUnits(weight, stats, num_kept=4, unit_width=4, num_groups=groups)

    def left(kept: torch.Tensor) -> float:
        return reconstruction_error(weight, stats, units.columns(kept))

    subsets = [k for k in itertools.combinations(range(6), 4) if groups == 1 or sum(u < 3 for u in k) == 2]
    best = min(left(torch.tensor(k)) for k in subsets)
    assert left(select_units("second order", units)) == pytest.approx(best)
    monkeypatch.setattr(importance, "MAX_EXHAUSTIVE_SUBSETS", 0)
    greedy = left(select_units("second order", units))
    assert best <= greedy < 3 * left(select_units("random", units))


def test_least_squares_is_exact_where_the_removed_units_depend_on_the_kept() -> None:
    torch.manual_seed(0)
    free = torch.randn(200, 6)
    x = torch.cat([free, free @ torch.randn(6, 4)], 1)
    weight, keep = torch.randn(5, 10), torch.arange(6)
    solved, bias = least_squares(weight, _stats(x, weight), keep, ridge=1e-9)
    torch.testing.assert_close(x[:, :6] @ solved.T, x @ weight.T, rtol=1e-3, atol=1e-3)
    assert bias is None


def test_least_squares_never_fits_worse_than_cutting() -> None:
    x, weight = _problem(seed=1)
    keep, full = torch.arange(0, 24, 2), x @ weight.T
    solved, _ = least_squares(weight, _stats(x, weight), keep)
    after = (x[:, keep] @ solved.T - full).square().sum(1).mean()
    assert after < (x[:, keep] @ weight[:, keep].T - full).square().sum(1).mean()
    assert reconstruction_error(weight, _stats(x, weight), keep) == pytest.approx(float(after), rel=1e-3)


@pytest.mark.parametrize("bias", [False, True])
def test_ridge_leads_from_the_best_fit_to_the_uncorrected_weights(bias: bool) -> None:
    x, weight = _problem(seed=1)
    keep, target = torch.arange(0, 24, 2), x @ weight.T
    errors, changes = [], []
    for ridge in (0.0, 1e-3, 0.1, 10.0, 1e9):
        solved, shift = least_squares(weight, _stats(x, weight), keep, has_bias=bias, ridge=ridge)
        fitted = x[:, keep] @ solved.T + (shift if shift is not None else 0)
        errors.append(float((fitted - target).square().mean()))
        changes.append(float((solved - weight[:, keep]).norm()))
    assert errors == sorted(errors) and changes == sorted(changes, reverse=True)
    if not bias:
        best = torch.linalg.lstsq(x[:, keep].double(), target.double()).solution.T.float()
        torch.testing.assert_close(
            least_squares(weight, _stats(x, weight), keep, ridge=0.0)[0], best, rtol=1e-3, atol=1e-3
        )
    assert changes[-1] < 1e-6


def test_a_bias_takes_over_what_is_constant() -> None:
    x, weight = _problem(seed=2)
    x[:, 5] = 4.0
    offset, keep = torch.randn(6), torch.tensor([u for u in range(24) if u != 5])
    solved, bias = least_squares(weight, _stats(x, weight, offset), keep, has_bias=True)
    torch.testing.assert_close(x[:, keep] @ solved.T + bias, x @ weight.T + offset, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "x", [torch.zeros(5, 8), torch.ones(5, 8), torch.randn(2, 8)], ids=["silent", "constant", "rank 2"]
)
def test_poor_calibration_degrades_gracefully(x: torch.Tensor, bias: bool) -> None:
    weight = torch.randn(4, 8)
    for score in IMPORTANCE_SCORES:
        keep = select_units(score, PruningUnits(weight, _stats(x, weight), num_kept=5, has_bias=bias))
        solved, shift = least_squares(weight, _stats(x, weight), keep, has_bias=bias)
        assert solved.isfinite().all() and solved.norm() < 100
        assert shift is None or shift.isfinite().all()


@pytest.mark.parametrize("bias", [False, True])
def test_keeping_everything_changes_nothing(bias: bool) -> None:
    x, weight = _problem()
    offset = torch.randn(6) if bias else torch.zeros(6)
    solved, shift = least_squares(weight, _stats(x, weight, offset), torch.arange(24), has_bias=bias)
    torch.testing.assert_close(solved, weight, rtol=1e-3, atol=1e-3)
    assert shift is None or torch.allclose(shift, offset, atol=1e-3)
