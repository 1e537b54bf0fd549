"""The composite score as a Hugging Face evaluate module.

``evaluate.load(vlmcomp.evaluation.evaluate_module.__file__)`` loads it without a network.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import datasets
import evaluate

from vlmcomp.evaluation.text_metrics import text_scores

_INPUTS = """
Args:
    predictions: the answers.
    references: one reference for each answer.
    encoder: the BERTScore encoder: "auto" (the default), "minilm" or "roberta-large".
Returns:
    composite, meteor, rouge1, bertscore_f1: means over all answers; bertscore_encoder, meteor_data: what they were
    computed with. Scores of different encoders are not comparable.
"""


class Composite(evaluate.Metric):
    """Mean of METEOR, ROUGE-1 F and BERTScore F1, each in equal parts (``vlmcomp.evaluation.text_metrics``)."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Mean of METEOR, ROUGE-1 F and BERTScore F1.",
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str], encoder: str = "auto") -> dict[str, Any]:
        return asdict(text_scores(predictions, references, encoder))
