"""What tells one embedded model from another: its classes, its tokens, its wording and its training plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from vlmcomp.data.scenes import CANVAS


@dataclass(frozen=True)
class TrainPlan:
    """How long and how fast one embedded model is trained. Steps are optimizer steps; rates are peak rates."""

    patch: int = 12  # pixels a side of what the tower learns to name
    tower_steps: int = 1500
    tower_scenes: int = 64
    tower_lr: float = 2e-3
    steps: int = 3400
    images: int = 24  # images a step, of which easy_images come from easy-VQA's train split
    easy_images: int = 4
    length: int = 304  # tokens a packed sequence: one image and as many questions as fit
    lr: float = 2e-3
    tower_scale: float = 0.25  # tower learning rate relative to the decoder's
    patch_loss: float = 0.3  # weight of the patch-naming loss beside the answers' loss
    seed: int = 0


@dataclass(frozen=True)
class Wording:
    """How the family's processor lays out image, question and answer, cut where packed questions fork.

    ``opening`` holds one ``mark`` where the image tokens come, and the tokens that the processor adds itself.
    ``prefix_lm``: everything before the answer sees all of itself, so that every question needs its own image
    tokens. ``first`` is the position of the first token.
    """

    mark: str
    opening: str
    question: str  # with {question}
    answer: str  # with {answer}
    prefix_lm: bool = False
    first: int = 0


@dataclass(frozen=True)
class Blueprint:
    """One embedded model. ``specials`` come first in the vocabulary; ``start`` is put before every text."""

    name: str
    specials: tuple[str, ...]
    pad: str
    end: str
    make: Callable[[PreTrainedTokenizerFast], tuple[PreTrainedModel, ProcessorMixin]]
    wording: Wording
    start: str | None = None
    plan: TrainPlan = TrainPlan()


def train_tokenizer(blueprint: Blueprint, corpus: Iterable[str], vocab_size: int = 640) -> PreTrainedTokenizerFast:
    """Byte-level BPE: every word of the corpus becomes one token, any other text still encodes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(blueprint.specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    start = blueprint.start
    if start is not None:
        special = [(start, blueprint.specials.index(start))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=special)
    named = {blueprint.pad, blueprint.end, start}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=blueprint.pad,
        bos_token=start,
        eos_token=blueprint.end,
        additional_special_tokens=[s for s in blueprint.specials if s not in named],
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


# How images reach the towers that take one size, in pixels from -1 to 1.
IMAGES = {"size": {"height": CANVAS, "width": CANVAS}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
# What the image towers of the embedded models have in common, by the names that most families' configs give it.
TOWER = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "image_size": CANVAS,
}


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | None]:
    """The special token ids that a text config and a generation config name."""
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def greedy(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    return GenerationConfig(**token_ids(tokenizer), max_new_tokens=64, do_sample=False)
