"""What the founding study claimed, beside what is measured here for each family."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vlmcomp.models import registry
from vlmcomp.recipe import Recipe, Step
from vlmcomp.reporting.comparison import Paired
from vlmcomp.reporting.grid import of_model, share_kept
from vlmcomp.reporting.grouping import RowsOf, paired
from vlmcomp.reporting.markdown import table
from vlmcomp.results.schema import Report, speedup

_HEADS, _PERCENT = Step("heads", 25), 30
_NEAR = 0.05  # of a product: so near counts as multiplying


class Family:
    """One model's reports, asked for by steps and precision; what is not measured is None."""

    def __init__(self, model: str, reports: Sequence[Report], rows: RowsOf) -> None:
        self.rows, self._paired = rows, {}
        self.model, self.mlp = model, Step(registry.find(model).mlp, _PERCENT)
        self._reports: Mapping[str, Report] = {r.recipe: r for r in reports if r.error is None}

    def _pair(self, steps: tuple[Step, ...], precision: str) -> tuple[Report, Report] | None:
        recipe = Recipe(self.model, steps, precision)
        report, dense = self._reports.get(str(recipe)), self._reports.get(str(recipe.baseline))
        return None if report is None or dense is None else (report, dense)

    def size(self, steps: tuple[Step, ...] = (), precision: str = "fp16") -> float | None:
        """Weight bytes, as a share of FP16's."""
        pair = self._pair(steps, precision)
        return None if pair is None else pair[0].size.total_bytes / pair[1].size.total_bytes  # type: ignore[union-attr]

    def latency(self, steps: tuple[Step, ...] = (), precision: str = "fp16") -> float | None:
        """Milliseconds per decoded token, as a multiple of FP16's; None where the two were not timed in turns."""
        pair = self._pair(steps, precision)
        if pair is None or pair[0].latency is None or pair[1].latency is None:
            return None
        return speedup(pair[0].latency, pair[1].latency)  # FP16's speed over its own: the ratio of the times

    def quality(
        self, steps: tuple[Step, ...] = (), precision: str = "fp16", score: str = "exact_match"
    ) -> float | None:
        """A score of the main task, as a share of FP16's."""
        pair = self._pair(steps, precision)
        if pair is None:
            return None
        return share_kept(*pair, score)

    def paired(self, steps: tuple[Step, ...], precision: str) -> Paired | None:
        """What changed against FP16, question by question."""
        key = (steps, precision)
        if key not in self._paired:  # several claims ask for the same
            pair = self._pair(steps, precision)
            self._paired[key] = None if pair is None else paired(self.rows, *pair)
        return self._paired[key]

    def lost(self, steps: tuple[Step, ...], precision: str) -> str:
        """Whether a loss of exact match is shown, and whether the interval holds it below 2 %."""
        found = self.paired(steps, precision)
        if not found:
            return _NONE
        little = "less than 2 % lost" if found.little_lost else "less than 2 % lost is not shown"
        return f"{little}; {found.verdict}"


_NONE = "–"
_Value = Callable[[Family], str]


def _change(value: float | None) -> str:
    return _NONE if value is None else f"{100 * (value - 1):+.1f} %"


def _kept(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f} % kept"


def _both(steps: Callable[[Family], tuple[Step, ...]], precision: str) -> _Value:
    def text(f: Family) -> str:
        exact, composite = f.quality(steps(f), precision), f.quality(steps(f), precision, "composite")
        return f"{_kept(exact)}, composite {_kept(composite)}: {f.lost(steps(f), precision)}"

    return text


def _against_heads(f: Family) -> str:
    """Quality kept for the bytes that each takes."""
    parts = []
    for step in (f.mlp, _HEADS):
        parts.append(f"`{step}` {_change(f.size((step,)))}: {_kept(f.quality((step,)))}")
    return ", ".join(parts)


def _stacked(f: Family, measure: str) -> tuple[float, float] | None:
    """The combination, and the product of its parts."""
    value = getattr(f, measure)
    parts = [value((f.mlp,)), value((_HEADS,)), value((), "int4")]
    whole = value((_HEADS, f.mlp), "int4")
    if whole is None or None in parts or not all(parts):
        return None
    return whole, math.prod(parts)


def _stacking(measure: str) -> _Value:
    """The combination against the product of its parts: 1.00 is exactly multiplicative."""

    def text(f: Family) -> str:
        found = _stacked(f, measure)
        return _NONE if found is None else f"{found[0]:.3f} / {found[1]:.3f} = {found[0] / found[1]:.2f}"

    return text


def _no_steps(f: Family) -> tuple[Step, ...]:
    return ()


