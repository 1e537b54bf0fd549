"""Where each family keeps its parts, as data. Steps work on these names and never on a model's name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn
from transformers import PreTrainedModel

from vlmcomp.results.schema import PARTS


@dataclass(frozen=True)
class Anatomy:
    """Module paths of one family in transformers 5.

    ``mlp_in`` write the MLP's neurons (one Linear, or gate and up), ``mlp_out`` reads them; both are relative to
    ``mlp``, which is empty where they lie in the layer itself. Attention names are relative to ``attention``.
    ``prefixes`` map a part of ``report.PARTS`` to the module paths that belong to it outside the decoder layers; the
    first that fits counts. ``any_heads``: the family's text config can name a head width of its own, so that stock
    classes hold any number of heads. ``post_norms``: attention and MLP are normalised once more before they join the
    residual stream.

    ``features`` is the method that gives the image tokens' features, one row a token, or an output that holds them as
    ``pooler_output``; None where no image tokens can be removed. ``positions`` is the method that lays the image
    tokens' positions out as the image is (M-RoPE); they are counted on like words' where it is None.
    """

    layers: str
    attention: str
    query: str
    key: str
    value: str
    output: str
    mlp: str
    mlp_in: tuple[str, ...]
    mlp_out: str
    mlp_width: str  # attribute of text_config
    prefixes: dict[str, tuple[str, ...]]
    any_heads: bool = True
    post_norms: bool = False
    features: str | None = None
    positions: str | None = None

    @property
    def decoder(self) -> str:
        """Path of the module that holds the decoder layers."""
        return self.layers.rpartition(".")[0]

    def part(self, name: str) -> str:
        """The part (of ``report.PARTS``) that the parameter or module path ``name`` belongs to."""
        if name.startswith(f"{self.layers}."):
            inner = name[len(self.layers) + 1 :].partition(".")[2]
            if inner.startswith(f"{self.attention}."):
                return "decoder attention"
            linears = (f"{self.mlp}.{n}".lstrip(".") for n in (*self.mlp_in, self.mlp_out))
            return "decoder MLP" if any(f"{inner}.".startswith(f"{n}.") for n in linears) else "other"
        for part, prefixes in self.prefixes.items():
            if any(name == p or name.startswith(f"{p}.") for p in prefixes):
                return part
        return "other"

    def untouched(self) -> list[str]:
        """Module paths that no step changes."""
        return [p for prefixes in self.prefixes.values() for p in prefixes]


_LLAVA = Anatomy(
    layers="model.language_model.layers",
    attention="self_attn",
    query="q_proj",
    key="k_proj",
    value="v_proj",
    output="o_proj",
    mlp="mlp",
    mlp_in=("gate_proj", "up_proj"),
    mlp_out="down_proj",
    mlp_width="intermediate_size",
    prefixes={
        "vision tower": ("model.vision_tower",),
        "projector": ("model.multi_modal_projector",),
        "embeddings": ("model.language_model.embed_tokens",),
        "lm_head": ("lm_head",),
    },
    features="model.multi_modal_projector.forward",
)
_QWEN = replace(
    _LLAVA,
    prefixes={
        "projector": ("model.visual.merger", "model.visual.deepstack_merger_list"),
        "vision tower": ("model.visual",),
        "embeddings": ("model.language_model.embed_tokens",),
        "lm_head": ("lm_head",),
    },
    any_heads=False,
    features="model.get_image_features",
    positions="model.get_rope_index",
)
FAMILIES = {
    "llava": _LLAVA,
    # The decoder alone: what pruning does to a language model can be told apart from what it does to vision.
    "llama": replace(
        _LLAVA,
        layers="model.layers",
        prefixes={"embeddings": ("model.embed_tokens",), "lm_head": ("lm_head",)},
        features=None,
    ),
    "blip-2": Anatomy(
        layers="language_model.model.decoder.layers",
        attention="self_attn",
        query="q_proj",
        key="k_proj",
        value="v_proj",
        output="out_proj",
        mlp="",
        mlp_in=("fc1",),
        mlp_out="fc2",
        mlp_width="ffn_dim",
        prefixes={
            "vision tower": ("vision_model",),
            "Q-Former": ("qformer", "query_tokens"),
            "projector": ("language_projection",),
            "embeddings": (
                "language_model.model.decoder.embed_tokens",
                "language_model.model.decoder.embed_positions",
            ),
            "lm_head": ("language_model.lm_head",),
        },
        any_heads=False,
        features="language_projection.forward",
    ),
    "paligemma": _LLAVA,
    "paligemma gemma2": replace(_LLAVA, post_norms=True),
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": replace(_QWEN, any_heads=True, features=None),
    "idefics3": replace(
        _LLAVA,
        layers="model.text_model.layers",
        prefixes={
            "vision tower": ("model.vision_model",),
            "projector": ("model.connector",),
            "embeddings": ("model.text_model.embed_tokens",),
            "lm_head": ("lm_head",),
        },
        features=None,
    ),
}
assert all(set(a.prefixes) <= set(PARTS) for a in FAMILIES.values())


@dataclass(frozen=True)
class Layer:
    """One decoder layer and the modules inside it that steps change."""

    block: nn.Module
    attention: nn.Module
    mlp: nn.Module
    anatomy: Anatomy

    @property
    def output(self) -> nn.Linear:
        """Reads the heads."""
        return getattr(self.attention, self.anatomy.output)

    @property
    def down(self) -> nn.Linear:
        """Reads the MLP's neurons."""
        return getattr(self.mlp, self.anatomy.mlp_out)


def of(model: PreTrainedModel) -> Anatomy:
    """The anatomy of a loaded model.

    Raises:
        ValueError: a family that is not in the table.
    """
    family = model.config.model_type
    both = f"{family} {model.config.get_text_config().model_type}"  # PaliGemma comes with Gemma and with Gemma 2
    if family not in FAMILIES:
        raise ValueError(f"the model family '{family}' is not supported: it must be one of {', '.join(FAMILIES)}")
    return FAMILIES.get(both) or FAMILIES[family]


def layers(model: PreTrainedModel) -> list[Layer]:
    """The decoder's layers, first to last."""
    anatomy = of(model)
    return [
        Layer(block, block.get_submodule(anatomy.attention), block.get_submodule(anatomy.mlp), anatomy)
        for block in model.get_submodule(anatomy.layers)
    ]


def decoder_linears(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear]]:
    """Path and module of every Linear of the decoder's attention and MLP: what a precision applies to."""
    anatomy = of(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and anatomy.part(name) in ("decoder attention", "decoder MLP"):
            yield name, module
