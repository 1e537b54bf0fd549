"""Results of one model relative to its FP16 baseline, by pruning steps and precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlmcomp.models import registry
from vlmcomp.recipe import PruningStep, Recipe
from vlmcomp.reporting.comparison import PairedComparison
from vlmcomp.reporting.grid import comparable_reports, relative_score
from vlmcomp.reporting.grouping import PredictionLoader, choose_headline_task, compare_to_baseline
from vlmcomp.reporting.statistics import Interval
from vlmcomp.results.schema import Report, speedup

MLP_PERCENT = 30

Steps = tuple[PruningStep, ...]


class ModelResults:
    """Reports of one model by steps and precision, relative to its FP16; None for what was not measured."""

    def __init__(
        self, model: str, reports: Sequence[Report], load_predictions: PredictionLoader, task: str | None = None
    ) -> None:
        self.model = model
        self.mlp_step = PruningStep(registry.get_model_spec(model).mlp, MLP_PERCENT)
        self.task = task or choose_headline_task(reports)
        self._load_predictions = load_predictions
        self._reports: Mapping[str, Report] = {r.recipe: r for r in reports if r.error is None}
        self._comparisons: dict[tuple[Steps, str], PairedComparison | None] = {}

    def _with_baseline(self, steps: Steps, precision: str) -> tuple[Report, Report] | None:
        recipe = Recipe(self.model, steps, precision)
        report = self._reports.get(str(recipe))
        baseline = self._reports.get(str(recipe.baseline))
        return None if report is None or baseline is None else (report, baseline)

    def size(self, steps: Steps = (), precision: str = "fp16") -> float | None:
        """Weight bytes as a share of FP16's."""
        found = self._with_baseline(steps, precision)
        if found is None:
            return None
        report, baseline = found
        return report.size.total_bytes / baseline.size.total_bytes  # type: ignore[union-attr]

    def latency(self, steps: Steps = (), precision: str = "fp16") -> float | None:
        """Milliseconds per decoded token as a multiple of FP16's; None if the two were not timed in turns."""
        found = self._with_baseline(steps, precision)
        if found is None or found[0].latency is None or found[1].latency is None:
            return None
        return speedup(found[0].latency, found[1].latency)  # FP16's speed over its own: the ratio of the times

    def quality(self, steps: Steps = (), precision: str = "fp16", score: str = "score") -> float | None:
        """A score of the headline task as a share of FP16's, by default the one that judges the task."""
        found = self._with_baseline(steps, precision)
        return None if found is None else relative_score(*found, self.task, score)

    def compare(self, steps: Steps, precision: str) -> PairedComparison | None:
        """Paired comparison with FP16 on the headline task."""
        key = (steps, precision)
        if key not in self._comparisons:  # several claims read the same one
            found = self._with_baseline(steps, precision)
            self._comparisons[key] = found and compare_to_baseline(self._load_predictions, *found, self.task)
        return self._comparisons[key]

    def difference(self, steps: Steps, other: Steps) -> Interval | None:
        """Score of the headline task with ``steps`` minus that with ``other``, in FP16, paired by question."""
        reports = [self._reports.get(str(Recipe(self.model, each))) for each in (steps, other)]
        if reports[0] is None or reports[1] is None:
            return None
        found = compare_to_baseline(self._load_predictions, reports[0], reports[1], self.task)
        return None if found is None else found.difference


def collect_results(
    models: Sequence[str], reports: Sequence[Report], load_predictions: PredictionLoader, task: str | None = None
) -> list[ModelResults]:
    """Results of each of ``models`` that was measured.

    Args:
        models: names of models.
        reports: any reports.
        load_predictions: reads the predictions of a report.
        task: the task of the quality (None: of each model its headline task).
    """
    groups = {model: comparable_reports(model, reports, task) for model in models}
    return [ModelResults(model, group, load_predictions, task) for model, group in groups.items() if group]
