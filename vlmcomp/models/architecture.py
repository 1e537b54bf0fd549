"""Where each family keeps its modules, as data: compression works on these names and never on a model's name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ArchitectureSpec:
    """Module paths of one family in transformers 5.

    Attributes:
        layers: path of the decoder layers.
        attention: path of the attention inside a layer; ``query``, ``key``, ``value`` and ``output`` are below it.
        mlp: path of the MLP inside a layer, empty if its Linears are direct children of the layer.
        mlp_inputs: Linears that produce the MLP's neurons (one, or gate and up), relative to ``mlp``.
        mlp_output: Linear that consumes the neurons, relative to ``mlp``.
        mlp_width: attribute of the text config with the number of neurons.
        decoders: ``model_type`` of the text configs whose decoder layers are laid out and computed like this.
        prefixes: module paths of each component (of ``results.schema.COMPONENTS``) outside the decoder layers; the
            first match counts.
        explicit_head_dim: the text config has a head width of its own, so transformers' classes load any number of
            heads.
        post_norms: attention and MLP outputs are normalized before they are added to the residual stream.
        image_features_method: method that returns the features of the image tokens, one row a token, or an output
            with them as ``pooler_output``; None if no image tokens can be pruned.
        rope_index_method: method that computes image-shaped position ids (M-RoPE); None if image tokens are numbered
            like text.
        no_token_pruning_reason: why no image tokens can be pruned; empty if they can.
    """

    layers: str
    attention: str
    query: str
    key: str
    value: str
    output: str
    mlp: str
    mlp_inputs: tuple[str, ...]
    mlp_output: str
    mlp_width: str
    decoders: tuple[str, ...]
    prefixes: dict[str, tuple[str, ...]]
    explicit_head_dim: bool = True
    post_norms: bool = False
    image_features_method: str | None = None
    rope_index_method: str | None = None
    no_token_pruning_reason: str = ""

    @property
    def decoder(self) -> str:
        """Path of the module that contains the decoder layers."""
        return self.layers.rpartition(".")[0]

    @property
    def has_gated_mlp(self) -> bool:
        return len(self.mlp_inputs) == 2

    def component(self, name: str) -> str:
        """The component (of ``results.schema.COMPONENTS``) that the parameter or module path ``name`` belongs to."""
        if name.startswith(f"{self.layers}."):
            return self._component_of_layer(name[len(self.layers) + 1 :].partition(".")[2])
        for component, prefixes in self.prefixes.items():
            if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes):
                return component
        return "other"

    def _component_of_layer(self, path: str) -> str:
        """The component of a path inside a decoder layer."""
        if path.startswith(f"{self.attention}."):
            return "decoder attention"
        linears = (f"{self.mlp}.{linear}".lstrip(".") for linear in (*self.mlp_inputs, self.mlp_output))
        return "decoder MLP" if any(f"{path}.".startswith(f"{linear}.") for linear in linears) else "other"

    def skipped_modules(self) -> list[str]:
        """Module paths that compression leaves unchanged."""
        return [prefix for prefixes in self.prefixes.values() for prefix in prefixes]


_LLAVA = ArchitectureSpec(
    layers="model.language_model.layers",
    attention="self_attn",
    query="q_proj",
    key="k_proj",
    value="v_proj",
    output="o_proj",
    mlp="mlp",
    mlp_inputs=("gate_proj", "up_proj"),
    mlp_output="down_proj",
    mlp_width="intermediate_size",
    decoders=("llama", "mistral", "qwen2"),
    prefixes={
        "vision tower": ("model.vision_tower",),
        "projector": ("model.multi_modal_projector",),
        "embeddings": ("model.language_model.embed_tokens",),
        "lm_head": ("lm_head",),
    },
    image_features_method="model.multi_modal_projector.forward",
)
_QWEN2_VL = replace(
    _LLAVA,
    decoders=("qwen2_vl_text", "qwen2_vl"),
    prefixes={
        "projector": ("model.visual.merger", "model.visual.deepstack_merger_list"),
        "vision tower": ("model.visual",),
        "embeddings": ("model.language_model.embed_tokens",),
        "lm_head": ("lm_head",),
    },
    explicit_head_dim=False,
    image_features_method="model.get_image_features",
    rope_index_method="model.get_rope_index",
)
ARCHITECTURES = {
    "llava": _LLAVA,
    # The decoder alone: separates what pruning does to a language model from what it does to vision.
    "llama": replace(
        _LLAVA,
        decoders=("llama",),
        layers="model.layers",
        prefixes={"embeddings": ("model.embed_tokens",), "lm_head": ("lm_head",)},
        image_features_method=None,
        no_token_pruning_reason="takes no images",
    ),
    "blip-2": ArchitectureSpec(
        layers="language_model.model.decoder.layers",
        attention="self_attn",
        query="q_proj",
        key="k_proj",
        value="v_proj",
        output="out_proj",
        mlp="",
        mlp_inputs=("fc1",),
        mlp_output="fc2",
        mlp_width="ffn_dim",
        decoders=("opt",),
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
        explicit_head_dim=False,
        image_features_method="language_projection.forward",
    ),
    "paligemma": replace(_LLAVA, decoders=("gemma", "gemma2")),
    "paligemma gemma2": replace(_LLAVA, decoders=("gemma2",), post_norms=True),
    "qwen2_vl": _QWEN2_VL,
    "qwen2_5_vl": replace(_QWEN2_VL, decoders=("qwen2_5_vl_text", "qwen2_5_vl")),
    "qwen3_vl": replace(
        _QWEN2_VL,
        decoders=("qwen3_vl_text",),
        explicit_head_dim=True,
        image_features_method=None,
        no_token_pruning_reason="also adds image features to its first decoder layers, one for every image token",
    ),
    "idefics3": replace(
        _LLAVA,
        decoders=("llama",),
        layers="model.text_model.layers",
        prefixes={
            "vision tower": ("model.vision_model",),
            "projector": ("model.connector",),
            "embeddings": ("model.text_model.embed_tokens",),
            "lm_head": ("lm_head",),
        },
        image_features_method=None,
        no_token_pruning_reason="cuts an image into a number of parts that varies, with text between them",
    ),
}


@dataclass(frozen=True)
class DecoderLayer:
    """One decoder layer and the modules inside it that compression changes."""

    block: nn.Module
    attention: nn.Module
    mlp: nn.Module
    architecture: ArchitectureSpec

    @property
    def attention_inputs(self) -> tuple[nn.Linear, ...]:
        """The Linears of queries, keys and values, which have the same input."""
        names = self.architecture
        return tuple(getattr(self.attention, name) for name in (names.query, names.key, names.value))

    @property
    def mlp_inputs(self) -> tuple[nn.Linear, ...]:
        """The Linears that produce the MLP's neurons, which have the same input."""
        return tuple(getattr(self.mlp, name) for name in self.architecture.mlp_inputs)

    @property
    def o_proj(self) -> nn.Linear:
        """The attention's output projection, which consumes the heads."""
        return getattr(self.attention, self.architecture.output)

    @property
    def down_proj(self) -> nn.Linear:
        """The MLP's output projection, which consumes the neurons."""
        return getattr(self.mlp, self.architecture.mlp_output)


