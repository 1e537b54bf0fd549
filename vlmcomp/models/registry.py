"""The table of supported models. Where a family keeps its modules is in ``architecture``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from vlmcomp.files import bundled_folder
from vlmcomp.models.architecture import ARCHITECTURES
from vlmcomp.recipe import Recipe

ASSETS = bundled_folder("assets")


@dataclass(frozen=True)
class ModelSpec:
    """One supported model: where its weights come from and how it is prompted.

    Attributes:
        family: ``model_type`` in the config, a key of ``architecture.ARCHITECTURES``.
        source: a Hub id, or for a bundled model a folder below ``assets/``.
        prompt: template with ``{question}``; the answer follows after ``answer_separator``.
        short_answer_prompt: appended to a benchmark question that expects a single word or phrase.
        license: of the weights.
        revision: commit on the Hub; None for the newest.
        bundled: the model is trained in this repository and ships in ``assets/``.
        knows: the only things that it can answer about, in words; empty for a model that knows photographs.
        num_calibration_samples: default number of samples for pruning; more preserve more accuracy and take longer.
        is_prefix_lm: the prompt is attended to in both directions, so the processor takes the answer as ``suffix``.
        gated: the license must be accepted on the Hub before downloading.
        min_max_pixels: bounds that images are scaled to, for models that take images of any size.
        needs_bfloat16: trained in bfloat16; activations may overflow in float16.
        single_tile_on_cpu: on a CPU an image is read as one tile, scaled down, and not cut into up to 17: each tile
            costs as much as the image, and the first answer of many tiles takes a minute.
    """

    name: str
    title: str
    family: str
    source: str
    prompt: str
    short_answer_prompt: str
    license: str
    revision: str | None = None
    bundled: bool = False
    knows: str = ""
    num_calibration_samples: int = 256
    is_prefix_lm: bool = False
    gated: bool = False
    min_max_pixels: tuple[int, int] | None = None
    needs_bfloat16: bool = False
    single_tile_on_cpu: bool = False

    @property
    def answer_separator(self) -> str:
        """Text between prompt and answer."""
        return "" if self.is_prefix_lm or self.prompt[-1].isspace() else " "

    @property
    def name_or_path(self) -> str:
        """Argument for ``from_pretrained``."""
        return str(ASSETS / self.source) if self.bundled else self.source

    @property
    def mlp(self) -> str:
        """Pruning target of the family's MLP: ``glu`` (gated) or ``ffn``."""
        return "glu" if ARCHITECTURES[self.family].has_gated_mlp else "ffn"

    @property
    def no_token_pruning_reason(self) -> str:
        """Why no image tokens can be pruned; empty if they can."""
        return ARCHITECTURES[self.family].no_token_pruning_reason

    @property
    def pruning_targets(self) -> tuple[str, ...]:
        """The pruning targets that the architecture supports, in the order they are applied."""
        image_tokens = () if self.no_token_pruning_reason else ("vis",)
        return (*image_tokens, "heads", self.mlp)

    @property
    def weights_origin(self) -> str:
        return "trained here" if self.bundled else "hub"

    def image_settings(self, device: str) -> dict[str, bool]:
        """What the processor is told about images on a type of device beside its own settings."""
        return {"do_image_splitting": False} if self.single_tile_on_cpu and device == "cpu" else {}

    def image_note(self, device: str) -> str:
        """What ``image_settings`` mean, in words; empty if they are the processor's own."""
        return "image read as one tile" if self.image_settings(device) else ""


IMAGE_TOKENS = ("<image>", "<|image_pad|>")
_LLAVA = "USER: <image>\n{question} ASSISTANT:"
_BLIP2 = "Question: {question} Answer:"
_PALIGEMMA = "<image>answer en {question}"
_IMAGE = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
_QWEN3 = _IMAGE + "{question}<|im_end|>\n<|im_start|>assistant\n"
_QWEN2 = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + _QWEN3
_SMOLVLM = "<|im_start|>User:<image>{question}<end_of_utterance>\nAssistant:"
_PHRASE = "Answer the question using a single word or phrase."


