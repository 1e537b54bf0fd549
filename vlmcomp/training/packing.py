"""Training batches: one image and many questions packed into one sequence.

Every question attends to the image prefix and to itself, and its positions start right after the prefix, so a packed
sequence computes the same as its questions one by one, with a third of the tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import ProcessorMixin

from vlmcomp.data.easy_vqa import EasyVQA
from vlmcomp.data.questions import ONE_WORD, Question
from vlmcomp.training.model_spec import TinyModelSpec, TrainPlan
from vlmcomp.training.world import World


def tokenizer_corpus(spec: TinyModelSpec, seed: int = 0, scenes: int = 3000) -> Iterator[str]:
    """Text to train the tokenizer on: prompts and answers over generated scenes and easy-VQA's train split."""
    rng = random.Random(f"tokenizer-{seed}")
    template = spec.prompt_template
    prefix = template.prefix.replace(template.image_token, "")
    for _ in range(scenes):
        scene = spec.world.sample_scene(rng)
        for _ in range(8):
            q = spec.world.sample_question(rng, scene)
            yield prefix + template.question.format(question=q.text) + template.answer.format(answer=q.answer)
    for pairs in EasyVQA("train").questions.values():
        for text, answer in pairs:
            yield template.question.format(question=text) + template.answer.format(answer=answer)


def process_images(processor: ProcessorMixin, images: list[Image.Image]) -> dict[str, torch.Tensor]:
    """Output of the model's image processor: ``pixel_values`` and, for some families, more tensors."""
    return dict(processor.image_processor(images=images, return_tensors="pt"))


@dataclass(frozen=True)
class PromptPrefix:
    """The tokens before the question: ids (P,), positions (k, P) with k = 1, or 3 for M-RoPE, and the next position."""

    ids: list[int]
    positions: np.ndarray
    next_position: int


class PackedVQADataset(Dataset):
    """Map-style dataset: item ``step`` is the batch of that optimizer step, generated from (seed, step) alone.

    A batch holds, for B images and sequences of L tokens: the output of ``process_images``; ``input_ids``, ``segment``,
    ``prefix``, ``target``, ``weight`` and ``question_type`` (B, L); ``position_ids`` (B, k, L); and the patch labels
    (S, N) of the S generated scenes, which come first.

    Args:
        processor: of the model.
        spec: of the model.
        plan: how it is trained, which may differ from its spec's.
        prefix: the tokens before every question.
    """

    def __init__(self, processor: ProcessorMixin, spec: TinyModelSpec, plan: TrainPlan, prefix: PromptPrefix) -> None:
        self.processor = processor
        self.spec = spec
        self.prompt_template = spec.prompt_template
        self.plan = plan
        self.prefix = prefix
        self._cache: dict[str, list[int]] = {}

    @cached_property
    def easy_vqa(self) -> EasyVQA:
        return EasyVQA("train")

    def __len__(self) -> int:
        return self.plan.steps

    def _tokenize(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self.processor.tokenizer(text, add_special_tokens=False).input_ids
        return self._cache[text]

    def _empty_row(self) -> dict[str, np.ndarray]:
        length = self.plan.length
        names = ("input_ids", "segment", "prefix", "target", "question_type")
        row = {name: np.zeros(length, np.int64) for name in names}
        row["position_ids"] = np.zeros((len(self.prefix.positions), length), np.int64)
        row["target"][:] = -100
        row["segment"][:] = -1  # padding
        row["weight"] = np.zeros(length, np.float32)
        return row

    def pack(self, questions: Iterator[Question]) -> dict[str, np.ndarray]:
        """One sequence of ``plan.length`` tokens with as many of the questions as fit."""
        row = self._empty_row()
        prefix = self.prefix
        if self.prompt_template.is_prefix_lm:  # image tokens attend to the question, so each question has its own
            end = 0
            first_position = self.prompt_template.first_position
            own_prefix = prefix.ids
        else:
            end = len(prefix.ids)
            first_position = prefix.next_position
            own_prefix = []
            row["input_ids"][:end] = prefix.ids
            row["position_ids"][:, :end] = prefix.positions
            row["segment"][:end] = 0
        for segment, question in enumerate(questions, start=1):
            prompt = own_prefix + self._tokenize(self.prompt_template.question.format(question=question.text))
            answer = self._tokenize(self.prompt_template.answer.format(answer=question.answer))
            target = [*answer, self.processor.tokenizer.eos_token_id]
            ids = prompt + target[:-1]
            if end + len(ids) > self.plan.length:
                break
            span = slice(end, end + len(ids))
            answer_span = slice(end + len(prompt) - 1, end + len(ids))  # each position predicts the next token
            row["input_ids"][span] = ids
            row["segment"][span] = segment
            row["prefix"][end : end + len(prompt)] = self.prompt_template.is_prefix_lm
            row["position_ids"][:, span] = np.arange(len(ids)) + first_position
            row["target"][answer_span] = target
            row["question_type"][answer_span] = self.spec.question_types.index(question.type)
            row["weight"][answer_span] = len(target) ** -0.5
            end += len(ids)
        return row

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng = random.Random(f"train-{self.plan.seed}-{step}")
        world = self.spec.world
        rows: list[dict[str, np.ndarray]] = []
        images: list[Image.Image] = []
        labels: list[dict[str, np.ndarray]] = []
        for _ in range(self.plan.images - self.plan.easy_images):
            scene = world.sample_scene(rng)
            rows.append(self.pack(world.sample_question(rng, scene) for _ in range(64)))
            image, patch_labels = world.draw(scene, self.plan.patch)
            images.append(image)
            labels.append(patch_labels)
        for _ in range(self.plan.easy_images):
            image_id = rng.choice(list(self.easy_vqa.questions))
            pairs = self.easy_vqa.questions[image_id]
            shuffled = rng.sample(pairs, len(pairs))
            rows.append(self.pack(Question("easy-vqa", f"{text} {ONE_WORD}", answer) for text, answer in shuffled))
            images.append(self.easy_vqa.image(image_id))
        return _stack(rows) | _stack(labels) | process_images(self.processor, images)


class PatchLabelDataset(Dataset):
    """Item ``step``: pixels and patch labels of ``plan.tower_scenes`` scenes, to train the vision tower alone."""

    def __init__(self, processor: ProcessorMixin, world: World, plan: TrainPlan) -> None:
        self.processor = processor
        self.world = world
        self.plan = plan

    def __len__(self) -> int:
        return self.plan.tower_steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng = random.Random(f"tower-{self.plan.seed}-{step}")
        scenes = [self.world.sample_tower_scene(rng) for _ in range(self.plan.tower_scenes)]
        images, labels = zip(*(self.world.draw(scene, self.plan.patch) for scene in scenes))
        return _stack(labels) | process_images(self.processor, [self.world.augment(rng, image) for image in images])


def _stack(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(np.stack([row[k] for row in rows])) for k in rows[0]}


def attention_mask(segment: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
    """(B, 1, L, L) mask, True where a row may attend to a column.

    Tokens attend causally to their own segment and to the shared prefix (segment 0); tokens of a bidirectional
    ``prefix`` also attend to all of it.

    Args:
        segment: (B, L) index of the question, 0 for the shared prefix, -1 for padding.
        prefix: (B, L) 1 for tokens of a prefix LM's bidirectional prefix.
    """
    length = segment.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril()
    both_in_prefix = (prefix[:, :, None] & prefix[:, None, :]) > 0
    same_segment = segment[:, :, None] == segment[:, None, :]
    is_shared = (segment == 0)[:, None, :]
    return ((causal & (same_segment | is_shared)) | (both_in_prefix & same_segment))[:, None]
