"""The recipe: a model and how it is compressed, as one string.

``llava-shapes/heads25+glu30+int4`` is the CLI argument, the app's dropdown value, and the path of its results.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

BASE_PRECISIONS = ("fp16", "int8", "int4")
TORCHAO = "torchao"  # the library that quantizes instead of bitsandbytes
W8A16 = "w8a16"
W4A16 = "w4a16"  # rounded by calibration data
PRECISIONS = (*BASE_PRECISIONS, *(f"{base}-{TORCHAO}" for base in BASE_PRECISIONS[1:]), W8A16, W4A16)
LLM_INT8_THRESHOLD = 6.0  # of LLM.int8() (Dettmers et al., arXiv 2208.07339): larger activations stay in 16 bits
PRUNING_TARGETS = ("vis", "heads", "glu", "ffn")  # in the order in which they are applied
_PRECISION_TITLES = {
    "fp16": "FP16",
    "int8": "INT8",
    "int4": "INT4 (NF4)",
    "int8-torchao": "INT8 (torchao)",
    "int4-torchao": "INT4 (torchao)",
    W8A16: "INT8 (W8A16)",
    W4A16: "INT4 (GPTQ, W4A16)",
}
_TARGET_TITLES = {"vis": "image tokens", "heads": "heads", "glu": "MLP neurons", "ffn": "MLP neurons"}
_TECHNIQUES = {"vis": "tokens pruned", "heads": "heads pruned", "glu": "MLP pruned", "ffn": "MLP pruned"}
_STEP = re.compile(r"(vis|heads|glu|ffn)([1-9][0-9]?)")
_MODEL = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True, order=True)
class PruningStep:
    """One pruning step: remove ``percent`` of the image tokens, the attention heads or the MLP's neurons."""

    target: str
    percent: int

    def __post_init__(self) -> None:
        if self.target not in PRUNING_TARGETS:
            raise ValueError(f"unknown step '{self.target}': use one of {', '.join(PRUNING_TARGETS)}")
        if not 1 <= self.percent <= 90:
            raise ValueError(f"{self.target}{self.percent} is out of range: a step removes 1 to 90 percent")

    @classmethod
    def parse(cls, text: str) -> PruningStep:
        """Parse one step, such as ``glu30``.

        Raises:
            ValueError: not a step.
        """
        match = _STEP.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"'{text}' is not a step: write for example glu30, heads25 or vis50")
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"{self.target}{self.percent}"


