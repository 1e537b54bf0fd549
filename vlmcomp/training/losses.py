"""The two losses: naming the patches of generated scenes, and answering questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from vlmcomp.training.packed_forward import Batch, forward_decoder


class PatchHead(nn.Module):
    """Linear classifier of patch features (B, N, hidden), used in training only.

    It predicts what fills a patch, and which object has its center there.

    Args:
        hidden_size: width of the features.
        attributes: number of classes of each attribute of an object (``World.attributes``).
    """

    def __init__(self, hidden_size: int, attributes: Mapping[str, int]) -> None:
        super().__init__()
        self.attributes = tuple(attributes)
        self.classes = {**attributes, **{f"center_{name}": count for name, count in attributes.items()}}
        self.outputs = {**self.classes, "center_box": 3}
        self.norm = nn.LayerNorm(hidden_size)
        self.out = nn.Linear(hidden_size, sum(self.outputs.values()))

    def loss(self, features: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, float]:
        """The loss, and the fraction of object patches whose attributes are all predicted correctly."""
        parts = self.out(self.norm(features)).float().split(list(self.outputs.values()), -1)
        logits = dict(zip(self.outputs, parts))
        total = sum(F.cross_entropy(logits[name].flatten(0, 1), batch[name].flatten()) for name in self.classes)
        main = self.attributes[0]
        centers = batch[f"center_{main}"] > 0
        total = total + 2 * F.smooth_l1_loss(logits["center_box"][centers], batch["center_box"][centers])
        correct = torch.stack([logits[name].argmax(-1) == batch[name] for name in self.attributes]).all(0)
        return total, correct[batch[main] > 0].float().mean().item()


def answer_loss(
    model: PreTrainedModel, image: torch.Tensor, batch: Batch, question_types: Sequence[str]
) -> tuple[torch.Tensor, dict[str, float]]:
    """Weighted cross-entropy of the answer tokens, and exact match by question type.

    A question counts as matched if every answer token is the most likely one, which is what greedy decoding would
    have generated.

    Args:
        model: the whole VLM.
        image: (B, T, hidden) embeddings of the image tokens.
        batch: packed sequences.
        question_types: the names of ``batch["question_type"]``.
    """
    hidden = forward_decoder(model, image, batch)
    is_answer = batch["target"] != -100
    logits = model.get_output_embeddings()(hidden[is_answer]).float()
    target = batch["target"][is_answer]
    weight = batch["weight"][is_answer]
    loss = (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
    return loss, _exact_match(logits.argmax(-1) != target, is_answer, batch, question_types)


@torch.no_grad()
def _exact_match(
    is_wrong: torch.Tensor, is_answer: torch.Tensor, batch: Batch, question_types: Sequence[str]
) -> dict[str, float]:
    """Fraction of questions without a wrong token, by question type; ``is_wrong`` is over the answer tokens alone."""
    row = torch.arange(len(is_answer), device=is_answer.device)[:, None].expand_as(is_answer)[is_answer]
    question = row * batch["segment"].max().add(1) + batch["segment"][is_answer]
    unique, index = question.unique(return_inverse=True)
    num_wrong = torch.zeros(len(unique), device=is_answer.device).index_add_(0, index, is_wrong.float())
    question_type = torch.zeros(len(unique), dtype=torch.long, device=is_answer.device)
    question_type[index] = batch["question_type"][is_answer]
    return {
        name: (num_wrong[question_type == i] == 0).float().mean().item()
        for i, name in enumerate(question_types)
        if (question_type == i).any()
    }