def _bundled(family: str, title: str, prompt: str, name: str, is_prefix_lm: bool = False) -> ModelSpec:
    """A small model trained on scenes of shapes."""
    return ModelSpec(
        name=name,
        title=title,
        family=family,
        source=f"models/{name}",
        prompt=prompt,
        short_answer_prompt="Answer with one word.",
        license="Apache-2.0",
        bundled=True,
        knows="drawings of colored shapes",
        num_calibration_samples=1024,
        is_prefix_lm=is_prefix_lm,
    )


def _qwen(name: str, title: str, source: str, prompt: str, license: str = "Apache-2.0") -> ModelSpec:
    side = 32 if name.startswith("qwen3") else 28  # pixels a side of an image token
    return ModelSpec(
        name=name,
        title=title,
        family=name.split("-vl")[0].replace(".", "_") + "_vl",
        source=f"Qwen/{source}",
        prompt=prompt,
        short_answer_prompt=_PHRASE,
        license=license,
        min_max_pixels=(256 * side**2, 1280 * side**2),
        needs_bfloat16=True,
    )


def _paligemma(name: str, title: str, source: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        title=title,
        family="paligemma",
        source=f"google/{source}",
        prompt=_PALIGEMMA,
        short_answer_prompt="",
        license="Gemma Terms of Use",
        is_prefix_lm=True,
        gated=True,
        needs_bfloat16=True,
    )


def _smolvlm(size: str) -> ModelSpec:
    return ModelSpec(
        name=f"smolvlm-{size.lower()}",
        title=f"SmolVLM {size}",
        family="idefics3",
        source=f"HuggingFaceTB/SmolVLM-{size}-Instruct",
        prompt=_SMOLVLM,
        short_answer_prompt=_PHRASE,
        license="Apache-2.0",
        needs_bfloat16=True,
        single_tile_on_cpu=True,
    )


_SPECS = (
    _bundled("llava", "LLaVA-shapes 3.9M", _LLAVA, "llava-shapes"),
    _bundled("blip-2", "BLIP-2-shapes 4.5M", _BLIP2, "blip2-shapes"),
    _bundled("paligemma", "PaliGemma-shapes 3.9M", _PALIGEMMA, "paligemma-shapes", is_prefix_lm=True),
    _bundled("qwen2_vl", "Qwen2-VL-shapes 4.2M", _QWEN3, "qwen2-vl-shapes"),  # trained without a system prompt
    ModelSpec(
        name="llava-1.5-7b",
        title="LLaVA-1.5 7B",
        family="llava",
        source="llava-hf/llava-1.5-7b-hf",
        prompt=_LLAVA,
        short_answer_prompt=_PHRASE,
        license="Llama 2 Community License",
    ),
    ModelSpec(
        name="blip2-opt-2.7b",
        title="BLIP-2 OPT 2.7B",
        family="blip-2",
        source="Salesforce/blip2-opt-2.7b",
        prompt=_BLIP2,
        short_answer_prompt="",
        license="MIT",
    ),
    _paligemma("paligemma-3b", "PaliGemma 3B mix 224", "paligemma-3b-mix-224"),
    _paligemma("paligemma2-3b", "PaliGemma 2 3B mix 224", "paligemma2-3b-mix-224"),
    _qwen("qwen2-vl-2b", "Qwen2-VL 2B", "Qwen2-VL-2B-Instruct", _QWEN2),
    _qwen("qwen2-vl-7b", "Qwen2-VL 7B", "Qwen2-VL-7B-Instruct", _QWEN2),
    _qwen("qwen2.5-vl-3b", "Qwen2.5-VL 3B", "Qwen2.5-VL-3B-Instruct", _QWEN2, "Qwen Research License"),
    _qwen("qwen2.5-vl-7b", "Qwen2.5-VL 7B", "Qwen2.5-VL-7B-Instruct", _QWEN2),
    _qwen("qwen3-vl-2b", "Qwen3-VL 2B", "Qwen3-VL-2B-Instruct", _QWEN3),
    _qwen("qwen3-vl-4b", "Qwen3-VL 4B", "Qwen3-VL-4B-Instruct", _QWEN3),
    _smolvlm("256M"),
    _smolvlm("500M"),
)
MODELS = {spec.name: spec for spec in _SPECS}
DEFAULT_MODEL = "llava-shapes"
TRAINABLE = (*(spec.name for spec in _SPECS if spec.bundled), "llava-objects")  # the weights of the last do not ship


