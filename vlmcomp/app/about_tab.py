"""About the numbers: how they were made, where, what the study claims beside ours, and what they do not say."""

from __future__ import annotations

from functools import cache

import gradio as gr

from vlmcomp.app import results
from vlmcomp.reporting import claims, grid, grouping, results_tables

_METHOD = """
### How to read them
- **Exact match comes first.** It is the share of questions answered with the reference's words. METEOR gives an exact
  one-word answer 0.5, so the composite (METEOR, ROUGE-1 and BERTScore-F1 in equal parts) judges style as much as truth.
- **Differences to FP16 are paired by question**, with a 95 % bootstrap interval. "No difference seen" means that the
  interval holds 0. A point is on the Pareto line unless another is nowhere seen worse and somewhere seen better:
  differences inside the noise are ties.
- **Speed is compared only between models that were held in memory together and asked in turns.** Times are batch 1 with
  exactly as many new tokens for all: saying less is not being faster.
- **Memory**: weights are counted byte by byte as stored. "Needs to answer" is the measured peak while answering, above
  what the process held before; it holds working memory that small models need many times over.
- **Live numbers** are your one question on this machine, once; recorded ones are medians of many runs on the named one.

### What they do not say
- Results of two machines share no axis. The bundled models are real classes of their families, trained here to be
  small: they show what each technique does, not what a 7B model gains on a GPU.
- bitsandbytes INT8 and INT4 save memory; they are often **slower** than FP16, here and on many GPUs.
- A recipe was pruned by one calibration set. Where a model's own weights were never measured here, only arithmetic from
  its published shapes is shown, and it says so.
"""


@cache
def measured_machines() -> str:
    """What every machine's results were measured on and with."""
    lines = ["### What was measured, and on what"]
    for slug in results.hardware():
        mine = [r for r in results.reports() if r.hardware.slug == slug]
        for group in grouping.comparable_groups(mine, timing=False):
            lines.append(f"- **{slug}**, {len(group)} recipes: {results_tables.caption(group)}")
    return "\n".join(lines)


@cache
def study_claims() -> str:
    """The founding study's claims beside ours."""
    return f"### The study's claims, and ours\n\n{claims.claims_table(grid.bundled_models(), list(results.reports()), results.rows)}"


def build() -> gr.Markdown:
    """Lays the view out; what ``study`` says is filled in when it is first looked at."""
    gr.Markdown(_METHOD, elem_classes="reading")
    claimed = gr.Markdown(
        "### The study's claims, and ours\n\nComparing…", elem_id="claims", elem_classes="reading wide"
    )
    gr.Markdown(measured_machines(), elem_classes="reading")
    return claimed
