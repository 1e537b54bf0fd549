"""Which decode mode a model and a device get."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from vlmcomp import hardware
from vlmcomp.runtime.config import CAPTURED, COMPILED
from vlmcomp.runtime.linear import gpu as gpu_linear

# Settings of generation_config.json that are obeyed: they change the greedy choice, except with these values. With any
# other value ``generate`` decodes, single questions and batches alike.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (None, 1.0),
    "encoder_repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "sequence_bias": (None,),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (None, 1),
    "watermarking_config": (None,),
}
# Settings that are overruled: every answer is one greedy answer, which ends at an end token or at the caller's limit.
_OVERRULED: dict[str, Any] = {
    "num_return_sequences": 1,
    "max_length": None,
    "min_length": 0,
    "min_new_tokens": None,
    "max_time": None,
    "stop_strings": None,
    "forced_eos_token_id": None,  # it would replace the last token of an answer that the limit cuts
    "token_healing": False,
    "remove_invalid_values": False,
    "use_cache": True,
    "cache_implementation": None,
    "prefill_chunk_size": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "use_mtp": None,
    "penalty_alpha": None,
    "dola_layers": None,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "constraints": None,
    "force_words_ids": None,
    "return_dict_in_generate": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "output_logits": False,
}


def best_decode_mode(device: torch.device) -> str:
    """The fastest decode mode on ``device`` with an acceptable start-up time.

    Compilation takes seconds on a GPU, but minutes on a CPU, and a ZeroGPU worker would repeat it for every visitor.
    """
    compiles = gpu_linear.triton_available(device) and not hardware.is_zero_gpu(os.environ)
    return COMPILED if compiles else CAPTURED


def greedy_settings(settings: GenerationConfig) -> dict[str, Any]:
    """Arguments of ``generate`` for greedy decoding whatever ``settings`` of a checkpoint say."""
    overruled = {n: v for n, v in _OVERRULED.items() if getattr(settings, n, None) not in (None, v)}
    return {"do_sample": False, "num_beams": 1} | overruled


def supports_fast_decode(model: PreTrainedModel) -> bool:
    """Whether this module gives the tokens of ``generate``: for plain greedy search, SDPA and full attention."""
    settings: GenerationConfig = model.generation_config
    text_config = model.config.get_text_config()
    plain_greedy = all(getattr(settings, name, None) in values for name, values in _NEUTRAL.items())
    return plain_greedy and text_config._attn_implementation == "sdpa" and not _has_sliding_window(text_config)


def _has_sliding_window(text_config: Any) -> bool:
    layer_types = getattr(text_config, "layer_types", None)
    if layer_types is None:  # as in Mistral: all layers have the same
        return getattr(text_config, "sliding_window", None) is not None
    return set(layer_types) != {"full_attention"}