def get_architecture(model: PreTrainedModel) -> ArchitectureSpec:
    """The architecture of a loaded model.

    Raises:
        ValueError: unsupported family.
    """
    family = model.config.model_type
    if family not in ARCHITECTURES:
        raise ValueError(f"the model family '{family}' is not supported: it must be one of {', '.join(ARCHITECTURES)}")
    variant = f"{family} {model.config.get_text_config().model_type}"  # PaliGemma comes with Gemma and with Gemma 2
    return ARCHITECTURES.get(variant) or ARCHITECTURES[family]


def unsupported_decoder_reason(decoder: str, names: ArchitectureSpec) -> str:
    """Why a decoder whose text config has the ``model_type`` ``decoder`` is not supported; empty if it is."""
    if decoder in names.decoders:
        return ""
    return f"its decoder is of the type '{decoder}', which must be {' or '.join(names.decoders)}"


def unsupported_reason(model: PreTrainedModel) -> str:
    """Why a model of a supported family cannot be compressed: its decoder or a module that is not there; empty if it
    can. The model may be on the meta device."""
    names = get_architecture(model)
    text_config = model.config.get_text_config()
    if reason := unsupported_decoder_reason(text_config.model_type, names):
        return reason
    for paths in _required_paths(model, names):
        if not any(_has(model, path) for path in paths):
            return f"it has no {' or '.join(paths)}"
    if not hasattr(text_config, names.mlp_width):
        return f"its text config has no {names.mlp_width}"
    return ""


def _required_paths(model: PreTrainedModel, names: ArchitectureSpec) -> Iterator[tuple[str, ...]]:
    """What compression works on, as alternative paths: each component, and the Linears of every decoder layer."""
    yield from names.prefixes.values()
    yield (names.layers,)
    attention = [f"{names.attention}.{linear}" for linear in (names.query, names.key, names.value, names.output)]
    mlp = [f"{names.mlp}.{linear}".lstrip(".") for linear in (*names.mlp_inputs, names.mlp_output)]
    num_layers = model.config.get_text_config().num_hidden_layers
    for index in range(num_layers):
        yield from ((f"{names.layers}.{index}.{linear}.weight",) for linear in (*attention, *mlp))
    yield from ((method,) for method in (names.image_features_method, names.rope_index_method) if method)


def _has(model: PreTrainedModel, path: str) -> bool:
    found: Any = model
    for name in path.split("."):
        found = getattr(found, name, None)
    return found is not None


def decoder_layers(model: PreTrainedModel) -> list[DecoderLayer]:
    """The decoder layers of ``model``, first to last."""
    spec = get_architecture(model)
    blocks: Any = model.get_submodule(spec.layers)  # a ModuleList
    return [
        DecoderLayer(block, block.get_submodule(spec.attention), block.get_submodule(spec.mlp), spec)
        for block in blocks
    ]


def decoder_linears(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear]]:
    """Path and module of every Linear in the decoder's attention and MLP: those that are quantized."""
    from torch import nn

    spec = get_architecture(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and spec.component(name) in ("decoder attention", "decoder MLP"):
            yield name, module
