"""Which decode mode a model and a device get."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from vlmcomp import hardware
from vlmcomp.runtime.config import CAPTURED, COMPILED
from vlmcomp.runtime.linear import gpu as gpu_linear

# Settings that change the greedy choice, with the values that do not. With any other value ``generate`` decodes.
_NEUTRAL = {
    "repetition_penalty": (None, 1.0),
    "encoder_repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "sequence_bias": (None,),
    "exponential_decay_length_penalty": (None,),
}


def best_decode_mode(device: torch.device) -> str:
    """The fastest decode mode on ``device`` with an acceptable start-up time.

    Compilation takes seconds on a GPU, but minutes on a CPU, and a ZeroGPU worker would repeat it for every visitor.
    """
    compiles = gpu_linear.triton_available(device) and not hardware.is_zero_gpu(os.environ)
    return COMPILED if compiles else CAPTURED


def supports_fast_decode(model: PreTrainedModel) -> bool:
    """Whether this module gives the tokens of ``generate``: for plain greedy search, SDPA and full attention."""
    settings: GenerationConfig = model.generation_config
    text_config = model.config.get_text_config()
    plain_greedy = all(getattr(settings, name, None) in values for name, values in _NEUTRAL.items())
    return plain_greedy and text_config._attn_implementation == "sdpa" and not _has_sliding_window(text_config)


def _has_sliding_window(text_config: Any) -> bool:
    layer_types = set(getattr(text_config, "layer_types", None) or ["full_attention"])
    return layer_types != {"full_attention"}
