"""A Report is a fact with its circumstances: what was measured, on what, by which versions."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

SCHEMA = 1
RANDOM = "random: architecture only"  # ``Report.weights`` of what was never trained
PARTS = ("vision tower", "Q-Former", "projector", "decoder attention", "decoder MLP", "embeddings", "lm_head", "other")


@dataclass(frozen=True)
class Hardware:
    """The machine. ``slug`` names its folder below ``precomputed/``; results of two slugs share no axis."""

    slug: str
    device: str  # "cpu" or "cuda"
    name: str
    cores: int
    memory_bytes: int


@dataclass(frozen=True)
class Size:
    """Bytes and logical parameters by part (``PARTS``), counted before packing.

    ``disk_bytes``: of the checkpoint, 0 where none was saved.
    """

    weight_bytes: dict[str, int]
    parameters: dict[str, int]
    disk_bytes: int

    @property
    def total_bytes(self) -> int:
        return sum(self.weight_bytes.values())


@dataclass(frozen=True)
class Memory:
    """Bytes above what the process held before: after loading, at the peak of building, at the peak of answering."""

    loaded_bytes: int
    peak_build_bytes: int
    peak_answer_bytes: int
    measure: str  # "rss" or "cuda allocated"


@dataclass(frozen=True)
class Floor:
    """What this device allows at best, from two short tests on it: a copy of memory, and a matrix product.

    ``decode_bytes`` are read for every token: the weights of the decoder's layers and the lm_head, as they lie in
    memory; the KV cache comes on top and is left out. ``prefill_flops`` are those of the same weights over the prompt,
    two a weight and token; attention scores and the vision tower are left out.
    """

    bandwidth_bytes_s: float
    flops_s: float
    decode_bytes: int
    prefill_flops: int

    @property
    def decode_ms_per_token(self) -> float:
        return 1000 * self.decode_bytes / self.bandwidth_bytes_s

    @property
    def prefill_ms(self) -> float:
        return 1000 * self.prefill_flops / self.flops_s


@dataclass(frozen=True)
class Latency:
    """Raw milliseconds of every timed run at batch 1 with exactly ``new_tokens`` generated.

    ``vision_ms``: tower, and Q-Former or projector, alone. ``batch_decode_ms``: a step of a whole batch, by its size.
    ``session`` is shared by models that were timed in turns: their runs compare one by one. ``decoder`` is what decodes
    (of ``decode.WAYS``), and ``capture_seconds`` what capturing its step took, before the timed runs.
    """

    new_tokens: int
    prompt_tokens: int
    warmup_runs: int
    threads: int
    ttft_ms: list[float]
    decode_ms_per_token: list[float]
    end_to_end_ms: list[float]
    preprocess_ms: list[float] = field(default_factory=list)
    vision_ms: list[float] = field(default_factory=list)
    batch_decode_ms: dict[str, list[float]] = field(default_factory=dict)
    session: str = ""
    floor: Floor | None = None
    decoder: str = "generate"
    capture_seconds: float = 0.0

    @property
    def ttft_ms_median(self) -> float:
        return statistics.median(self.ttft_ms)

    @property
    def decode_ms_per_token_median(self) -> float:
        return statistics.median(self.decode_ms_per_token)

    @property
    def end_to_end_ms_median(self) -> float:
        return statistics.median(self.end_to_end_ms)


def timed_in_turns(one: Latency, other: Latency) -> bool:
    """Whether the two were held together and asked in turns: else what separates their times may be the machine."""
    return bool(one.session) and one.session == other.session


def speedup(before: Latency, after: Latency) -> float | None:
    """How many times as fast ``after`` decodes, by the medians; None where the two were not timed in turns."""
    if not timed_in_turns(before, after):
        return None
    return before.decode_ms_per_token_median / after.decode_ms_per_token_median


def amount(count: int) -> str:
    """Bytes for people, in powers of ten."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def p95(values: Sequence[float]) -> float:
    """The 95th percentile, between neighbours in proportion."""
    ordered, place = sorted(values), 0.95 * (len(values) - 1)
    low = int(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


@dataclass(frozen=True)
class Quality:
    """Scores of one task, each a share from 0 to 1; the per-sample rows lie beside the report.

    ``vqa_accuracy``: the VQA challenge's, where several people answered each question; exact match is against the
    commonest of their answers then.
    """

    task: str
    version: str
    task_sha256: str
    samples: int
    seed: int
    exact_match: float
    exact_match_by_type: dict[str, float]
    commonest_answer_by_type: dict[str, float]
    samples_by_type: dict[str, int]
    composite: float
    meteor: float
    rouge1: float
    bertscore_f1: float
    bertscore_encoder: str
    meteor_data: str
    answer_words: float  # mean words of an answer
    rouge1_stemmed: bool = False
    vqa_accuracy: float | None = None


@dataclass(frozen=True)
class Pruned:
    """One pruning step as it really came out: widths are rounded to what kernels take."""

    step: str
    asked_percent: float
    real_percent: float
    kept: int
    of: int
    unit: str  # such as "MLP neurons a layer", "query heads a layer" or "image tokens"
    score: str
    calibration: str


@dataclass(frozen=True)
class Report:
    """Everything measured about one recipe on one machine. ``error`` is set, and the rest empty, if it failed."""

    recipe: str
    hardware: Hardware
    date: str
    commit: str
    versions: dict[str, str]
    source: str
    revision: str | None
    weights: str
    seeds: dict[str, int]
    dtype_stored: str = ""
    dtype_computed: str = ""
    backend: str = ""
    build_seconds: float = 0.0
    pruned: list[Pruned] = field(default_factory=list)
    size: Size | None = None
    memory: Memory | None = None
    latency: Latency | None = None
    quality: dict[str, Quality] = field(default_factory=dict)
    error: str | None = None
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Report:
        """Inverse of ``to_dict``.

        Raises:
            ValueError: the data is of another schema or lacks a field.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(f"report schema {data.get('schema')} is not {SCHEMA}: measure the recipe again")
        data = dict(data)
        try:
            data["hardware"] = Hardware(**data["hardware"])
            data["pruned"] = [Pruned(**p) for p in data["pruned"]]
            data["quality"] = {k: Quality(**q) for k, q in data["quality"].items()}
            for name, kind in (("size", Size), ("memory", Memory), ("latency", Latency)):
                data[name] = kind(**data[name]) if data[name] is not None else None
            if data["latency"] is not None and data["latency"].floor is not None:
                data["latency"] = replace(data["latency"], floor=Floor(**data["latency"].floor))
            return cls(**data)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the report is damaged ({error}): measure the recipe again") from None
