"""Is a compressed model faster, and by what? Variants and ways to decode in turns, in one process.

On a GPU the models are real architectures; on a CPU, beside the embedded ones, one whose answers take seconds: the 1 B
model is LLaVA with a decoder of 16 layers, 2,048 wide, and 576 image tokens from two layers of CLIP ViT-L/14 at
336 pixels: the tower, which no recipe changes, is not what is compared. Their weights are random, since speed does not
depend on them. On a CPU that computes FP16 in float32 a dense model in bfloat16 is a harder baseline, and no recipe.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from vlmcomp.compression.pipeline import build
from vlmcomp.compression.pruning.pruner import Method
from vlmcomp.data import task_registry, tasks
from vlmcomp.data.calibration_data import calibration_samples
from vlmcomp.evaluation import latency
from vlmcomp.experiments.ledger import Cell
from vlmcomp.hardware import native_bfloat16
from vlmcomp.models import random_init, registry
from vlmcomp.models.configs import SHAPES
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import PRECISIONS, Recipe
from vlmcomp.results.schema import Latency
from vlmcomp.runtime import weight_sharing
from vlmcomp.runtime.config import AUTO, CAPTURED, COMPILED, GENERATE, LIBRARY, STATIC, RuntimeConfig
from vlmcomp.runtime.engine import Engine

PART = "speed"
LARGE = "llava-1b"
SMALL = ("llava-shapes", "blip2-shapes", "paligemma-shapes", "qwen2-vl-shapes")
REAL = ("llava-1.5-7b", "paligemma-3b", "qwen2.5-vl-7b")  # on a GPU
FIGURES = ("decode_ms_per_token", "ttft_ms", "vision_ms", "end_to_end_ms")
BFLOAT16 = "bf16"  # no recipe, a baseline
_ROUNDS = {LARGE: 12} | dict.fromkeys(REAL, 3)
_USUAL_ROUNDS = 15
_PAIRS = 7  # of answers a round: differences of a few percent need many


@dataclass(frozen=True)
class Variant:
    """What is timed: the steps and precision of a recipe, and the way its answers are decoded. ``stock``: by Linears
    that are the libraries' own."""

    name: str
    way: str
    stock: bool = False

    @property
    def label(self) -> str:
        return f"{self.name}, {self.way}" + (", stock Linears" if self.stock and self.way != GENERATE else "")

    @property
    def config(self) -> RuntimeConfig:
        """Its step is captured at once: in the warm-up."""
        return RuntimeConfig(decode=self.way, capture_after_tokens=0)

    @property
    def build(self) -> tuple[str, bool]:
        """What variants may share."""
        return self.name, self.stock


def cells(device: str) -> list[Cell]:
    """What is measured on "cpu" or "cuda"."""
    return [Cell(PART, model, "in turns") for model in (REAL if device == "cuda" else (*SMALL, LARGE))]


def variants(model: str) -> list[Variant]:
    """Those of ``model``, the one that the others are held against first. Of INT4 on a CPU the one that is fast there:
    NF4 would take minutes for an answer of the large model."""
    if model in REAL:
        return _on_gpu()
    harder = () if native_bfloat16() else (BFLOAT16,)
    if model != LARGE:
        dense = [Variant("fp16", way, way in (GENERATE, COMPILED)) for way in (GENERATE, STATIC, CAPTURED, COMPILED)]
        return dense + [Variant(name, CAPTURED) for name in (*harder, "int8", "int4-torchao")]
    plain = [Variant(name, way, way == GENERATE) for name in ("fp16", "int8") for way in (GENERATE, CAPTURED)]
    more = (*harder, "int4-torchao", "glu30+fp16", "glu30+int8", "vis50+fp16", "vis50+glu30+int8")
    return [*plain, Variant("fp16", CAPTURED, True), *(Variant(name, CAPTURED) for name in more)]


def _on_gpu() -> list[Variant]:
    """Every precision, whole and pruned, plain and fast. Plain ``generate`` waits for the host, so that pruning hardly
    shows: it is timed of one pruned model. torchao alone multiplies no INT4 there without one library more."""
    names = [steps + precision for steps in ("", "glu30+") for precision in PRECISIONS]
    plain = [Variant(name, GENERATE, not name.endswith("int4-torchao")) for name in (*PRECISIONS, "glu30+fp16")]
    fast = [Variant(name, COMPILED) for name in (*names, "vis50+fp16", "vis50+glu30+int4-torchao")]
    graphs = [Variant(name, CAPTURED) for name in ("fp16", "int8-torchao", "int4-torchao")]
    return [*plain, Variant("fp16", COMPILED, True), *fast, *graphs]


