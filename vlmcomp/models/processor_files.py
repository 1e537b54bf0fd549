"""The files of a processor and its tokenizer are there and whole, or refused in one sentence that names the file.

transformers replaces what is missing in some of them by defaults, with which the same text has other token ids.
"""

from __future__ import annotations

import re
from pathlib import Path

from transformers.utils import is_sentencepiece_available

from vlmcomp.models.weight_files import UnusableWeights, read_object

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_SETTINGS = "tokenizer_config.json"  # which class reads the other files, and which tokens begin a text
_COPY = "copy that of the model that it was fine-tuned from"
_SPECIAL = re.compile(r"<.*>|madeupword\d+")  # tokens of a vocabulary that no merge gives; the second are of OPT
_MAX_UNMERGED = 0.01  # of the vocabulary; in whole files there are none


def check_processor_files(folder: Path) -> None:
    """Check the files that a processor is made from.

    Raises:
        UnusableWeights: one is missing, incomplete, or cannot be read here.
    """
    if not (folder / "preprocessor_config.json").is_file() and not _has_image_processor(folder):
        raise UnusableWeights(f"there is no preprocessor_config.json: {_COPY}")
    found = [name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    if not found:
        is_half = (folder / "merges.txt").is_file()
        raise UnusableWeights(f"there is no {'vocab.json beside merges.txt' if is_half else 'tokenizer.json'}: {_COPY}")
    if not (folder / _SETTINGS).is_file():
        raise UnusableWeights(f"there is no {_SETTINGS}, which decides the tokens of a text: {_COPY}")
    if found == ["tokenizer.model"] and not is_sentencepiece_available():
        raise UnusableWeights(
            "there is no tokenizer.json, and tokenizer.model is only read after pip install sentencepiece"
        )
    if found == ["vocab.json"]:
        _check_merges(folder)


def _has_image_processor(folder: Path) -> bool:
    file = folder / "processor_config.json"
    return file.is_file() and isinstance(read_object(file).get("image_processor"), dict)


def _check_merges(folder: Path) -> None:
    """Raises ``UnusableWeights`` if merges.txt lacks merges that give tokens of vocab.json, as a file that is cut off
    does."""
    vocabulary = read_object(folder / "vocab.json")
    if not (folder / "merges.txt").is_file():
        raise UnusableWeights(f"there is no merges.txt beside vocab.json: {_COPY}")
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    merged = {"".join(pair) for pair in pairs if len(pair) == 2}
    unmerged = [t for t in vocabulary if len(t) > 1 and t not in merged and not _SPECIAL.fullmatch(t)]
    is_cut = not pairs or len(pairs[-1]) != 2 or "".join(pairs[-1]) not in vocabulary
    if is_cut or len(unmerged) > max(_MAX_UNMERGED * len(vocabulary), 1):
        raise UnusableWeights(f"merges.txt is cut off, or of another model than vocab.json: {_COPY}")
