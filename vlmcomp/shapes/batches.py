"""Training batches: one image and many questions packed into one sequence.

Every question sees the image prefix and itself, and its positions start right after the prefix, so a packed
sequence computes what the same questions asked one by one would: a third of the tokens for the same answers.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from vlmcomp.shapes.architectures import PROMPT, TrainPlan
from vlmcomp.shapes.questions import ONE_WORD, TYPES, Question, sample_question
from vlmcomp.shapes.scenes import CANVAS, patch_labels, render, sample_scene

_QUESTION_TYPES = (*TYPES, "easy-vqa")


class EasyVQA:
    """One split of easy-VQA (Victor Zhou, MIT), read from the installed ``easy-vqa`` package."""

    def __init__(self, split: str) -> None:
        import easy_vqa

        self.folder = Path(easy_vqa.__file__).parent / "data" / split
        self.questions: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for text, answer, image_id in json.loads((self.folder / "questions.json").read_text()):
            self.questions[image_id].append((text, answer))

    def image(self, image_id: int) -> Image.Image:
        return Image.open(self.folder / "images" / f"{image_id}.png").convert("RGB")


def corpus(seed: int = 0, scenes: int = 3000) -> Iterator[str]:
    """Text for the tokenizer: prompts and answers over freshly drawn scenes and easy-VQA's train split."""
    rng = random.Random(f"tokenizer-{seed}")
    for _ in range(scenes):
        scene = sample_scene(rng)
        for _ in range(8):
            q = sample_question(rng, scene)
            yield PROMPT[0].replace("<image>", "") + PROMPT[1].format(question=q.text) + f" {q.answer}"
    for pairs in EasyVQA("train").questions.values():
        yield from (PROMPT[1].format(question=text) + f" {answer}" for text, answer in pairs)


def to_pixels(image: Image.Image) -> torch.Tensor:
    """(3, CANVAS, CANVAS) in [-1, 1]: what the embedded models' image processor gives."""
    image = image.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC) if image.size != (CANVAS, CANVAS) else image
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


class Packed(Dataset):
    """Map-style: item ``step`` is the whole batch of that optimizer step, drawn from (seed, step) alone.

    A batch holds, for B images and sequences of L tokens: ``pixel_values`` (B, 3, H, W), ``input_ids``,
    ``position_ids``, ``segment``, ``target``, ``weight`` (B, L), ``question_type`` (B, L) and the patch labels
    (S, N) of the S generated scenes, which come first.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, plan: TrainPlan, image_tokens: int) -> None:
        self.tokenizer, self.plan = tokenizer, plan
        prefix = tokenizer(PROMPT[0]).input_ids
        mark = tokenizer.convert_tokens_to_ids("<image>")
        self.prefix = [t for i in prefix for t in ([mark] * image_tokens if i == mark else [i])]
        self._cache: dict[str, list[int]] = {}

    @cached_property
    def easy(self) -> EasyVQA:
        return EasyVQA("train")

    def __len__(self) -> int:
        return self.plan.steps

    def _ids(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self._cache[text]

    def pack(self, questions: Iterator[Question]) -> dict[str, np.ndarray]:
        """Fill one sequence of ``plan.length`` tokens with questions until the next one does not fit."""
        n = self.plan.length
        row = {k: np.zeros(n, np.int64) for k in ("input_ids", "position_ids", "segment", "target", "question_type")}
        row["target"][:] = -100
        row["segment"][:] = -1  # padding
        weight = np.zeros(n, np.float32)
        at = len(self.prefix)
        row["input_ids"][:at], row["position_ids"][:at], row["segment"][:at] = self.prefix, np.arange(at), 0
        for index, question in enumerate(questions, start=1):
            ask = self._ids(PROMPT[1].format(question=question.text))
            reply = [*self._ids(f" {question.answer}"), self.tokenizer.eos_token_id]
            ids = ask + reply[:-1]
            if at + len(ids) > n:
                break
            span, heard = slice(at, at + len(ids)), slice(at + len(ask) - 1, at + len(ids))
            row["input_ids"][span], row["segment"][span] = ids, index
            row["position_ids"][span] = np.arange(len(ids)) + len(self.prefix)
            row["target"][heard] = reply
            row["question_type"][heard] = _QUESTION_TYPES.index(question.type)
            weight[heard] = len(reply) ** -0.5
            at += len(ids)
        return {**row, "weight": weight}

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng = random.Random(f"train-{self.plan.seed}-{step}")
        rows, pixels, labels = [], [], []
        for _ in range(self.plan.images - self.plan.easy_images):
            scene = sample_scene(rng)
            rows.append(self.pack(sample_question(rng, scene) for _ in range(64)))
            pixels.append(to_pixels(render(scene)))
            labels.append(patch_labels(scene, self.plan.patch))
        for _ in range(self.plan.easy_images):
            image_id = rng.choice(list(self.easy.questions))
            pairs = self.easy.questions[image_id]
            rows.append(self.pack(Question("easy-vqa", f"{t} {ONE_WORD}", a) for t, a in rng.sample(pairs, len(pairs))))
            pixels.append(to_pixels(self.easy.image(image_id)))
        batch = {k: torch.from_numpy(np.stack([r[k] for r in rows])) for k in rows[0]}
        batch |= {k: torch.from_numpy(np.stack([row[k] for row in labels])) for k in labels[0]}
        return {**batch, "pixel_values": torch.stack(pixels)}


class TowerScenes(Dataset):
    """Item ``step``: pixels and patch labels of ``plan.tower_scenes`` scenes, for the tower's first stage."""

    def __init__(self, plan: TrainPlan) -> None:
        self.plan = plan

    def __len__(self) -> int:
        return self.plan.tower_steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng = random.Random(f"tower-{self.plan.seed}-{step}")
        scenes = [sample_scene(rng) for _ in range(self.plan.tower_scenes)]
        labels = [patch_labels(s, self.plan.patch) for s in scenes]
        batch = {k: torch.from_numpy(np.stack([row[k] for row in labels])) for k in labels[0]}
        return {**batch, "pixel_values": torch.stack([to_pixels(render(s)) for s in scenes])}


def attention_mask(segment: torch.Tensor) -> torch.Tensor:
    """(B, 1, L, L), True where row may look at column: causal, own segment or the prefix (segment 0)."""
    n = segment.shape[1]
    causal = torch.ones(n, n, dtype=torch.bool, device=segment.device).tril()
    same = segment[:, :, None] == segment[:, None, :]
    prefix = (segment == 0)[:, None, :]
    return (causal & (same | prefix))[:, None]
