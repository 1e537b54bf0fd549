"""Settings of config.json and generation_config.json that no answer may depend on: overruled, or refused in one
sentence."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from vlmcomp.models.weight_files import UnusableWeights, read_object

_GENERATION_CONFIG = "generation_config.json"
_FORWARD_SETTINGS: dict[str, Any] = {  # decide what ``forward`` takes and returns
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "use_cache": True,
    "is_encoder_decoder": False,
}
# Settings of generation_config.json with token ids that change the greedy choice; unknown ids in the last two have no
# effect.
_CHECKED_TOKENS = ("forced_bos_token_id", "bad_words_ids")
_TOKEN_LISTS = ("eos_token_id", "forced_eos_token_id", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens")
_log = logging.getLogger(__name__)


def read_config(folder: Path) -> PreTrainedConfig:
    """The config in ``folder``, whose model returns what decoding reads, with the attention that transformers chooses:
    another one may need a library that is not there, or be slower."""
    config = AutoConfig.from_pretrained(folder)
    for part in (config, *(getattr(config, name) for name in config.sub_configs)):
        for name, value in _FORWARD_SETTINGS.items():
            if getattr(part, name, value) != value:
                setattr(part, name, value)
    config._attn_implementation = None
    return config


def check_token_ids(folder: Path) -> None:
    """Raises ``UnusableWeights`` if generation_config.json in ``folder`` has token ids that are no integers."""
    file = folder / _GENERATION_CONFIG
    for name, value in (read_object(file) if file.is_file() else {}).items():
        if not (name.endswith("_token_id") or name in _TOKEN_LISTS):
            continue
        tokens = _flat(value) if name in _TOKEN_LISTS else filter(None, [value])
        if not all(isinstance(token, int) and not isinstance(token, bool) for token in tokens):
            raise UnusableWeights(f"{_GENERATION_CONFIG} has {value!r} as {name}, which is no token id: remove it")


def overrule_generation_config_(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give ``model`` end and padding tokens that it knows; the settings hold for every module that generates.

    Raises:
        UnusableWeights: a setting of generation_config.json means tokens that the model does not know.
    """
    _complete_generation_config_(model, tokenizer)
    for module in model.modules():  # the decoder of BLIP-2 generates by its own
        if isinstance(module, PreTrainedModel) and getattr(module, "generation_config", None) is not None:
            module.generation_config = model.generation_config


def _complete_generation_config_(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    settings = model.generation_config
    known = range(model.config.get_text_config().vocab_size)
    for name in _CHECKED_TOKENS:
        if unknown := [token for token in _flat(getattr(settings, name, None)) if token not in known]:
            raise UnusableWeights(
                f"{_GENERATION_CONFIG} has {name} with the token {unknown[0]}, and the model knows {len(known)}: "
                "remove it"
            )
    end_tokens = list(_flat(settings.eos_token_id))
    if unknown := [token for token in end_tokens if token not in known]:
        _log.warning("end tokens that the model does not know are ignored: %s", ", ".join(map(str, unknown)))
        settings.eos_token_id = [token for token in end_tokens if token in known] or None
    if settings.eos_token_id is None and tokenizer.eos_token_id in known:
        settings.eos_token_id = tokenizer.eos_token_id
    if settings.pad_token_id is not None and settings.pad_token_id not in known:
        settings.pad_token_id = tokenizer.pad_token_id


def _flat(value: Any) -> Iterator[Any]:
    """The items of nested lists; the value itself if it is no list, nothing for None."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    elif value is not None:
        yield value
