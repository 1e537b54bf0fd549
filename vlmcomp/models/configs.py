"""Configurations of the published models: widths and depths from ``config.json`` on the Hub, as data.

They build an architecture without weights, to count its parameters and bytes or to time it.
"""

from __future__ import annotations

from typing import Any


def _text_config(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocab: int = 151936
) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }


_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}}
_MROPE_QWEN3 = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}}
_QWEN25_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "vision_use_head": False,
}


def _qwen3_vision(
    hidden: int, intermediate: int, depth: int, out_hidden: int, deepstack_layers: list[int]
) -> dict[str, Any]:
    return {
        "depth": depth,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_heads": 16,
        "out_hidden_size": out_hidden,
        "patch_size": 16,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": deepstack_layers,
    }


def _smolvlm(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    text = _text_config(hidden, intermediate, layers, heads, kv_heads, 49280)
    vision = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 512,
        "patch_size": 16,
    }
    extra = {"pad_token_id": 2, "tie_word_embeddings": False}
    return {"text_config": {"model_type": "llama", **text, **extra}, "vision_config": vision, "scale_factor": 4}


_QWEN25_EXTRA = {"max_position_embeddings": 128000, **_MROPE}
PUBLISHED_CONFIGS: dict[str, dict[str, Any]] = {
    "llava-1.5-7b": {
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 768,
        },
        "text_config": {"model_type": "llama", **_text_config(4096, 11008, 32, 32, 32, 32064)},
    },
    "blip2-opt-2.7b": {
        "vision_config": {},  # the class's defaults
        "qformer_config": {},
        "text_config": {
            "model_type": "opt",
            "vocab_size": 50304,
            "hidden_size": 2560,
            "word_embed_proj_dim": 2560,
            "ffn_dim": 10240,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        "image_token_index": 50265,
    },
    "paligemma-3b": {
        "vision_config": _SIGLIP,
        "text_config": {"model_type": "gemma", **_text_config(2048, 16384, 18, 8, 1, 257216), "head_dim": 256},
    },
    "paligemma2-3b": {
        "vision_config": _SIGLIP,
        "text_config": {"model_type": "gemma2", **_text_config(2304, 9216, 26, 8, 4, 257216), "head_dim": 256},
        "projection_dim": 2304,
        "hidden_size": 2304,
    },
    "qwen2-vl-2b": {
        "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16},
        "text_config": {**_text_config(1536, 8960, 28, 12, 2), **_MROPE},
        "tie_word_embeddings": True,
    },
    "qwen2-vl-7b": {
        "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16},
        "text_config": {**_text_config(3584, 18944, 28, 28, 4, 152064), **_MROPE},
    },
    "qwen2.5-vl-3b": {
        "vision_config": {**_QWEN25_VISION, "out_hidden_size": 2048},
        "text_config": {**_text_config(2048, 11008, 36, 16, 2), **_QWEN25_EXTRA},
        "tie_word_embeddings": True,
    },
    "qwen2.5-vl-7b": {
        "vision_config": {**_QWEN25_VISION, "out_hidden_size": 3584},
        "text_config": {**_text_config(3584, 18944, 28, 28, 4, 152064), **_QWEN25_EXTRA},
    },
    "qwen3-vl-2b": {
        "vision_config": _qwen3_vision(1024, 4096, 24, 2048, [5, 11, 17]),
        "text_config": {**_text_config(2048, 6144, 28, 16, 8), "head_dim": 128, **_MROPE_QWEN3},
        "tie_word_embeddings": True,
    },
    "qwen3-vl-4b": {
        "vision_config": _qwen3_vision(1024, 4096, 24, 2560, [5, 11, 17]),
        "text_config": {**_text_config(2560, 9728, 36, 32, 8), "head_dim": 128, **_MROPE_QWEN3},
        "tie_word_embeddings": True,
    },
    "smolvlm-256m": _smolvlm(576, 1536, 30, 9, 3),
    "smolvlm-500m": _smolvlm(960, 2560, 32, 15, 5),
}
