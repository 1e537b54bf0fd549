"""The table of models, as data. Where the parts of a family lie is told by ``anatomy``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlmcomp.recipe import Recipe

ASSETS = Path(__file__).resolve().parent.parent / "assets"


@dataclass(frozen=True)
class Model:
    """One row: where the weights come from and how to talk to the model.

    ``prompt`` holds ``{question}``; ``mlp`` names the step that narrows its MLP: ``glu`` (gated) or ``ffn``.
    ``calibration`` is how many samples it is pruned by: more keep more, and take longer.
    ``one_word`` is appended to a question of a benchmark that wants a single word or phrase.
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
    stop: str = ""

    @property
    def location(self) -> str:
        """What ``from_pretrained`` is given."""
        return str(ASSETS / self.source) if self.embedded else self.source

    @property
    def origin(self) -> str:
        return "trained here" if self.embedded else "hub"


MODELS = {
    m.name: m
    for m in (
        Model(
            name="llava-shapes",
            title="LLaVA-shapes 3.9M",
            family="llava",
            source="models/llava-shapes",
            prompt="USER: <image>\n{question} ASSISTANT:",
            one_word="Answer with one word.",
            licence="Apache-2.0",
            embedded=True,
            calibration=1024,
        ),
        Model(
            name="llava-1.5-7b",
            title="LLaVA-1.5 7B",
            family="llava",
            source="llava-hf/llava-1.5-7b-hf",
            prompt="USER: <image>\n{question} ASSISTANT:",
            one_word="Answer the question using a single word or phrase.",
            licence="Llama 2 Community License",
        ),
    )
}
DEFAULT = "llava-shapes"


def find(name: str) -> Model:
    """The row of ``name``.

    Raises:
        ValueError: no such model, naming those there are.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model '{name}': choose one of {', '.join(MODELS)}")
    return MODELS[name]


def check(recipe: Recipe) -> Model:
    """The model of ``recipe``, if its anatomy allows every step.

    Raises:
        ValueError: unknown model, or a step that the model's MLP cannot do, with the step to use instead.
    """
    model = find(recipe.model)
    for step in recipe.steps:
        if step.kind in ("glu", "ffn") and step.kind != model.mlp:
            has = "has no gate" if model.mlp == "ffn" else "is gated"
            raise ValueError(f"{step} does not fit {model.name}, whose MLP {has}: use {model.mlp}{step.percent}")
    return model
