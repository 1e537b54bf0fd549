"""Experiment: the bundled VLM pruned by every importance score; exact match, composite score and agreement with the
dense model on fixed questions."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from transformers import PreTrainedModel

from vlmcomp.compression.calibration import CalibrationBatch, calibration_batches, capture_layer_inputs
from vlmcomp.compression.pipeline import compress
from vlmcomp.data import task_registry, tasks
from vlmcomp.data.answer_matching import exact_match, normalize
from vlmcomp.data.calibration_data import synthetic_calibration_data
from vlmcomp.evaluation import quality
from vlmcomp.experiments.prune_trial import prune_by_trial
from vlmcomp.experiments.trial_log import DENSE, Trial, encode_flags
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.results.store import Predictions

PART = "shapes"
MODEL = "llava-shapes"
STEPS = ("glu20", "glu30", "heads25", "glu10", "glu40", "glu50", "heads50")  # those of the claims first
MLP_STEPS = tuple(sorted(step for step in STEPS if step.startswith("glu")))
MAX_NEW_TOKENS = 64  # the longest reference answers of shapes-vqa have 39
NUM_SAMPLES = {"shapes-vqa": 2000, "easy-vqa": 300}
BATCH_SIZE = 256


@dataclass(frozen=True)
class PromptBatch:
    """Decoder inputs of a batch of prompts, which pruning does not change.

    Attributes:
        indices: of the questions in their task.
        inputs_embeds: (B, T, hidden), with image features.
        attention_mask: (B, T).
    """

    indices: list[int]
    inputs_embeds: torch.Tensor
    attention_mask: torch.Tensor


class PruningQualityExperiment:
    """Prunes the model by each score and answers the questions of both tasks.

    The dense model, its calibration sets and its answers are prepared once for all trials.

    Args:
        num_samples: questions of each task; default: ``NUM_SAMPLES``.
    """

    def __init__(self, num_samples: int | None = None) -> None:
        self.num_samples = num_samples
        self.dense: VLM = compress(Recipe(MODEL, (), "fp16"), device="cpu")
        self.dense_predictions: dict[str, Predictions] = {}
        self.prompts = cache(self._prompts)
        self.calibration_batches = cache(self._calibration_batches)

    @cached_property
    def questions(self) -> dict[str, list[tasks.Sample]]:
        """The samples of every task."""
        found = {}
        for name, default in NUM_SAMPLES.items():
            task = task_registry.get_task(name)
            found[name] = task.sample(
                task.num_samples(self.num_samples or default), 0, self.dense.spec.short_answer_prompt
            )
        return found

    def _prompts(self, task: str) -> list[PromptBatch]:
        """Prompts of a task; answers of similar length share a batch, which ends with its longest."""
        samples = self.questions[task]
        batches = []
        order = sorted(range(len(samples)), key=lambda i: len(samples[i].reference))
        for start in range(0, len(order), BATCH_SIZE):
            indices = order[start : start + BATCH_SIZE]
            inputs = self.dense.encode([samples[i].image for i in indices], [samples[i].question for i in indices])
            attention_mask = inputs["attention_mask"]
            captured = capture_layer_inputs(self.dense.model, dict(inputs), attention_mask)
            batches.append(PromptBatch(indices, captured.hidden, attention_mask))
        return batches

    @torch.no_grad()
    def predict(self, model: PreTrainedModel, task: str) -> Predictions:
        """Greedy answers of ``model`` as rows in the order of the task's questions."""
        texts: dict[int, str] = {}
        for batch in self.prompts(task):
            ids = model.generate(
                inputs_embeds=batch.inputs_embeds,
                attention_mask=batch.attention_mask,
                do_sample=False,
                max_new_tokens=MAX_NEW_TOKENS,
            )
            decoded = self.dense.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
            texts |= zip(batch.indices, map(str.strip, decoded), strict=True)
        return [
            {"id": s.id, "type": s.type, "question": s.question, "reference": s.reference, "answer": texts[i]}
            for i, s in enumerate(self.questions[task])
        ]

    def _calibration_batches(self, seed: int) -> list[CalibrationBatch]:
        """As many samples as the model is pruned by without an experiment."""
        samples = synthetic_calibration_data(self.dense.spec.num_calibration_samples, seed)
        return calibration_batches(self.dense, samples, batch_size=32)

    def measure(self, trial: Trial) -> dict[str, Any]:
        """Prune as ``trial`` specifies, answer and score; the outcome of every question is stored."""
        model = copy.deepcopy(self.dense.model)
        real_percent, seconds = prune_by_trial(trial, model, self.calibration_batches)
        found: dict[str, Any] = {"real_percent": real_percent, "prune_seconds": seconds}
        for name in self.questions:
            rows = self.predict(model, name)
            if trial.score == DENSE:
                self.dense_predictions[name] = rows
            scores = quality.score(task_registry.get_task(name), rows, 0, "minilm")
            same = self._agreement(name, rows)
            found[name] = {
                "samples": scores.samples,
                "exact_match": scores.exact_match,
                "composite": scores.composite,
                "agreement": sum(same) / len(same),
                "right": encode_flags(exact_match(row["answer"], row["reference"]) for row in rows),
                "same": encode_flags(same),
            }
        return found

    def _agreement(self, task: str, rows: Predictions) -> list[bool]:
        """Whether each answer is the dense model's, correct or not."""
        if task not in self.dense_predictions:  # a resumed run measured the dense model earlier
            self.dense_predictions[task] = self.predict(self.dense.model, task)
        pairs = zip(rows, self.dense_predictions[task], strict=True)
        return [normalize(a["answer"]) == normalize(b["answer"]) for a, b in pairs]
