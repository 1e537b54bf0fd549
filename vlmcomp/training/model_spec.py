"""The specification of a bundled model: its classes, tokens, prompt template and training plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from vlmcomp.data.scenes import CANVAS
from vlmcomp.training.world import SHAPES, World


@dataclass(frozen=True)
class TrainPlan:
    """How long and how fast a bundled model is trained. Steps are optimizer steps; rates are peak learning rates."""

    patch: int = 12  # pixels a side of a labeled patch
    tower_steps: int = 1500
    tower_scenes: int = 64
    tower_lr: float = 2e-3
    steps: int = 3400
    images: int = 24  # images a step; easy_images of them come from easy-VQA's train split
    easy_images: int = 4
    length: int = 304  # tokens a packed sequence: one image and as many questions as fit
    lr: float = 2e-3
    tower_scale: float = 0.25  # tower learning rate relative to the decoder's
    patch_loss: float = 0.3  # weight of the patch loss relative to the loss of the answers
    seed: int = 0


@dataclass(frozen=True)
class PromptTemplate:
    """Prompt of a family as its processor lays it out, split where the questions of a packed sequence branch.

    Attributes:
        image_token: stands for all image tokens in ``prefix``.
        prefix: text before the question, with the special tokens that the processor adds.
        question: template with ``{question}``.
        answer: template with ``{answer}``.
        is_prefix_lm: everything before the answer attends in both directions, so every question needs image tokens of
            its own.
        first_position: position id of the first token.
    """

    image_token: str
    prefix: str
    question: str
    answer: str
    is_prefix_lm: bool = False
    first_position: int = 0


@dataclass(frozen=True)
class TinyModelSpec:
    """A bundled model.

    Attributes:
        special_tokens: the first entries of the vocabulary.
        build: makes the randomly initialized model and its processor around a tokenizer.
        bos_token: prepended to every text; None if the family has none.
        world: what it is taught.
        vocab_size: tokens of its tokenizer, at most.
    """

    name: str
    special_tokens: tuple[str, ...]
    pad_token: str
    eos_token: str
    build: Callable[[PreTrainedTokenizerFast], tuple[PreTrainedModel, ProcessorMixin]]
    prompt_template: PromptTemplate
    bos_token: str | None = None
    plan: TrainPlan = TrainPlan()
    world: World = SHAPES
    vocab_size: int = 640

    @property
    def question_types(self) -> tuple[str, ...]:
        return (*self.world.question_types, "easy-vqa")


def train_tokenizer(spec: TinyModelSpec, corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE: the words of the corpus become tokens, and any other text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=list(spec.special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    bos = spec.bos_token
    if bos is not None:
        special = [(bos, spec.special_tokens.index(bos))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=special)
    named = {spec.pad_token, spec.eos_token, bos}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=spec.pad_token,
        bos_token=bos,
        eos_token=spec.eos_token,
        additional_special_tokens=[s for s in spec.special_tokens if s not in named],
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


# Settings of the image processors with one image size; pixel values are -1 to 1.
IMAGE_PROCESSOR_SETTINGS = {
    "size": {"height": CANVAS, "width": CANVAS},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
# Vision tower of the bundled models, by the names that most families' configs use.
VISION_CONFIG = {
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


def greedy_generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    return GenerationConfig(**token_ids(tokenizer), max_new_tokens=64, do_sample=False)
