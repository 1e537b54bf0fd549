"""The report: everything measured about one recipe on one machine, and the circumstances.

Field names are keys of the stored JSON.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field, replace
from typing import Any

SCHEMA_VERSION = 1
EXACT_MATCH, VQA_ACCURACY = "exact match", "VQA accuracy"  # the scores that judge a task
RANDOM_WEIGHTS = "random: architecture only"  # ``Report.weights`` of randomly initialized weights
GIVEN_WEIGHTS = "given"  # and of a folder or repository that the user named
COMPONENTS = (
    "vision tower",
    "Q-Former",
    "projector",
    "decoder attention",
    "decoder MLP",
    "embeddings",
    "lm_head",
    "other",
)


@dataclass(frozen=True)
class Hardware:
    """The machine. ``slug`` names its folder below ``precomputed/``; results of different slugs are never compared."""

    slug: str
    device: str  # "cpu" or "cuda"
    name: str
    cores: int
    memory_bytes: int


@dataclass(frozen=True)
class Size:
    """Weight bytes, and number of parameters before packing, by component (of ``COMPONENTS``).

    ``disk_bytes`` is the size of the checkpoint, 0 if none was saved.
    """

    weight_bytes: dict[str, int]
    parameters: dict[str, int]
    disk_bytes: int

    @property
    def total_bytes(self) -> int:
        return sum(self.weight_bytes.values())


@dataclass(frozen=True)
class Memory:
    """Bytes above the process's memory at the start: after loading, at the peak of compression and of generation.

    On a CPU, loading and generation are those of a fresh process that loads the saved checkpoint; with random weights
    and in reports from before 2026-11-29, of the process that compressed.
    """

    loaded_bytes: int
    peak_build_bytes: int
    peak_answer_bytes: int
    measure: str  # "rss" or "cuda allocated"


@dataclass(frozen=True)
class Roofline:
    """Lower bounds of latency on this device, from two micro-benchmarks: a memory copy and a matrix product.

    ``decode_bytes`` are read for every token: the weights of the decoder layers and the lm_head, without the KV cache.
    ``prefill_flops`` are those of the same weights over the prompt, two a weight and token, without attention scores
    and vision tower.
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

    ``vision_ms``: tower, and Q-Former or projector, alone. ``batch_decode_ms``: a decoding step of a whole batch, by
    batch size. ``session`` is shared by models whose runs were interleaved and compare run by run. ``decoder`` is the
    decoding mode, and ``capture_seconds`` the time to capture its step before the timed runs.
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
    floor: Roofline | None = None
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


def same_timing_session(one: Latency, other: Latency) -> bool:
    """Whether the runs of both were interleaved; if not, the machine's state may explain a difference."""
    return bool(one.session) and one.session == other.session


def speedup(before: Latency, after: Latency) -> float | None:
    """Ratio of median decoding times, ``before`` to ``after``; None if their runs were not interleaved."""
    if not same_timing_session(before, after):
        return None
    return before.decode_ms_per_token_median / after.decode_ms_per_token_median


@dataclass(frozen=True)
class Quality:
    """Scores of one task, each from 0 to 1; the predictions are stored beside the report.

    ``metric`` names the one that judges the task: it is its ``score``. ``commonest_answer_by_type`` is the exact match
    of always giving the most common answer of a type, ``commonest_answer_vqa_by_type`` the VQA accuracy of that.
    ``vqa_accuracy`` is the soft accuracy of the VQA challenge, for tasks with several reference answers a question: up
    to four answers the share of people who agree, beyond that 1 if four agree. Exact match is then against their most
    common answer. ``skipped_rows`` counts the rows of the user's files that could not be used.
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
    answer_words: float  # mean number of words in an answer
    rouge1_stemmed: bool = False
    vqa_accuracy: float | None = None
    vqa_accuracy_by_type: dict[str, float] | None = None
    commonest_answer_vqa_by_type: dict[str, float] | None = None
    skipped_rows: int = 0

    @property
    def metric(self) -> str:
        """``VQA_ACCURACY`` where several people answered questions, else ``EXACT_MATCH``."""
        return EXACT_MATCH if self.vqa_accuracy is None else VQA_ACCURACY

    @property
    def score(self) -> float:
        """The value of ``metric``."""
        return self.exact_match if self.vqa_accuracy is None else self.vqa_accuracy


def same_questions(one: Quality, other: Quality) -> bool:
    """Whether both are scores of the same questions about the same images."""
    return (one.version, one.task_sha256) == (other.version, other.task_sha256)


@dataclass(frozen=True)
class PruningResult:
    """Result of one pruning step. The real percentage differs from the requested one, as kernels need round widths."""

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
    """Everything measured about one recipe on one machine; if it failed, ``error`` is set and the rest is empty.

    ``revision`` is the commit of weights on the Hub, or a digest of local ones. ``settings`` is a digest of the files
    beside local weights that change answers; None on the Hub, whose commits cover them, and in reports from before it
    was recorded.
    """

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
    pruned: list[PruningResult] = field(default_factory=list)
    size: Size | None = None
    memory: Memory | None = None
    latency: Latency | None = None
    quality: dict[str, Quality] = field(default_factory=dict)
    error: str | None = None
    settings: str | None = None
    schema: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Report:
        """Inverse of ``to_dict``.

        Raises:
            ValueError: another schema version, or a missing field.
        """
        if data.get("schema") != SCHEMA_VERSION:
            raise ValueError(f"report schema {data.get('schema')} is not {SCHEMA_VERSION}: measure the recipe again")
        data = dict(data)
        try:
            data["hardware"] = Hardware(**data["hardware"])
            data["pruned"] = [PruningResult(**p) for p in data["pruned"]]
            data["quality"] = {k: Quality(**q) for k, q in data["quality"].items()}
            for name, section in (("size", Size), ("memory", Memory), ("latency", Latency)):
                data[name] = section(**data[name]) if data[name] is not None else None
            if data["latency"] is not None and data["latency"].floor is not None:
                data["latency"] = replace(data["latency"], floor=Roofline(**data["latency"].floor))
            return cls(**data)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the report is damaged ({error}): measure the recipe again") from None