@dataclass(frozen=True)
class Claim:
    """A statement of the study: what it ``said``, our ``value`` of a family, and whether it ``holds`` there.

    ``holds`` is None where nothing is measured, or the study gave no number. ``why`` is the reason of the verdict.
    """

    name: str
    said: str
    value: _Value
    holds: Callable[[Family], bool | None] = lambda f: None
    why: str = ""


def _at_most(value: Callable[[Family], float | None], bound: float) -> Callable[[Family], bool | None]:
    return lambda f: None if (found := value(f)) is None else found <= bound


def _little_lost(precision: str) -> Callable[[Family], bool | None]:
    return lambda f: None if (found := f.paired((), precision)) is None else found.little_lost


def _neurons_win(f: Family) -> bool | None:
    """More is kept with the neurons gone, though they are more bytes."""
    neurons, heads = f.quality((f.mlp,)), f.quality((_HEADS,))
    return None if neurons is None or heads is None else neurons >= heads


def _multiplies(measure: str) -> Callable[[Family], bool | None]:
    return lambda f: None if (found := _stacked(f, measure)) is None else abs(found[0] / found[1] - 1) <= _NEAR


_PART = "true of the quantized matrices alone: embeddings, lm_head and vision tower stay 16-bit"
_CALLS = "fewer bytes are read, but most of a token's time here goes to calling kernels, of which INT8 needs more"
_SLOW = "bitsandbytes unpacks weights for every token, which costs these models more than reading them"
CLAIMS = (
    Claim(
        "INT8 size", "-50 %", lambda f: _change(f.size((), "int8")), _at_most(lambda f: f.size((), "int8"), 0.5), _PART
    ),
    Claim(
        "INT8 quality", "less than 2 % lost", _both(_no_steps, "int8"), _little_lost("int8"), "judged by the interval"
    ),
    Claim(
        "INT8 ms/token",
        "-20 %",
        lambda f: _change(f.latency((), "int8")),
        _at_most(lambda f: f.latency((), "int8"), 0.8),
        _CALLS,
    ),
    Claim(
        "INT4 size", "-74 %", lambda f: _change(f.size((), "int4")), _at_most(lambda f: f.size((), "int4"), 0.26), _PART
    ),
    Claim("INT4 quality", "", _both(_no_steps, "int4")),
    Claim(
        "INT4 ms/token",
        "-20 %",
        lambda f: _change(f.latency((), "int4")),
        _at_most(lambda f: f.latency((), "int4"), 0.8),
        _SLOW,
    ),
    Claim(
        "30 % of the MLP's neurons removed: ms/token",
        "-47 %",
        lambda f: _change(f.latency((f.mlp,))),
        _at_most(lambda f: f.latency((f.mlp,)), 0.53),
        "less is multiplied, but attention, lm_head and the calling of kernels take as long as before",
    ),
    Claim(
        "30 % of the MLP's neurons removed: quality",
        "92 % kept",
        _both(lambda f: (f.mlp,), "fp16"),
        lambda f: None if (found := f.quality((f.mlp,))) is None else found >= 0.92,
        "least squares makes up for what is removed",
    ),
    Claim("MLP neurons against heads", "neurons lose less", _against_heads, _neurons_win, "for more bytes removed"),
    Claim(
        "Stacking, size: heads, MLP and INT4 together / product of the three",
        "1",
        _stacking("size"),
        _multiplies("size"),
        "what stays 16-bit is counted in each of the three",
    ),
    Claim(
        "Stacking, ms/token: the same",
        "1",
        _stacking("latency"),
        _multiplies("latency"),
        "overheads do not multiply: it holds where one of the three makes most of the difference",
    ),
    Claim("Stacking, exact match: the same", "1", _stacking("quality"), _multiplies("quality"), "losses hardly add up"),
)


def _verdict(claim: Claim, families: Sequence[Family]) -> str:
    """For how many of the families the claim holds, and why."""
    found = [claim.holds(f) for f in families]
    known = [holds for holds in found if holds is not None]
    if not known:
        return _NONE
    return f"holds for {sum(known)} of {len(known)}: {claim.why}"


def render(models: Sequence[str], reports: Sequence[Report], rows: RowsOf) -> str:
    """Each claim of the study beside every family's measurement and a verdict, as a Markdown table."""
    families = [Family(model, group, rows) for model in models if (group := of_model(model, reports))]
    head = ("Claim", "The study", *(f.model for f in families), "Verdict")
    lines = [(c.name, c.said or _NONE, *map(c.value, families), _verdict(c, families)) for c in CLAIMS]
    return table(head, lines, 2)
