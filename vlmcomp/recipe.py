"""The central noun: a model and what was done to it, as one string.

``llava-shapes/heads25+glu30+int4`` is the CLI argument, the app's dropdown value, and the path of its results.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

BITS = ("fp16", "int8", "int4")
TORCHAO = "torchao"  # the library that packs the weights where bitsandbytes does not
INT8_THRESHOLD = 6.0  # of LLM.int8() (Dettmers et al., arXiv 2208.07339): greater activations keep more bits
PRECISIONS = (*BITS, *(f"{bits}-{TORCHAO}" for bits in BITS[1:]))
STEP_KINDS = ("vis", "heads", "glu", "ffn")  # in the order in which they are applied
_STEP_TITLES = {"vis": "image tokens", "heads": "heads", "glu": "GLU", "ffn": "FFN"}
_TECHNIQUES = {"vis": "tokens pruned", "heads": "heads pruned", "glu": "MLP pruned", "ffn": "MLP pruned"}
_STEP = re.compile(r"(vis|heads|glu|ffn)([1-9][0-9]?)")
_MODEL = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True, order=True)
class Step:
    """One pruning step: remove ``percent`` of the image tokens, the attention heads or the MLP's neurons."""

    kind: str
    percent: int

    def __post_init__(self) -> None:
        if self.kind not in STEP_KINDS:
            raise ValueError(f"unknown step '{self.kind}': use one of {', '.join(STEP_KINDS)}")
        if not 1 <= self.percent <= 90:
            raise ValueError(f"{self.kind}{self.percent} is out of range: a step removes 1 to 90 percent")

    @classmethod
    def parse(cls, text: str) -> Step:
        """Read one step, such as ``glu30``.

        Raises:
            ValueError: anything else.
        """
        if not _STEP.fullmatch(text):
            raise ValueError(f"'{text}' is not a step: write for example glu30, heads25 or vis50")
        kind = text.rstrip("0123456789")
        return cls(kind, int(text.removeprefix(kind)))

    def __str__(self) -> str:
        return f"{self.kind}{self.percent}"


@dataclass(frozen=True)
class Recipe:
    """A model, the pruning steps in the order they are applied, and the precision of its Linear weights.

    ``parse(str(recipe)) == recipe`` for every recipe.
    """

    model: str
    steps: tuple[Step, ...] = ()
    precision: str = "fp16"

    def __post_init__(self) -> None:
        if not _MODEL.fullmatch(self.model):
            raise ValueError(f"'{self.model}' is not a model name: use lower-case letters, digits, '.' and '-'")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision '{self.precision}': use one of {', '.join(PRECISIONS)}")
        kinds = [s.kind for s in self.steps]
        if len({"ffn" if k == "glu" else k for k in kinds}) != len(kinds):
            raise ValueError("a recipe has at most one vis step, one heads step and one MLP step")
        if kinds != sorted(kinds, key=STEP_KINDS.index):
            raise ValueError("image tokens go before heads and heads before MLP neurons: write the steps in this order")

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Read the one canonical spelling.

        Raises:
            ValueError: anything else, naming what is wrong and the nearest right spelling.
        """
        model, slash, rest = text.partition("/")
        if not slash or not model or not rest:
            raise ValueError(f"'{text}' is not a recipe: write MODEL/STEPS+PRECISION, for example {_example(text)}")
        *step_words, precision = rest.split("+")
        if precision not in PRECISIONS or any(not _STEP.fullmatch(w) for w in step_words):
            raise ValueError(f"'{text}' is not a recipe; did you mean {_nearest(model, rest)}?")
        try:
            steps = tuple(Step(m[1], int(m[2])) for m in map(_STEP.fullmatch, step_words) if m)
            return cls(model, steps, precision)
        except ValueError as error:
            raise ValueError(f"'{text}' is not a recipe: {error}; did you mean {_nearest(model, rest)}?") from None

    def __str__(self) -> str:
        return f"{self.model}/{self.name}"

    @property
    def name(self) -> str:
        """Steps and precision: ``heads25+glu30+int4``."""
        return "+".join([*map(str, self.steps), self.precision])

    @property
    def slug(self) -> str:
        """The recipe for Hub names and URLs: no '/' and no '+'."""
        return f"{self.model}--{self.name.replace('+', '-')}"

    @property
    def baseline(self) -> Recipe:
        return Recipe(self.model)

    @property
    def unseen(self) -> int:
        """Percent of the image tokens that the model does not see."""
        return next((s.percent for s in self.steps if s.kind == "vis"), 0)

    @property
    def label(self) -> str:
        """For people: ``INT4, 25 % heads and 30 % GLU removed``."""
        parts = [f"{s.percent} % {_STEP_TITLES[s.kind]}" for s in self.steps]
        removed = " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
        return precision_title(self.precision) + (f", {removed} removed" if removed else "")

    @property
    def technique(self) -> str:
        """The group that charts colour by."""
        if not self.steps:
            return "FP16 baseline" if self.precision == "fp16" else "quantized"
        if self.precision != "fp16" or len(self.steps) > 1:
            return "combined"
        return _TECHNIQUES[self.steps[0].kind]


def bits(precision: str) -> str:
    """``fp16``, ``int8`` or ``int4``, whichever library packs the weights."""
    return precision.removesuffix(f"-{TORCHAO}")


def precision_title(precision: str) -> str:
    """For people: ``INT4 (torchao)``."""
    return bits(precision).upper() + (f" ({TORCHAO})" if precision.endswith(TORCHAO) else "")


def _example(text: str) -> str:
    return f"{text.partition('/')[0] or 'llava-shapes'}/int8"


def _nearest(model: str, rest: str) -> str:
    """The canonical spelling closest to ``rest``, word by word."""
    steps: dict[str, Step] = {}
    words, named = re.subn(r"torch[-_ ]?a?o?|(?<![a-z])ao(?![a-z])", " ", rest.lower())
    precision = "int8" if named else "fp16"
    for word in re.split(r"[+,_ -]+", words):
        if m := re.fullmatch(r"([a-z]+)[-_]?0*([0-9]+)%?", word):
            kind = difflib.get_close_matches(m[1], STEP_KINDS, 1, 0.4)
            if kind and m[1] not in ("fp", "int", "bf", "nf"):
                steps[kind[0]] = Step(kind[0], min(90, max(1, int(m[2]))))
                continue
        if near := difflib.get_close_matches({"nf4": "int4", "bf16": "fp16"}.get(word, word), BITS, 1, 0.6):
            precision = near[0]
    if named and precision != "fp16":
        precision = f"{precision}-{TORCHAO}"
    if "glu" in steps:
        steps.pop("ffn", None)
    model = model if _MODEL.fullmatch(model) else "llava-shapes"
    return str(Recipe(model, tuple(sorted(steps.values(), key=lambda s: STEP_KINDS.index(s.kind))), precision))
