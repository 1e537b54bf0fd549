"""Train an embedded model: the tower first on naming patches, then the whole model on answering questions."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from vlmcomp.data.scenes import CANVAS, COLOR_NAMES, KINDS
from vlmcomp.models import architecture
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.training.model_spec import Blueprint, TrainPlan, train_tokenizer
from vlmcomp.training.model_specs import BLUEPRINTS
from vlmcomp.training.muon import Muon
from vlmcomp.training.packing import QUESTION_TYPES, Opening, Packed, TowerScenes, attention_mask, corpus, to_pixels

Batch = dict[str, torch.Tensor]


def half_precision(device: str) -> bool:
    return compute_dtype(device) != torch.float32


class PatchHead(nn.Module):
    """Linear read-out of patch features: what fills the patch, and which object has its centre there.

    Used in training only. Input (B, N, hidden).
    """

    _SIZES: ClassVar[dict[str, int]] = {
        "kind": len(KINDS) + 1,
        "color": len(COLOR_NAMES) + 1,
        "center_kind": len(KINDS) + 1,
        "center_color": len(COLOR_NAMES) + 1,
        "center_box": 3,
    }

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, sum(self._SIZES.values()))

    def loss(self, features: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, float]:
        """Loss, and the share of object patches named rightly in kind and colour."""
        logits = dict(zip(self._SIZES, self.out(self.norm(features)).float().split(list(self._SIZES.values()), -1)))
        total = sum(F.cross_entropy(logits[k].flatten(0, 1), batch[k].flatten()) for k in list(self._SIZES)[:4])
        centers = batch["center_kind"] > 0
        total = total + 2 * F.smooth_l1_loss(logits["center_box"][centers], batch["center_box"][centers])
        objects = batch["kind"] > 0
        right = (logits["kind"].argmax(-1) == batch["kind"]) & (logits["color"].argmax(-1) == batch["color"])
        return total, right[objects].float().mean().item()


def see(model: PreTrainedModel, pixels: Batch, patches: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The tower's features (B, patches, d), [CLS] left out, and the image tokens' embeddings (B, T, hidden).

    A tower that cuts finer than ``patches`` and merges later has several of its own side by side in one row.
    """
    seen = model.get_image_features(**pixels, return_dict=True)
    image = seen.pooler_output
    image = image if isinstance(image, torch.Tensor) else torch.stack(list(image))
    features = seen.last_hidden_state.reshape(len(image), -1, seen.last_hidden_state.shape[-1])
    features = features[:, features.shape[1] % patches :]
    return features.reshape(len(image), patches, -1), image