def get_model_spec(name: str) -> ModelSpec:
    """The specification of the model ``name``.

    Raises:
        ValueError: no such model; the message names the closest, or all.
    """
    if not isinstance(name, str) or name not in MODELS:
        closest = closest_model(str(name))
        choice = f"did you mean {closest}?" if closest else f"choose one of {', '.join(MODELS)}"
        raise ValueError(f"unknown model '{name}': {choice}")
    return MODELS[name]


def resolve_hub_id(text: str) -> str:
    """The name of the model whose Hub id ``text`` is; any other text as it is."""
    return next((spec.name for spec in _SPECS if not spec.bundled and spec.source.lower() == text.lower()), text)


def parse_recipe(text: str, source_option: str = "--source") -> Recipe:
    """The recipe of a registered model, which ``text`` may also name by its Hub id.

    Args:
        text: such as ``llava-1.5-7b/int8`` or ``llava-hf/llava-1.5-7b-hf/int8``.
        source_option: how the caller is told to give other weights.

    Raises:
        ValueError: not a recipe, or of an unknown model; the sentence says what to write.
    """
    if not isinstance(text, str) or text.partition("/")[0] in MODELS:
        return Recipe.parse(text)
    owner, _, rest = text.partition("/")
    repository, slash, name = rest.partition("/")
    known = resolve_hub_id(f"{owner}/{repository}")
    if known in MODELS:
        return Recipe.parse(known + slash + name)
    if not rest:
        closest = closest_model(owner) or DEFAULT_MODEL
        raise ValueError(f"'{text}' is not a recipe: write MODEL/STEPS+PRECISION, for example {closest}/int8")
    try:
        recipe = Recipe.parse(text)
    except ValueError:
        published = [spec.name for spec in _SPECS if not spec.bundled]
        closest = closest_model(repository, published, 0.4) or published[0]
        raise ValueError(
            f"'{text}' names no model of vlmcomp: for other weights give a model of their family and where they are, "
            f"such as {closest}/{name or 'int8'} {source_option} {owner}/{repository}"
        ) from None
    get_model_spec(recipe.model)
    return recipe


def closest_model(text: str, names: Iterable[str] = MODELS, cutoff: float = 0.6) -> str | None:
    """The name that ``text`` is probably meant to be."""
    return next(iter(difflib.get_close_matches(text.lower(), list(names), 1, cutoff)), None)


def with_prompt_template(spec: ModelSpec, template: str | None) -> ModelSpec:
    """``spec`` for weights that were trained with another prompt; None keeps its own.

    Raises:
        ValueError: the template has not one ``{question}`` and as many image tokens as the model's own.
    """
    if template is None:
        return spec
    for token in ("{question}", *IMAGE_TOKENS):
        if template.count(token) != spec.prompt.count(token):
            times = "once" if token in spec.prompt else "nowhere"
            raise ValueError(f"a prompt template of {spec.name} has {token} {times}, as in {spec.prompt!r}")
    return replace(spec, prompt=template)


def validate_recipe(recipe: Recipe) -> ModelSpec:
    """The model of ``recipe``, if its architecture supports every pruning step.

    Raises:
        ValueError: unknown model, an MLP step of the wrong kind (the message names the right one), or image token
            pruning for a family that needs all image tokens.
    """
    spec = get_model_spec(recipe.model)
    for step in recipe.steps:
        if step.target == "vis" and spec.no_token_pruning_reason:
            raise ValueError(f"{step} does not fit {spec.name}, which {spec.no_token_pruning_reason}: leave {step} out")
        if step.target in ("glu", "ffn") and step.target != spec.mlp:
            has = "has no gate" if spec.mlp == "ffn" else "is gated"
            raise ValueError(f"{step} does not fit {spec.name}, whose MLP {has}: use {spec.mlp}{step.percent}")
    return spec
