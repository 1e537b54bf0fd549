"""Training batches: one image and many questions packed into one sequence.

Every question sees the image prefix and itself, and its positions start right after the prefix, so a packed
sequence computes what the same questions asked one by one would: a third of the tokens for the same answers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import ProcessorMixin

from vlmcomp.data.easy_vqa import EasyVQA
from vlmcomp.data.questions import ONE_WORD, TYPES, Question, sample_question
from vlmcomp.data.scenes import patch_labels, render, sample_scene
from vlmcomp.training.model_spec import TrainPlan, Wording

QUESTION_TYPES = (*TYPES, "easy-vqa")


def corpus(wording: Wording, seed: int = 0, scenes: int = 3000) -> Iterator[str]:
    """Text for the tokenizer: prompts and answers over freshly drawn scenes and easy-VQA's train split."""
    rng = random.Random(f"tokenizer-{seed}")
    opening = wording.opening.replace(wording.mark, "")
    for _ in range(scenes):
        scene = sample_scene(rng)
        for _ in range(8):
            q = sample_question(rng, scene)
            yield opening + wording.question.format(question=q.text) + wording.answer.format(answer=q.answer)
    for pairs in EasyVQA("train").questions.values():
        for text, answer in pairs:
            yield wording.question.format(question=text) + wording.answer.format(answer=answer)


def to_pixels(processor: ProcessorMixin, images: list[Image.Image]) -> dict[str, torch.Tensor]:
    """What the model's image processor gives: ``pixel_values``, and what else belongs to them."""
    return dict(processor.image_processor(images=images, return_tensors="pt"))


@dataclass(frozen=True)
class Opening:
    """The tokens before the question: ids (P,), positions (k, P) with k = 1, or 3 for M-RoPE, and the next position."""

    ids: list[int]
    positions: np.ndarray
    next: int


class Packed(Dataset):
    """Map-style: item ``step`` is the whole batch of that optimizer step, drawn from (seed, step) alone.

    A batch holds, for B images and sequences of L tokens: what ``to_pixels`` gives, ``input_ids``, ``segment``,
    ``prefix``, ``target``, ``weight``, ``question_type`` (B, L), ``position_ids`` (B, k, L) and the patch labels
    (S, N) of the S generated scenes, which come first.
    """

    def __init__(self, processor: ProcessorMixin, wording: Wording, plan: TrainPlan, opening: Opening) -> None:
        self.processor, self.wording, self.plan, self.opening = processor, wording, plan, opening
        self._cache: dict[str, list[int]] = {}

    @cached_property
    def easy(self) -> EasyVQA:
        return EasyVQA("train")

    def __len__(self) -> int:
        return self.plan.steps

    def _ids(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self.processor.tokenizer(text, add_special_tokens=False).input_ids
        return self._cache[text]

    def _blank(self) -> dict[str, np.ndarray]:
        n, names = self.plan.length, ("input_ids", "segment", "prefix", "target", "question_type")
        row = {k: np.zeros(n, np.int64) for k in names}
        row["position_ids"] = np.zeros((len(self.opening.positions), n), np.int64)
        row["target"][:] = -100
        row["segment"][:] = -1  # padding
        row["weight"] = np.zeros(n, np.float32)
        return row

    def pack(self, questions: Iterator[Question]) -> dict[str, np.ndarray]:
        """Fill one sequence of ``plan.length`` tokens with questions until the next one does not fit."""
        row, opening, at = self._blank(), self.opening, 0
        first, own = opening.next, []
        if self.wording.prefix_lm:  # image tokens see the question, so each question has its own
            first, own = self.wording.first, opening.ids
        else:
            at = len(opening.ids)
            row["input_ids"][:at], row["position_ids"][:, :at], row["segment"][:at] = opening.ids, opening.positions, 0
        for index, question in enumerate(questions, start=1):
            ask = own + self._ids(self.wording.question.format(question=question.text))
            answer = self._ids(self.wording.answer.format(answer=question.answer))
            reply = [*answer, self.processor.tokenizer.eos_token_id]
            ids = ask + reply[:-1]
            if at + len(ids) > self.plan.length:
                break
            span, heard = slice(at, at + len(ids)), slice(at + len(ask) - 1, at + len(ids))
            row["input_ids"][span], row["segment"][span] = ids, index
            row["prefix"][at : at + len(ask)] = self.wording.prefix_lm
            row["position_ids"][:, span] = np.arange(len(ids)) + first
            row["target"][heard] = reply
            row["question_type"][heard] = QUESTION_TYPES.index(question.type)
            row["weight"][heard] = len(reply) ** -0.5
            at += len(ids)
        return row

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng = random.Random(f"train-{self.plan.seed}-{step}")
        rows, images, labels = [], [], []
        for _ in range(self.plan.images - self.plan.easy_images):
            scene = sample_scene(rng)
            rows.append(self.pack(sample_question(rng, scene) for _ in range(64)))
            images.append(render(scene))
            labels.append(patch_labels(scene, self.plan.patch))
        for _ in range(self.plan.easy_images):
            image_id = rng.choice(list(self.easy.questions))
            pairs = self.easy.questions[image_id]
            rows.append(self.pack(Question("easy-vqa", f"{t} {ONE_WORD}", a) for t, a in rng.sample(pairs, len(pairs))))
            images.append(self.easy.image(image_id))
        return _stack(rows) | _stack(labels) | to_pixels(self.processor, images)


class TowerScenes(Dataset):
    """Item ``step``: pixels and patch labels of ``plan.tower_scenes`` scenes, for the tower's first stage."""

    def __init__(self, processor: ProcessorMixin, plan: TrainPlan) -> None:
        self.processor, self.plan = processor, plan

    def __len__(self) -> int:
        return self.plan.tower_steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng = random.Random(f"tower-{self.plan.seed}-{step}")
        scenes = [sample_scene(rng) for _ in range(self.plan.tower_scenes)]
        labels = _stack([patch_labels(s, self.plan.patch) for s in scenes])
        return labels | to_pixels(self.processor, [render(s) for s in scenes])


def _stack(rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(np.stack([row[k] for row in rows])) for k in rows[0]}


def attention_mask(segment: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
    """(B, 1, L, L), True where row may look at column: causal, or both in a ``prefix`` that sees all of itself; own
    segment or the shared opening (segment 0)."""
    n = segment.shape[1]
    causal = torch.ones(n, n, dtype=torch.bool, device=segment.device).tril()
    within = (prefix[:, :, None] & prefix[:, None, :]) > 0
    same = segment[:, :, None] == segment[:, None, :]
    shared = (segment == 0)[:, None, :]
    return ((causal & (same | shared)) | (within & same))[:, None]
