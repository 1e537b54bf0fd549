"""The tab About: how they were measured, on which machines, and the claims of the original study."""

from __future__ import annotations

from functools import cache

import gradio as gr

from vlmcomp.app import results
from vlmcomp.experiments import domain_tables, trial_log, vqa_kinds
from vlmcomp.feedback import format_count
from vlmcomp.reporting import claims, grid, grouping, results_tables
from vlmcomp.results import store

_CLAIMS_TITLE = "### Claims of the original study"
_METHOD = """
### How to read them
- **Exact match** is the main score: the share of answers that are the reference answer. Where several people answered
  questions it is the VQA challenge's accuracy. METEOR gives an exact one-word answer only 0.5, so the composite,
  the mean of METEOR, ROUGE-1 and BERTScore F1, measures style as much as correctness.
- **Differences to FP16** are paired by question, with a 95 % interval. "No difference seen" means that the
  interval contains 0. A recipe is off the Pareto frontier only if another one is significantly better in one measure
  and significantly worse in none: differences within the noise are ties.
- **Speed** is compared only between models that were in memory together and timed in alternation, at batch size 1 and
  with the same number of new tokens. A shorter answer does not count as faster.
- **Memory**: weights are counted in bytes as stored. "Needs to answer" is the measured peak while answering, above the
  memory of the process before. For small models most of it is working memory.
- **Live numbers** come from your one question on this machine. Recorded numbers are medians of many runs on the machine
  that is named.

### Limits
- Results of different machines are never drawn on one axis. The bundled models are small models of real architectures,
  trained for this project: they show what each technique does, not what a 7B model gains on a GPU.
- INT8 and INT4 of bitsandbytes save memory, but are often **slower** than FP16, here and on many GPUs.
- Each recipe was pruned with one calibration set, whose questions resemble the test's. Asked other kinds of questions,
  a pruned model loses more: the table below. For models that were not measured here, only estimates from their
  architecture are shown, and marked as such.
"""


@cache
def measured_machines() -> str:
    """The machines, and the circumstances of their results."""
    lines = ["### Machines and circumstances"]
    for slug in results.hardware():
        reports = [r for r in results.reports() if r.hardware.slug == slug]
        for group in grouping.comparable_groups(reports, timing=False):
            name = f"**{results.hardware_title(slug)}** ({slug})"
            lines.append(f"- {name}, {format_count(len(group), 'recipe')}: {results_tables.caption(group)}")
    return "\n".join(lines)


@cache
def other_kinds() -> str:
    """What pruned models keep of questions of other kinds than they were calibrated on; empty if never measured."""
    logs = (trial_log.TrialLog(file).rows(vqa_kinds.PART) for file in sorted(store.PRECOMPUTED.glob("*/pruning.json")))
    tables = list(filter(None, map(domain_tables.vqa_domain_table, logs)))
    return "\n\n".join(["### Other questions than the calibration's", *tables]) if tables else ""


@cache
def study_claims() -> str:
    """The claims of the original study beside the results of the bundled models."""
    table = claims.claims_table(grid.bundled_models(), list(results.reports()), results.rows)
    return f"{other_kinds()}\n\n{_CLAIMS_TITLE}\n\n{table}".strip()


def build() -> gr.Markdown:
    """Lays out the tab.

    Returns:
        The component that shows ``study_claims`` once the tab is opened: they take seconds to compute.
    """
    gr.Markdown(_METHOD, elem_classes="reading")
    table = gr.Markdown(f"{_CLAIMS_TITLE}\n\nComparing…", elem_id="claims", elem_classes="reading wide")
    gr.Markdown(measured_machines(), elem_classes="reading")
    return table