def embed(model: PreTrainedModel, image: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    """(B, L, hidden) token embeddings with those of the image in the image tokens' places, as often as they come."""
    embeds = model.get_input_embeddings()(input_ids)
    spots = input_ids == model.config.image_token_id
    order = (spots.cumsum(1) - 1) % image.shape[1]
    placed = image.to(embeds.dtype).gather(1, order[..., None].expand(-1, -1, image.shape[2]))
    return torch.where(spots[..., None], placed, embeds)


def decode(model: PreTrainedModel, image: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(B, L, hidden) last hidden states over packed sequences."""
    positions = batch["position_ids"].transpose(0, 1)  # (k, B, L)
    return model.get_submodule(architecture.of(model).decoder)(
        inputs_embeds=embed(model, image, batch["input_ids"]),
        attention_mask=attention_mask(batch["segment"], batch["prefix"]),
        position_ids=positions if len(positions) > 1 else positions[0],
        use_cache=False,
    ).last_hidden_state


def opening(model: PreTrainedModel, processor: ProcessorMixin, blueprint: Blueprint) -> Opening:
    """The tokens that come before every question, as the model's own code places them."""
    image = to_pixels(processor, [Image.new("RGB", (CANVAS, CANVAS))])
    with torch.no_grad():
        tokens = see(model, image, 1)[1].shape[1]
    mark = model.config.image_token_id
    ids = processor.tokenizer(blueprint.wording.opening, add_special_tokens=False).input_ids
    ids = [t for i in ids for t in ([mark] * tokens if i == mark else [i])]
    if hasattr(getattr(model, "model", None), "get_rope_index"):
        given = torch.tensor([ids])
        positions, _ = model.model.get_rope_index(given, (given == mark).int(), image["image_grid_thw"])
        return Opening(ids, positions[:, 0].numpy(), int(positions.max()) + 1)
    positions = np.arange(len(ids))[None] + blueprint.wording.first
    return Opening(ids, positions, int(positions.max()) + 1)


def answer_loss(model: PreTrainedModel, image: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """Weighted cross-entropy of the answer tokens, and exact match by question type.

    A question counts as matched when every answer token is the most likely one, which is what greedy
    decoding would have produced.
    """
    hidden = decode(model, image, batch)
    heard = batch["target"] != -100
    logits = model.get_output_embeddings()(hidden[heard]).float()
    target, weight = batch["target"][heard], batch["weight"][heard]
    loss = (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
    with torch.no_grad():
        row = torch.arange(len(heard), device=heard.device)[:, None].expand_as(heard)[heard]
        question = row * batch["segment"].max().add(1) + batch["segment"][heard]
        names, index = question.unique(return_inverse=True)
        wrong = torch.zeros(len(names), device=heard.device).index_add_(0, index, (logits.argmax(-1) != target).float())
        kind = torch.zeros(len(names), dtype=torch.long, device=heard.device)
        kind[index] = batch["question_type"][heard]
        match = {
            n: (wrong[kind == i] == 0).float().mean().item() for i, n in enumerate(QUESTION_TYPES) if (kind == i).any()
        }
    return loss, match


class Optimizers:
    """Muon for the hidden matrices, AdamW for the rest; one schedule: linear warm-up, then cosine to 2 %."""

    def __init__(self, groups: Iterable[tuple[Iterable[tuple[str, nn.Parameter]], float]], steps: int) -> None:
        matrices, others = [], []
        for named, lr in groups:
            hidden, rest = [], []
            for name, p in named:
                (hidden if p.ndim == 2 and "embed" not in name and "head" not in name else rest).append(p)
            matrices.append({"params": hidden, "lr": lr})
            others.append({"params": rest, "lr": lr})
        self.parts: list[torch.optim.Optimizer] = []
        if any(g["params"] for g in matrices):
            dtype = torch.bfloat16 if half_precision(matrices[0]["params"][0].device.type) else torch.float32
            self.parts.append(Muon(matrices, dtype=dtype))
        self.parts.append(torch.optim.AdamW(others, weight_decay=0.01, betas=(0.9, 0.98), fused=True))
        warm = min(100, max(1, steps // 10))

        def rate(step: int) -> float:
            if step < warm:
                return (step + 1) / warm
            done = (step - warm) / max(1, steps - warm)
            return 0.02 + 0.98 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done)).item())

        self.schedules = [torch.optim.lr_scheduler.LambdaLR(o, rate) for o in self.parts]
        self.params = [p for o in self.parts for g in o.param_groups for p in g["params"]]

    def step(self, loss: torch.Tensor) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_(self.params, 1.0)
        for optimizer, schedule in zip(self.parts, self.schedules):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> list[dict]:
        return [x.state_dict() for x in (*self.parts, *self.schedules)]

    def load(self, state: list[dict]) -> None:
        for x, s in zip((*self.parts, *self.schedules), state):
            x.load_state_dict(s)


def _loader(data: Dataset, start: int) -> Iterable[Batch]:
    return DataLoader(data, batch_size=None, sampler=range(start, len(data)), num_workers=1, prefetch_factor=4)


class Trainer:
    """Both stages of one model's training, with a checkpoint to go on from."""

    def __init__(self, name: str, plan: TrainPlan, work: Path, compiled: bool, save_every: int = 100) -> None:
        torch.manual_seed(plan.seed)
        self.name, self.plan, self.work = name, plan, work
        self.compiled, self.save_every = compiled, save_every
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.half = half_precision(self.device)
        blueprint = BLUEPRINTS[name]
        self.wording = blueprint.wording
        self.model, self.processor = blueprint.make(train_tokenizer(blueprint, corpus(self.wording, plan.seed)))
        self.opening = opening(self.model, self.processor, blueprint)
        self.patches = (CANVAS // plan.patch) ** 2
        with torch.no_grad():
            blank = to_pixels(self.processor, [Image.new("RGB", (CANVAS, CANVAS))])
            width = see(self.model, blank, self.patches)[0].shape[-1]
        self.model.to(self.device)
        self.head = PatchHead(width).to(self.device)
        self.done = {"tower": 0, "answers": 0}
        self.seconds, self.history = 0.0, []
        work.mkdir(parents=True, exist_ok=True)

    def _save(self, stage: str, optimizers: Optimizers) -> None:
        state = {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "optimizers": (stage, optimizers.state()),
            "done": self.done,
            "seconds": self.seconds,
            "history": self.history,
            "plan": asdict(self.plan),
        }
        torch.save(state, self.work / "checkpoint.tmp")
        os.replace(self.work / "checkpoint.tmp", self.work / "checkpoint.pt")

    def _resume(self) -> tuple[str, list[dict]] | None:
        path = self.work / "checkpoint.pt"
        if not path.exists():
            return None
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["plan"] != asdict(self.plan):
            raise ValueError(f"{path} belongs to another training plan; remove it or give another --work folder")
        self.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        self.done, self.seconds, self.history = state["done"], state["seconds"], state["history"]
        return state["optimizers"]

    def _stage(self, stage: str, data: Dataset, optimizers: Optimizers, resumed: tuple[str, list[dict]] | None) -> None:
        if resumed is not None and resumed[0] == stage:
            optimizers.load(resumed[1])
        start = self.done[stage]
        bar = tqdm(_loader(data, start), initial=start, total=len(data), desc=f"{self.name}: {stage}", mininterval=5)
        smooth: dict[str, float] = {}
        last = time.monotonic()
        for batch in bar:
            batch = {k: v.to(self.device) for k, v in batch.items()}
            with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.half):
                loss, seen = self._losses(stage, batch)
            optimizers.step(loss)
            self.done[stage] += 1
            now = time.monotonic()
            self.seconds, last = self.seconds + now - last, now
            for k, v in seen.items():
                smooth[k] = 0.98 * smooth.get(k, v) + 0.02 * v
            bar.set_postfix({k: f"{v:.3f}" for k, v in smooth.items()}, refresh=False)
            if self.done[stage] % self.save_every == 0 or self.done[stage] == len(data):
                self.history.append(
                    {"stage": stage, "step": self.done[stage], "seconds": round(self.seconds), **smooth}
                )
                (self.work / "history.json").write_text(json.dumps(self.history, indent=1))
                self._save(stage, optimizers)

    def _losses(self, stage: str, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        scenes = len(batch["kind"])
        pixels = {k: batch[k] for k in ("pixel_values", "image_grid_thw") if k in batch}
        features, image = see(self.model, pixels, self.patches)
        patch_loss, named = self.head.loss(features[:scenes], batch)
        if stage == "tower":
            return patch_loss, {"loss": patch_loss.item(), "patches": named}
        loss, match = answer_loss(self.model, image, batch)
        total = loss + self.plan.patch_loss * patch_loss
        return total, {"loss": loss.item(), "patches": named, **match}

    def run(self) -> PreTrainedModel:
        """Train to the end of the plan, from the checkpoint if there is one; returns the trained model."""
        resumed = self._resume()
        plan, names = self.plan, architecture.of(self.model)
        self.model.train()
        if self.compiled:
            self.model.get_submodule(names.decoder).compile(dynamic=False)
            for path in names.prefixes["vision tower"]:
                self.model.get_submodule(path).compile(dynamic=False)
        parts = [(names.part(n) == "vision tower", (n, p)) for n, p in self.model.named_parameters()]
        tower, rest = [p for inside, p in parts if inside], [p for inside, p in parts if not inside]
        head = [(f"head.{n}", p) for n, p in self.head.named_parameters()]
        scenes = TowerScenes(self.processor, plan)
        self._stage("tower", scenes, Optimizers([(tower + head, plan.tower_lr)], plan.tower_steps), resumed)
        groups = [(tower + head, plan.lr * plan.tower_scale), (rest, plan.lr)]
        data = Packed(self.processor, self.wording, plan, self.opening)
        self._stage("answers", data, Optimizers(groups, plan.steps), resumed)
        return self.model.eval()


def train(
    name: str, out: Path, work: Path, compiled: bool = False, save_every: int = 100, **overrides: int | float
) -> None:
    """Train ``name`` and write it to ``out`` in the stock Hugging Face layout, weights in float16.

    ``overrides`` replace fields of its ``TrainPlan``. An interrupted run goes on from ``work``. ``compiled``
    runs tower and decoder through torch.compile (a C++ compiler is needed): about 1.25 times the speed on a CPU.
    """
    trainer = Trainer(name, replace(BLUEPRINTS[name].plan, **overrides), work, compiled, save_every)
    model = trainer.run()
    model.to("cpu", torch.float16).save_pretrained(out)
    trainer.processor.save_pretrained(out)
