"""What the founding study claimed, beside what is measured here for each family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vlmcomp import zoo
from vlmcomp.matrix import of_model, share_kept
from vlmcomp.recipe import Recipe, Step
from vlmcomp.report import Report, speedup
from vlmcomp.tables import RowsOf, paired, table

_HEADS, _PERCENT = Step("heads", 25), 30


class Family:
    """One model's reports, asked for by steps and precision; what is not measured is None."""

    def __init__(self, model: str, reports: Sequence[Report], rows: RowsOf) -> None:
        self.rows = rows
        self.model, self.mlp = model, Step(zoo.find(model).mlp, _PERCENT)
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

    def lost(self, steps: tuple[Step, ...], precision: str) -> str:
        """Whether a loss of exact match is shown, and whether the interval holds it below 2 %."""
        pair = self._pair(steps, precision)
        found = pair and paired(self.rows, *pair)
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


def _stacking(measure: str) -> _Value:
    """The combination against the product of its parts: 1.00 is exactly multiplicative."""

    def text(f: Family) -> str:
        value = getattr(f, measure)
        parts = [value((f.mlp,)), value((_HEADS,)), value((), "int4")]
        whole = value((_HEADS, f.mlp), "int4")
        if whole is None or None in parts:
            return _NONE
        product = parts[0] * parts[1] * parts[2]
        if not product:
            return _NONE
        return f"{whole:.3f} / {product:.3f} = {whole / product:.2f}"

    return text


def _no_steps(f: Family) -> tuple[Step, ...]:
    return ()


_ROWS: tuple[tuple[str, str, _Value], ...] = (
    ("INT8 size", "-50 %", lambda f: _change(f.size((), "int8"))),
    ("INT8 quality", "less than 2 % lost", _both(_no_steps, "int8")),
    ("INT8 ms/token", "-20 %", lambda f: _change(f.latency((), "int8"))),
    ("INT4 size", "-74 %", lambda f: _change(f.size((), "int4"))),
    ("INT4 quality", "", _both(_no_steps, "int4")),
    ("INT4 ms/token", "-20 %", lambda f: _change(f.latency((), "int4"))),
    ("30 % of the MLP's neurons removed: ms/token", "-47 %", lambda f: _change(f.latency((f.mlp,)))),
    ("30 % of the MLP's neurons removed: quality", "92 % kept", _both(lambda f: (f.mlp,), "fp16")),
    ("MLP neurons against heads", "neurons lose less", _against_heads),
    ("Stacking, size: heads, MLP and INT4 together / product of the three", "1", _stacking("size")),
    ("Stacking, ms/token: the same", "1", _stacking("latency")),
    ("Stacking, exact match: the same", "1", _stacking("quality")),
)


def render(models: Sequence[str], reports: Sequence[Report], rows: RowsOf) -> str:
    """Each claim of the study beside every family's measurement, as a Markdown table."""
    families = [Family(model, group, rows) for model in models if (group := of_model(model, reports))]
    head = ("Claim", "The study", *(f.model for f in families))
    return table(head, [(claim, said or _NONE, *map(value, families)) for claim, said, value in _ROWS], 2)
