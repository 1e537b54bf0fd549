"""Experiment: is a compressed model faster, and by how much? Variants of one model, timed in turns in one process.

On a GPU the models are published architectures. On a CPU they are the bundled models, and one whose answers take
seconds: LLaVA with a 1 B decoder of 16 layers, 2,048 wide, and 576 image tokens from two layers of CLIP ViT-L/14 at 336
pixels (no recipe changes the tower, so its depth does not matter). Weights are random, since speed does not depend on
them. On a CPU that computes FP16 in float32, a dense model in bfloat16 is a stronger baseline, though no recipe.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.pruning.pruner import PruningMethod
from vlmcomp.data import task_registry, tasks
from vlmcomp.data.calibration_data import synthetic_calibration_data
from vlmcomp.evaluation import latency
from vlmcomp.experiments.trial_log import Trial
from vlmcomp.hardware import has_native_bfloat16
from vlmcomp.models import random_init, registry
from vlmcomp.models.configs import PUBLISHED_CONFIGS
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import PRECISIONS, W4A16, W8A16, Recipe
from vlmcomp.results.schema import Latency
from vlmcomp.runtime import weight_sharing
from vlmcomp.runtime.config import CAPTURED, COMPILED, GENERATE, LIBRARY, STATIC, RuntimeConfig
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.linear.replacement import ReplacementLinear, replace_modules_

PART = "speed"
LARGE_CPU_MODEL = "llava-1b"  # a smaller LLaVA-1.5 7B
BUNDLED_MODELS = ("llava-shapes", "blip2-shapes", "paligemma-shapes", "qwen2-vl-shapes")
GPU_MODELS = ("llava-1.5-7b", "paligemma-3b", "qwen2.5-vl-7b")
METRICS = ("decode_ms_per_token", "ttft_ms", "vision_ms", "end_to_end_ms")
BFLOAT16 = "bf16"  # a baseline, not a recipe
_ROUNDS = {LARGE_CPU_MODEL: 12} | dict.fromkeys(GPU_MODELS, 3)
_DEFAULT_ROUNDS = 15
_OVERHEAD_ANSWERS_PER_ROUND = 7  # differences of a few percent need many answers
_BuildKey = tuple[str, bool]


@dataclass(frozen=True)
class Variant:
    """What is timed.

    Attributes:
        name: steps and precision of a recipe, or ``BFLOAT16``.
        mode: decode mode of the runtime.
        library_linears: whether the Linears are the libraries' own.
    """

    name: str
    mode: str
    library_linears: bool = False

    @property
    def label(self) -> str:
        """Key of the variant in stored results."""
        linears = ", stock Linears" if self.library_linears and self.mode != GENERATE else ""
        return f"{self.name}, {self.mode}{linears}"

    @property
    def config(self) -> RuntimeConfig:
        """Captures the decode step at the first token, which falls into the warm-up."""
        return replace(RuntimeConfig.from_environment(), decode=self.mode, capture_after_tokens=0)

    @property
    def build_key(self) -> _BuildKey:
        """Equal for variants that can share one built VLM."""
        return self.name, self.library_linears


def trials(device: str) -> list[Trial]:
    """One trial for each model that is timed on "cpu" or "cuda"."""
    models = GPU_MODELS if device == "cuda" else (*BUNDLED_MODELS, LARGE_CPU_MODEL)
    return [Trial(PART, model, "in turns") for model in models]


def default_variants(model: str) -> list[Variant]:
    """The variants of ``model``; the first one is the baseline of the others."""
    if model in GPU_MODELS:
        return _gpu_variants()
    return _large_cpu_variants() if model == LARGE_CPU_MODEL else _bundled_variants()


def _bundled_variants() -> list[Variant]:
    modes = (GENERATE, STATIC, CAPTURED, COMPILED)
    dense = [Variant("fp16", mode, library_linears=mode in (GENERATE, COMPILED)) for mode in modes]
    others = (*_bfloat16_baseline(), "int8", "int4-torchao")
    return [*dense, *(Variant(name, CAPTURED) for name in others)]


def _large_cpu_variants() -> list[Variant]:
    """INT4 by torchao alone: with NF4 an answer of this model would take minutes on a CPU."""
    both_modes = [
        Variant(name, mode, library_linears=mode == GENERATE)
        for name in ("fp16", "int8")
        for mode in (GENERATE, CAPTURED)
    ]
    recipes = ("int4-torchao", "glu30+fp16", "glu30+int8", "vis50+fp16", "vis50+glu30+int8")
    captured = [Variant(name, CAPTURED) for name in (*_bfloat16_baseline(), *recipes)]
    return [*both_modes, Variant("fp16", CAPTURED, library_linears=True), *captured]


def _bfloat16_baseline() -> tuple[str, ...]:
    return () if has_native_bfloat16() else (BFLOAT16,)


def _gpu_variants() -> list[Variant]:
    """Every precision with and without pruning, by ``generate`` and compiled.

    ``generate`` is bound by the host, which hides the effect of pruning, so it is timed for one pruned model only.
    torchao's own INT4 kernel needs one more library there. W8A16 and W4A16 have the kernels of torchao's precisions.
    """
    precisions = [precision for precision in PRECISIONS if precision not in (W8A16, W4A16)]
    names = [steps + precision for steps in ("", "glu30+") for precision in precisions]
    plain = [
        Variant(name, GENERATE, library_linears=not name.endswith("int4-torchao"))
        for name in (*precisions, "glu30+fp16")
    ]
    compiled = [Variant(name, COMPILED) for name in (*names, "vis50+fp16", "vis50+glu30+int4-torchao")]
    captured = [Variant(name, CAPTURED) for name in ("fp16", "int8-torchao", "int4-torchao")]
    return [*plain, Variant("fp16", COMPILED, library_linears=True), *compiled, *captured]


class DecodeSpeedExperiment:
    """Times every variant of a model; the ``step`` of its trials is the model's name.

    Args:
        num_samples: rounds of answers; default: by model.
    """

    def __init__(self, num_samples: int | None = None) -> None:
        self.rounds = num_samples

    def measure(self, trial: Trial) -> dict[str, Any]:
        """Time every variant of the model in a fresh process."""
        rounds = self.rounds or _ROUNDS.get(trial.step, _DEFAULT_ROUNDS)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(time_variants, (trial.step, rounds))


def time_variants(model: str, rounds: int, variants: Sequence[Variant] | None = None) -> dict[str, Any]:
    """Time answers of ``latency.NEW_TOKENS`` tokens of every variant in turns.

    Args:
        model: one of ``BUNDLED_MODELS``, ``GPU_MODELS`` or ``LARGE_CPU_MODEL``.
        rounds: answers of every variant.
        variants: default: ``default_variants(model)``.

    Returns:
        Raw milliseconds by the label of the variant, and facts about the model.
    """
    variants = variants or default_variants(model)
    vlms = _build_variants(model, variants)
    engines = [Engine(vlms[variant.build_key], variant.config) for variant in variants]
    warmup = latency.WARMUP_RUNS if model in BUNDLED_MODELS else 1  # decode steps are captured in it
    timings = latency.time_interleaved(engines, warmup=warmup, runs=rounds, batch_sizes=(), progress=_print_progress)
    dense = vlms["fp16", False]
    found: dict[str, Any] = {
        "variants": {v.label: _measurements(e, t) for v, e, t in zip(variants, engines, timings)},
        "threads": torch.get_num_threads(),
        "parameters": _num_parameters(dense),
    }
    if model in BUNDLED_MODELS:
        found["overhead"] = time_engine_overhead(dense, _OVERHEAD_ANSWERS_PER_ROUND * rounds)
    return found


def time_engine_overhead(vlm: VLM, rounds: int) -> dict[str, list[float]]:
    """Milliseconds from prepared inputs to the last token by ``Engine.generate`` and by its bare loop, in turns.

    The order changes every round, since the second finds what the first left in the caches.
    """
    engine = Engine(vlm, replace(RuntimeConfig.from_environment(), decode=CAPTURED))
    times: dict[str, list[float]] = {"ask_ms": [], "loop_ms": []}
    tokens = latency.NEW_TOKENS

    def time_generate(sample: tasks.Sample) -> float:
        answer = engine.generate(sample.image, sample.question, tokens, tokens)
        return answer.total_ms - answer.preprocess_ms

    def time_loop(sample: tasks.Sample) -> float:
        return 1000 * engine.time_decoding(sample.image, sample.question, tokens)

    timers = [("ask_ms", time_generate), ("loop_ms", time_loop)]
    samples = task_registry.get_task(latency.TASK).sample(latency.WARMUP_RUNS + rounds, 0)
    for number, sample in enumerate(map(tasks.with_image, samples)):
        for name, timer in timers if number % 2 else reversed(timers):
            milliseconds = timer(sample)
            if number >= latency.WARMUP_RUNS:
                times[name].append(milliseconds)
    return times


def _print_progress(text: str, fraction: float) -> None:
    print(f"  {text}, {100 * fraction:.0f} %", file=sys.stderr, flush=True)


def _measurements(engine: Engine, times: Latency) -> dict[str, Any]:
    return {name: getattr(times, name) for name in METRICS} | {
        "floor_ms": latency.compute_roofline(engine.vlm, times.prompt_tokens).decode_ms_per_token,
        "decoder": times.decoder,
        "capture_seconds": times.capture_seconds,
        "kernel": engine.summary.kernel or engine.vlm.quantization_backend,
    }


def _build_variants(model: str, variants: Sequence[Variant]) -> dict[_BuildKey, VLM]:
    """The VLM of every build key; equal weights are in memory once."""
    build = _builder(model)
    keys = list(dict.fromkeys(variant.build_key for variant in variants))
    vlms: dict[_BuildKey, VLM] = {}
    for key in keys:
        vlms[key] = _build_variant(build, *key, vlms)
        _print_progress(f"built {key[0]}", len(vlms) / len(keys))
    return vlms


def _build_variant(build: Callable[[str], VLM], name: str, library_linears: bool, vlms: Mapping[_BuildKey, VLM]) -> VLM:
    """Build one variant with its Linears installed; ``vlms`` are those built before, whose weights it shares."""
    plain = vlms.get((name, True))
    if plain is not None and plain.device.type == "cuda":
        vlm = weight_sharing.clone_sharing_weights(plain)  # two of 7 B in every precision would not fit
    else:
        vlm = in_bfloat16(build("fp16")) if name == BFLOAT16 else build(name)
    config = RuntimeConfig.from_environment()
    Engine(vlm, replace(config, linear_kernels=LIBRARY) if library_linears or name == BFLOAT16 else config)
    weight_sharing.share_weights_(vlm, list(vlms.values()))
    return vlm


class BFloat16Linear(ReplacementLinear):
    """A Linear with bfloat16 weights, for CPUs without bfloat16 instructions.

    One token is multiplied in bfloat16, which reads half the bytes, and a prompt in float32, since emulating bfloat16
    takes many times as long.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-2] == 1:
            return super().forward(x)
        bias = None if self.bias is None else self.bias.float()
        return nn.functional.linear(x.float(), self.weight.float(), bias).to(x.dtype)


