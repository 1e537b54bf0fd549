"""The distribution of weighted sums of gamma variables, from which the intervals of scores are computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np  # the command line starts without it

_STEP = 0.1  # of the trapezoidal rule, with which the error is below 1e-8 of the probability
_NUM_STEPS = 100
_BEND = 0.35  # of the contour at its ends, as the ratio of its real to its imaginary part


def probability_below_zero(weights: np.ndarray, shapes: np.ndarray) -> float:
    """P(S <= 0) of S, the sum of ``weights`` times independent gamma variables of scale 1.

    The moment generating function is integrated through its saddle point (Daniels 1954), where it does not cancel, so
    that small probabilities are right to many digits as well. Far from there it decays to one side of the complex plane
    and oscillates to the other: of a contour that bends to the left and one that bends to the right the one with less
    cancellation is right.

    Args:
        weights: any numbers.
        shapes: of the gamma variables, each at least 1.
    """
    import numpy as np

    weights, shapes = weights[weights != 0], shapes[weights != 0]
    if not (weights > 0).any():
        return 1.0
    if not (weights < 0).any():
        return 0.0
    side = -1.0 if shapes @ weights > 0 else 1.0  # of the smaller tail
    least = 0.5 / float(np.sqrt(shapes @ weights**2))  # off the pole at 0
    center = side * max(side * _saddle_point(weights, shapes), least)
    curvature = shapes @ (weights / (1 - center * weights)) ** 2
    scale = min(abs(center), curvature**-0.5, *np.abs(1 / weights - center))  # of what the integrand varies over
    x = _STEP * np.arange(_NUM_STEPS)
    bend = _BEND * np.array([[1.0], [-1.0]])
    s = center + scale * (1j * np.sinh(x) + bend * (np.cosh(x) - 1))
    slope = scale * (np.cosh(x) - 1j * bend * np.sinh(x))
    with np.errstate(over="ignore", invalid="ignore"):  # to the wrong side
        terms = np.exp(-np.log(1 - s[..., None] * weights) @ shapes) / s * slope
        sizes = np.nan_to_num(np.abs(terms).sum(1), nan=np.inf)
    chosen = terms[sizes.argmin()].real
    tail = _STEP * float(chosen.sum() - chosen[0] / 2) / np.pi
    return max(0.0, min(1.0, -tail if side < 0 else 1 - tail))


def _saddle_point(weights: np.ndarray, shapes: np.ndarray) -> float:
    """Where the moment generating function of the sum is least.

    Damped Newton steps never leave its domain, as its logarithm is self-concordant for shapes of at least 1.
    """
    point = 0.0
    for _ in range(100):
        terms = weights / (1 - point * weights)
        slope, curvature = float(shapes @ terms), float(shapes @ terms**2)
        decrement = abs(slope) / curvature**0.5
        point -= slope / curvature / (1 + decrement)
        if decrement < 0.1:  # any point near it serves
            break
    return point