class Study:
    """Cells of this part name a model as their ``step``."""

    def __init__(self, samples: int | None = None) -> None:
        self.rounds = samples

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Every variant of the model, timed in a fresh process."""
        rounds = self.rounds or _ROUNDS.get(cell.step, _USUAL_ROUNDS)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(measure, (cell.step, rounds))


def measure(model: str, rounds: int, chosen: Sequence[Variant] | None = None) -> dict[str, Any]:
    """Raw milliseconds of ``rounds`` answers of ``latency.NEW_TOKENS`` tokens of every variant, in turns."""
    make = _maker(model)
    held: dict[tuple[str, bool], VLM] = {}
    running: dict[Variant, Engine] = {}
    chosen = chosen or variants(model)
    wanted = {variant.build for variant in chosen}
    for variant in chosen:
        if variant.build not in held:
            held[variant.build] = _made(make, *variant.build, held)
            _say(f"built {variant.name}", len(held) / len(wanted))
        vlm = held[variant.build]
        running[variant] = Engine(vlm, variant.config)
    warmup = latency.WARMUP_RUNS if model in SMALL else 1  # in which steps are captured
    timed = latency.interleaved(list(running.values()), warmup=warmup, runs=rounds, batches=(), progress=_say)
    found = {variant.label: _facts(engine, times) for (variant, engine), times in zip(running.items(), timed)}
    facts = {"variants": found, "threads": torch.get_num_threads(), "parameters": _parameters(held["fp16", False])}
    return facts | {"overhead": overhead(held["fp16", False], _PAIRS * rounds)} if model in SMALL else facts


def overhead(vlm: VLM, rounds: int) -> dict[str, list[float]]:
    """Milliseconds from prepared inputs to the last token by ``ask``, and by the loop that it calls, in turns; who
    begins a turn changes, since the second finds what the first left in the caches."""
    engine = Engine(vlm, RuntimeConfig(decode=CAPTURED))
    times: dict[str, list[float]] = {"ask_ms": [], "loop_ms": []}
    tokens, warmup = latency.NEW_TOKENS, latency.WARMUP_RUNS

    def by_ask(sample: tasks.Sample) -> float:
        answer = engine.generate(sample.image, sample.question, tokens, tokens)
        return answer.total_ms - answer.preprocess_ms

    def by_loop(sample: tasks.Sample) -> float:
        return 1000 * engine.time_decoding(sample.image, sample.question, tokens)

    ways = [("ask_ms", by_ask), ("loop_ms", by_loop)]
    for number, sample in enumerate(map(tasks.drawn, task_registry.find(latency.TASK).samples(warmup + rounds, 0))):
        for name, way in ways if number % 2 else reversed(ways):
            taken = way(sample)
            if number >= warmup:
                times[name].append(taken)
    return times


def _say(what: str, share: float) -> None:
    print(f"  {what}, {100 * share:.0f} %", file=sys.stderr, flush=True)


def _facts(engine: Engine, times: Latency) -> dict[str, Any]:
    return {name: getattr(times, name) for name in FIGURES} | {
        "floor_ms": latency.floor(engine.vlm, times.prompt_tokens).decode_ms_per_token,
        "decoder": times.decoder,
        "capture_seconds": times.capture_seconds,
        "kernel": engine.summary.kernel or engine.vlm.backend,
    }


def _made(make: Callable[[str], VLM], name: str, stock: bool, held: Mapping[tuple[str, bool], VLM]) -> VLM:
    plain = held.get((name, True))
    if plain is not None and plain.device.type == "cuda":
        vlm = weight_sharing.twin(plain)  # around the same weights: two of 7 B in every precision would not fit
    else:
        vlm = in_bfloat16(make("fp16")) if name == BFLOAT16 else make(name)
    Engine(vlm, RuntimeConfig(linear_kernels=LIBRARY if stock or name == BFLOAT16 else AUTO))
    weight_sharing.share(vlm, list(held.values()))
    return vlm


class _Linear(nn.Linear):
    """Multiplies one token in bfloat16, which reads half as much, and a prompt in float32, which spares a CPU without
    instructions for bfloat16 the many times longer emulation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-2] == 1:
            return super().forward(x)
        bias = None if self.bias is None else self.bias.float()
        return nn.functional.linear(x.float(), self.weight.float(), bias).to(x.dtype)


def in_bfloat16(vlm: VLM) -> VLM:
    """A dense ``vlm``, changed to bfloat16, with a Linear of its own."""
    vlm.model.to(torch.bfloat16)
    for module in vlm.model.modules():
        if type(module) is nn.Linear:
            module.__class__ = _Linear
    return replace(vlm, dtype_computed="bfloat16")


def _parameters(vlm: VLM) -> int:
    return sum(p.numel() for p in vlm.model.parameters())


def _maker(model: str) -> Callable[[str], VLM]:
    """Makes the variants of ``model``. Of random weights nothing is left to make up for when some go, so nothing is."""
    if model in SMALL:
        return lambda name: build(Recipe.parse(f"{model}/{name}"), device="cpu")
    entry = _large() if model == LARGE else registry.find(model)
    device = "cpu" if model == LARGE else "cuda"
    few, method = list(calibration_samples(2)), Method("magnitude", reconstruct=False)

    def make(name: str) -> VLM:
        recipe = Recipe.parse(f"{model}/{name}")
        return build(recipe, device=device, dense=random_init.dense(entry), calibration=few, method=method)

    return make


def _large() -> registry.ModelSpec:
    """The 1 B model, made known to this process, which is the study's own."""
    seven = SHAPES["llava-1.5-7b"]
    text = {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 16}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16}
    vision = seven["vision_config"] | {"num_hidden_layers": 2}
    SHAPES[LARGE] = seven | {"vision_config": vision, "text_config": seven["text_config"] | text | heads}
    registry.MODELS[LARGE] = replace(registry.find("llava-1.5-7b"), name=LARGE, title="LLaVA 1 B, random weights")
    return registry.MODELS[LARGE]