def in_bfloat16(vlm: VLM) -> VLM:
    """A dense ``vlm``, converted to bfloat16 in place."""
    model = vlm.model.to(torch.bfloat16)
    linears = [module for module in model.modules() if type(module) is nn.Linear]
    replace_modules_(model, ((linear, BFloat16Linear.from_linear(linear)) for linear in linears))
    return replace(vlm, compute_dtype="bfloat16")


def _num_parameters(vlm: VLM) -> int:
    return sum(p.numel() for p in vlm.model.parameters())


def _builder(model: str) -> Callable[[str], VLM]:
    """Function that builds ``model`` from the name of a variant."""
    if model in BUNDLED_MODELS:
        return lambda name: compress(Recipe.parse(f"{model}/{name}"), device="cpu")
    is_large = model == LARGE_CPU_MODEL
    spec = registry.get_model_spec("llava-1.5-7b" if is_large else model)
    config = _large_cpu_config() if is_large else None
    device = "cpu" if is_large else "cuda"
    samples = list(synthetic_calibration_data(2))
    method = PruningMethod("magnitude", reconstruct=False)  # random weights have nothing to reconstruct

    def build(name: str) -> VLM:
        dense = random_init.random_weights_model(spec, config_dict=config)
        recipe = Recipe.parse(f"{spec.name}/{name}")
        return compress(recipe, device=device, dense=dense, calibration_data=samples, method=method)

    return build


def _large_cpu_config() -> dict[str, Any]:
    """LLaVA-1.5 7B's config with a decoder of about 1 B parameters."""
    published = PUBLISHED_CONFIGS["llava-1.5-7b"]
    sizes = {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 16}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16}
    text = published["text_config"] | sizes | heads
    return published | {"vision_config": published["vision_config"] | {"num_hidden_layers": 2}, "text_config": text}