@dataclass(frozen=True)
class Recipe:
    """A model, the pruning steps in the order they are applied, and the precision of its Linear weights.

    ``parse(str(recipe)) == recipe`` for every recipe.
    """

    model: str
    steps: tuple[PruningStep, ...] = ()
    precision: str = "fp16"

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not _MODEL.fullmatch(self.model):
            raise ValueError(f"'{self.model}' is not a model name: use lower-case letters, digits, '.' and '-'")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision '{self.precision}': use one of {', '.join(PRECISIONS)}")
        if not isinstance(self.steps, tuple) or not all(isinstance(step, PruningStep) for step in self.steps):
            raise ValueError("steps must be a tuple of pruning steps: use Recipe.parse('MODEL/STEPS+PRECISION')")
        targets = [step.target for step in self.steps]
        distinct = {"ffn" if target == "glu" else target for target in targets}  # both are the MLP
        if len(distinct) != len(targets):
            raise ValueError("a recipe has at most one vis step, one heads step and one MLP step")
        if targets != sorted(targets, key=PRUNING_TARGETS.index):
            raise ValueError("image tokens go before heads and heads before MLP neurons: write the steps in this order")

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Parse the canonical spelling.

        Raises:
            ValueError: any other spelling; the message says what is wrong and names the closest valid recipe.
        """
        if not isinstance(text, str):
            raise ValueError(f"{type(text).__name__} is not a recipe: write a text, for example 'llava-shapes/int8'")
        model, slash, rest = text.partition("/")
        if not slash or not model or not rest:
            example = f"{model or 'llava-shapes'}/int8"
            raise ValueError(f"'{text}' is not a recipe: write MODEL/STEPS+PRECISION, for example {example}")
        *step_words, precision = rest.split("+")
        if precision not in PRECISIONS or any(not _STEP.fullmatch(word) for word in step_words):
            raise ValueError(f"'{text}' is not a recipe; did you mean {_closest_recipe(model, rest)}?")
        try:
            return cls(model, tuple(map(PruningStep.parse, step_words)), precision)
        except ValueError as error:
            closest = _closest_recipe(model, rest)
            raise ValueError(f"'{text}' is not a recipe: {error}; did you mean {closest}?") from None

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
        """The uncompressed model."""
        return Recipe(self.model)

    @property
    def needs_calibration(self) -> bool:
        """Whether calibration data decides something: pruning steps, or rounding by GPTQ."""
        return bool(self.steps) or self.precision == W4A16

    @property
    def visual_tokens_pruned(self) -> int:
        """Percent of the image tokens that are removed."""
        return next((step.percent for step in self.steps if step.target == "vis"), 0)

    @property
    def label(self) -> str:
        """For people: ``INT4 (NF4), 25 % of heads and 30 % of MLP neurons removed``."""
        title = precision_title(self.precision)
        if not self.steps:
            return title
        *others, last = (f"{step.percent} % of {_TARGET_TITLES[step.target]}" for step in self.steps)
        removed = f"{', '.join(others)} and {last}" if others else last
        return f"{title}, {removed} removed"

    @property
    def technique(self) -> str:
        """The group that charts color by."""
        if not self.steps:
            return "FP16 baseline" if self.precision == "fp16" else "quantized"
        if self.precision != "fp16" or len(self.steps) > 1:
            return "combined"
        return _TECHNIQUES[self.steps[0].target]


def base_precision(precision: str) -> str:
    """``fp16``, ``int8`` or ``int4``, whichever library quantizes and however weights are rounded."""
    return {W8A16: "int8", W4A16: "int4"}.get(precision, precision.removesuffix(f"-{TORCHAO}"))


def precision_title(precision: str) -> str:
    """For people: ``INT4 (NF4)``, ``INT4 (torchao)``."""
    return _PRECISION_TITLES[precision]


_ALIASES = {"nf4": "int4", "bf16": "fp16", "gptq": W4A16, "w4": W4A16, "w8": W8A16}
_PRECISION_PREFIXES = ("fp", "int", "bf", "nf")
_TORCHAO_WORD = re.compile(r"torch[-_ ]?a?o?|(?<![a-z])ao(?![a-z])")


def _closest_recipe(model: str, rest: str) -> str:
    """The canonical spelling closest to ``rest`` (steps and precision), word by word."""
    steps: dict[str, PruningStep] = {}
    words, num_torchao = _TORCHAO_WORD.subn(" ", rest.lower())
    base = "int8" if num_torchao else "fp16"
    plain = (*BASE_PRECISIONS, W8A16, W4A16)
    for word in re.split(r"[+,_ -]+", words):
        if step := _closest_step(word):
            steps[step.target] = step
        elif precisions := difflib.get_close_matches(_ALIASES.get(word, word), plain, 1, 0.6):
            base = precisions[0]
    if "glu" in steps:
        steps.pop("ffn", None)
    in_order = sorted(steps.values(), key=lambda step: PRUNING_TARGETS.index(step.target))
    precision = f"{base}-{TORCHAO}" if num_torchao and base in BASE_PRECISIONS[1:] else base
    return str(Recipe(model if _MODEL.fullmatch(model) else "llava-shapes", tuple(in_order), precision))


def _closest_step(word: str) -> PruningStep | None:
    """The step that ``word`` (letters and a number) means, or None if it looks like a precision or anything else."""
    match = re.fullmatch(r"([a-z]+)[-_]?0*([0-9]+)%?", word)
    if match is None or match[1] in _PRECISION_PREFIXES:
        return None
    targets = difflib.get_close_matches(match[1], PRUNING_TARGETS, 1, 0.4)
    return PruningStep(targets[0], min(90, max(1, int(match[2])))) if targets else None
