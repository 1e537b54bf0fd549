"""Training of a bundled model: first the vision tower names patches, then the whole model answers questions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from vlmcomp import files
from vlmcomp.models import architecture
from vlmcomp.models.weight_files import reading, refuse_mismatched, refuse_missing
from vlmcomp.training.losses import PatchHead, answer_loss
from vlmcomp.training.model_spec import TrainPlan, train_tokenizer
from vlmcomp.training.model_specs import TINY_MODELS
from vlmcomp.training.optimizers import NamedParameters, Optimizers, uses_16_bit
from vlmcomp.training.packed_forward import Batch, encode_images, make_prompt_prefix
from vlmcomp.training.packing import PackedVQADataset, PatchLabelDataset, process_images, tokenizer_corpus

_SMOOTHING = 0.98  # of the exponential moving averages in the history


class Trainer:
    """Both stages of one model's training, which resume from a checkpoint.

    Args:
        name: key of ``TINY_MODELS``.
        plan: how long and how fast it is trained.
        work: folder of the checkpoint and ``history.json``.
        compiled: whether tower and decoder run through torch.compile.
        save_every: steps between checkpoints.
    """

    def __init__(self, name: str, plan: TrainPlan, work: Path, compiled: bool, save_every: int = 100) -> None:
        torch.manual_seed(plan.seed)
        self.name = name
        self.plan = plan
        self.work = work
        self.compiled = compiled
        self.save_every = save_every
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.use_autocast = uses_16_bit(self.device)
        self.spec = spec = TINY_MODELS[name]
        tokenizer = train_tokenizer(spec, tokenizer_corpus(spec, plan.seed))
        self.model, self.processor = spec.build(tokenizer)
        self.prompt_prefix = make_prompt_prefix(self.model, self.processor, spec)
        self.num_patches = (spec.world.canvas // plan.patch) ** 2
        tower_width = self._tower_width()
        self.model.to(self.device)
        self.head = PatchHead(tower_width, spec.world.attributes()).to(self.device)
        self.steps_done = {"tower": 0, "answers": 0}
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        work.mkdir(parents=True, exist_ok=True)

    def run(self) -> PreTrainedModel:
        """Train to the end of the plan, from the checkpoint if there is one; returns the trained model.

        Raises:
            ValueError: the checkpoint belongs to another plan, or is damaged.
        """
        resumed = self._resume()
        self.model.train()
        if self.compiled:
            self._compile()
        plan = self.plan
        tower, rest = self._parameter_groups()
        optimizers = Optimizers([(tower, plan.tower_lr)], plan.tower_steps)
        self._run_stage("tower", PatchLabelDataset(self.processor, self.spec.world, plan), optimizers, resumed)
        optimizers = Optimizers([(tower, plan.lr * plan.tower_scale), (rest, plan.lr)], plan.steps)
        data = PackedVQADataset(self.processor, self.spec, plan, self.prompt_prefix)
        self._run_stage("answers", data, optimizers, resumed)
        return self.model.eval()

    @torch.no_grad()
    def _tower_width(self) -> int:
        side = self.spec.world.canvas
        blank = process_images(self.processor, [Image.new("RGB", (side, side))])
        return encode_images(self.model, blank, self.num_patches)[0].shape[-1]

    def _compile(self) -> None:
        names = architecture.get_architecture(self.model)
        for path in (names.decoder, *names.prefixes["vision tower"]):
            self.model.get_submodule(path).compile(dynamic=False)

    def _parameter_groups(self) -> tuple[NamedParameters, NamedParameters]:
        """Parameters of the vision tower with the patch head, and all others."""
        names = architecture.get_architecture(self.model)
        tower: list[tuple[str, torch.nn.Parameter]] = []
        rest: list[tuple[str, torch.nn.Parameter]] = []
        for name, parameter in self.model.named_parameters():
            group = tower if names.component(name) == "vision tower" else rest
            group.append((name, parameter))
        head = [(f"head.{name}", parameter) for name, parameter in self.head.named_parameters()]
        return tower + head, rest

    def _save(self, stage: str, optimizers: Optimizers) -> None:
        state = {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "optimizers": (stage, optimizers.state_dicts()),
            "done": self.steps_done,
            "seconds": self.seconds,
            "history": self.history,
            "plan": asdict(self.plan),
        }
        with files.new_version(self.work / "checkpoint.pt") as file:
            torch.save(state, file)

    def _resume(self) -> tuple[str, list[dict[str, Any]]] | None:
        """Load the checkpoint; returns its stage and the states of that stage's optimizers."""
        path = self.work / "checkpoint.pt"
        if not path.exists():
            return None
        problem = f"{path} is damaged, remove it to start again"
        with reading(self.work, problem):
            state = torch.load(path, map_location=self.device, weights_only=True)
            plan = state["plan"]
        if plan != asdict(self.plan):
            raise ValueError(f"{path} belongs to another training plan; remove it or give another --work folder")
        with reading(self.work, problem):
            _load_state(self.model, state["model"])
            _load_state(self.head, state["head"])
            self.steps_done = state["done"]
            self.seconds = state["seconds"]
            self.history = state["history"]
            return state["optimizers"]

    def _run_stage(
        self, stage: str, data: Dataset, optimizers: Optimizers, resumed: tuple[str, list[dict[str, Any]]] | None
    ) -> None:
        if resumed is not None and resumed[0] == stage:
            optimizers.load_state_dicts(resumed[1])
        start = self.steps_done[stage]
        title = f"{self.name}: {stage}"
        bar = tqdm(_data_loader(data, start), initial=start, total=len(data), desc=title, mininterval=5)
        averages: dict[str, float] = {}
        last = time.monotonic()
        for batch in bar:
            metrics = self._train_step(stage, batch, optimizers)
            self.steps_done[stage] += 1
            now = time.monotonic()
            self.seconds += now - last
            last = now
            for name, value in metrics.items():
                averages[name] = _SMOOTHING * averages.get(name, value) + (1 - _SMOOTHING) * value
            bar.set_postfix({name: f"{value:.3f}" for name, value in averages.items()}, refresh=False)
            if self.steps_done[stage] % self.save_every == 0 or self.steps_done[stage] == len(data):
                self._log(stage, averages)
                self._save(stage, optimizers)

    def _log(self, stage: str, averages: dict[str, float]) -> None:
        step = self.steps_done[stage]
        seconds = round(self.seconds)
        self.history.append({"stage": stage, "step": step, "seconds": seconds, **averages})
        files.write_text(self.work / "history.json", json.dumps(self.history, indent=1))

    def _train_step(self, stage: str, batch: Batch, optimizers: Optimizers) -> dict[str, float]:
        batch = {name: value.to(self.device) for name, value in batch.items()}
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.use_autocast):
            loss, metrics = self._loss(stage, batch)
        optimizers.step(loss)
        return metrics

    def _loss(self, stage: str, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of a stage, and the metrics to log."""
        num_scenes = len(batch["center_box"])  # generated scenes come first and have patch labels
        pixels = {name: batch[name] for name in ("pixel_values", "image_grid_thw") if name in batch}
        features, image = encode_images(self.model, pixels, self.num_patches)
        patch_loss, patch_accuracy = self.head.loss(features[:num_scenes], batch)
        if stage == "tower":
            return patch_loss, {"loss": patch_loss.item(), "patches": patch_accuracy}
        loss, match = answer_loss(self.model, image, batch, self.spec.question_types)
        total = loss + self.plan.patch_loss * patch_loss
        return total, {"loss": loss.item(), "patches": patch_accuracy, **match}


def _load_state(module: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Raises ``UnusableWeights`` unless ``state`` has the tensors of ``module`` and no others."""
    own = module.state_dict()
    refuse_missing(own.keys() - state.keys())
    refuse_mismatched(
        {name: (state[name].shape, own[name].shape) for name in own if state[name].shape != own[name].shape}
    )
    module.load_state_dict(state)


def _data_loader(data: Dataset, start: int) -> Iterable[Batch]:
    return DataLoader(data, batch_size=None, sampler=range(start, len(data)), num_workers=1, prefetch_factor=4)


def train(
    name: str, out: Path, work: Path, compiled: bool = False, save_every: int = 100, **overrides: int | float
) -> None:
    """Train a bundled model and save it in the layout of transformers, with float16 weights.

    Args:
        name: key of ``TINY_MODELS``.
        out: folder of the trained model.
        work: folder of the training checkpoint; an interrupted run resumes from it.
        compiled: whether tower and decoder run through torch.compile, which needs a C++ compiler: about 1.25 times the
            speed on a CPU.
        save_every: steps between checkpoints.
        overrides: replace fields of the model's ``TrainPlan``.

    Raises:
        ValueError: ``work`` belongs to another training plan, or its checkpoint is damaged.
        OSError: ``out`` or ``work`` cannot be written.
    """
    for folder in (out, work):
        files.check_writable(folder)
    trainer = Trainer(name, replace(TINY_MODELS[name].plan, **overrides), work, compiled, save_every)
    model = trainer.run()
    _save_model(model.to("cpu", torch.float16), trainer.processor, out)


def _save_model(model: PreTrainedModel, processor: ProcessorMixin, out: Path) -> None:
    """Write the files of a trained model to ``out`` once all of them are written; its other files stay."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with files.naming_disk_errors(out), files.temporary_folder(out.parent) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        files.move_files(partial, out)
