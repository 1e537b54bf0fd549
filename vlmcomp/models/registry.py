"""The table of models, as data. Where the parts of a family lie is told by ``anatomy``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmcomp.recipe import Recipe

ASSETS = Path(__file__).resolve().parents[2] / "assets"
_ALL_SEEN = {
    "qwen3_vl": "also adds image features to its first decoder layers, one for every image token",
    "idefics3": "cuts an image into a number of parts that varies, with text between them",
}  # by family: why no image tokens can be removed


@dataclass(frozen=True)
class ModelSpec:
    """One row: where the weights come from and how to talk to the model.

    ``prompt`` holds ``{question}``, and the answer follows it after ``joint``; with ``suffix`` the processor is told
    which part is the answer (a prefix LM sees the prompt in both directions). ``mlp`` names the step that narrows its
    MLP: ``glu`` (gated) or ``ffn``. ``calibration`` is how many samples it is pruned by: more keep more, and take
    longer. ``one_word`` is appended to a question of a benchmark that wants a single word or phrase. ``gated``: its
    licence must be accepted on the Hub first. ``pixels``: fewest and most pixels that an image is scaled to, where the
    model takes images of any size. ``bfloat16``: it was trained in that, and what it computes may overflow float16.
    """

    name: str
    title: str
    family: str
    source: str  # a Hub id, or a folder below assets/
    prompt: str
    one_word: str
    licence: str
    revision: str | None = None
    embedded: bool = False
    mlp: str = "glu"
    calibration: int = 256
    suffix: bool = False
    gated: bool = False
    pixels: tuple[int, int] | None = None
    bfloat16: bool = False

    @property
    def joint(self) -> str:
        """What stands between prompt and answer."""
        return "" if self.suffix or self.prompt[-1].isspace() else " "

    @property
    def location(self) -> str:
        """What ``from_pretrained`` is given."""
        return str(ASSETS / self.source) if self.embedded else self.source

    @property
    def all_seen(self) -> str:
        """Why no image tokens can be removed; empty where they can."""
        return _ALL_SEEN.get(self.family, "")

    @property
    def steps(self) -> tuple[str, ...]:
        """The kinds of steps that its anatomy allows, in the order in which they are applied."""
        return (*(() if self.all_seen else ("vis",)), "heads", self.mlp)

    @property
    def origin(self) -> str:
        return "trained here" if self.embedded else "hub"


_LLAVA = "USER: <image>\n{question} ASSISTANT:"
_BLIP2 = "Question: {question} Answer:"
_PALIGEMMA = "<image>answer en {question}"
_IMAGE = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
_QWEN3 = _IMAGE + "{question}<|im_end|>\n<|im_start|>assistant\n"
_QWEN2 = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + _QWEN3
_SMOLVLM = "<|im_start|>User:<image>{question}<end_of_utterance>\nAssistant:"
_PHRASE = "Answer the question using a single word or phrase."


def _shapes(family: str, title: str, prompt: str, name: str, **more: Any) -> ModelSpec:
    """A model that is trained here and ships in ``assets/``."""
    settings = {"one_word": "Answer with one word.", "licence": "Apache-2.0", "embedded": True, "calibration": 1024}
    return ModelSpec(name=name, title=title, family=family, source=f"models/{name}", prompt=prompt, **settings | more)


def _qwen(name: str, title: str, source: str, prompt: str, licence: str = "Apache-2.0") -> ModelSpec:
    side = 32 if name.startswith("qwen3") else 28  # pixels a side of an image token
    family = name.split("-vl")[0].replace(".", "_") + "_vl"
    pixels = (256 * side**2, 1280 * side**2)
    return ModelSpec(name, title, family, f"Qwen/{source}", prompt, _PHRASE, licence, pixels=pixels, bfloat16=True)


MODELS = {
    m.name: m
    for m in (
        _shapes("llava", "LLaVA-shapes 3.9M", _LLAVA, "llava-shapes"),
        _shapes("blip-2", "BLIP-2-shapes 4.5M", _BLIP2, "blip2-shapes", mlp="ffn"),
        _shapes("paligemma", "PaliGemma-shapes 3.9M", _PALIGEMMA, "paligemma-shapes", suffix=True),
        _shapes("qwen2_vl", "Qwen2-VL-shapes 4.2M", _QWEN3, "qwen2-vl-shapes"),  # its wording has no system prompt
        ModelSpec(
            name="llava-1.5-7b",
            title="LLaVA-1.5 7B",
            family="llava",
            source="llava-hf/llava-1.5-7b-hf",
            prompt=_LLAVA,
            one_word=_PHRASE,
            licence="Llama 2 Community License",
        ),
        ModelSpec(
            name="blip2-opt-2.7b",
            title="BLIP-2 OPT 2.7B",
            family="blip-2",
            source="Salesforce/blip2-opt-2.7b",
            prompt=_BLIP2,
            one_word="",
            licence="MIT",
            mlp="ffn",
        ),
        *(
            ModelSpec(
                name=name,
                title=title,
                family="paligemma",
                source=f"google/{source}",
                prompt=_PALIGEMMA,
                one_word="",
                licence="Gemma Terms of Use",
                suffix=True,
                gated=True,
                bfloat16=True,
            )
            for name, title, source in (
                ("paligemma-3b", "PaliGemma 3B mix 224", "paligemma-3b-mix-224"),
                ("paligemma2-3b", "PaliGemma 2 3B mix 224", "paligemma2-3b-mix-224"),
            )
        ),
        _qwen("qwen2-vl-2b", "Qwen2-VL 2B", "Qwen2-VL-2B-Instruct", _QWEN2),
        _qwen("qwen2-vl-7b", "Qwen2-VL 7B", "Qwen2-VL-7B-Instruct", _QWEN2),
        _qwen("qwen2.5-vl-3b", "Qwen2.5-VL 3B", "Qwen2.5-VL-3B-Instruct", _QWEN2, "Qwen Research License"),
        _qwen("qwen2.5-vl-7b", "Qwen2.5-VL 7B", "Qwen2.5-VL-7B-Instruct", _QWEN2),
        _qwen("qwen3-vl-2b", "Qwen3-VL 2B", "Qwen3-VL-2B-Instruct", _QWEN3),
        _qwen("qwen3-vl-4b", "Qwen3-VL 4B", "Qwen3-VL-4B-Instruct", _QWEN3),
        *(
            ModelSpec(
                name=f"smolvlm-{size.lower()}",
                title=f"SmolVLM {size}",
                family="idefics3",
                source=f"HuggingFaceTB/SmolVLM-{size}-Instruct",
                prompt=_SMOLVLM,
                one_word=_PHRASE,
                licence="Apache-2.0",
                bfloat16=True,
            )
            for size in ("256M", "500M")
        ),
    )
}
DEFAULT = "llava-shapes"


def find(name: str) -> ModelSpec:
    """The row of ``name``.

    Raises:
        ValueError: no such model, naming those there are.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model '{name}': choose one of {', '.join(MODELS)}")
    return MODELS[name]


def check(recipe: Recipe) -> ModelSpec:
    """The model of ``recipe``, if its anatomy allows every step.

    Raises:
        ValueError: unknown model, a step that the model's MLP cannot do, with the step to use instead, or image tokens
            to be removed from a family that needs them all.
    """
    model = find(recipe.model)
    for step in recipe.steps:
        if step.kind == "vis" and model.all_seen:
            raise ValueError(f"{step} does not fit {model.name}, which {model.all_seen}: leave {step} out")
        if step.kind in ("glu", "ffn") and step.kind != model.mlp:
            has = "has no gate" if model.mlp == "ffn" else "is gated"
            raise ValueError(f"{step} does not fit {model.name}, whose MLP {has}: use {model.mlp}{step.percent}")
    return model
