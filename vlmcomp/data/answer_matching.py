"""How right an answer is: exact match for one reference, the VQA challenge's soft accuracy for several."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from vlmcomp.data.unicode_text import fold
from vlmcomp.results.schema import EXACT_MATCH, VQA_ACCURACY
from vlmcomp.results.store import Predictions

_FULL_AGREEMENT = 3  # people, besides the one left out, who must agree for an accuracy of 1


def normalize(text: str) -> str:
    """Normalize for exact match: no surrounding whitespace, lower case, no full stop of any script at the end.

    Forms that Unicode calls compatible are equal (``unicode_text.fold``). A full stop alone stays.
    """
    text = fold(text).strip().lower()
    return text[:-1].rstrip() or text if text.endswith(_SENTENCE_ENDS) else text


def exact_match(answer: str, reference: str) -> bool:
    """Whether the answers are equal after ``normalize``."""
    return normalize(answer) == normalize(reference)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Soft accuracy of the VQA challenge (Antol et al., arXiv 1505.00468), after its normalization.

    The mean of min(people who agree / 3, 1) over all subsets that leave one person out. That is the share of people who
    agree if they are four; of one to three people, to whom the formula would never give 1, it is that share as well.

    Raises:
        ValueError: no references.
    """
    if not references:
        raise ValueError("VQA accuracy needs the answer of at least one person")
    normalized = normalize_vqa(answer)
    matches = [normalize_vqa(reference) == normalized for reference in references]
    total = sum(matches)
    if len(matches) <= _FULL_AGREEMENT:
        return total / len(matches)
    return sum(min((total - match) / _FULL_AGREEMENT, 1.0) for match in matches) / len(matches)


def choose_metric(predictions: Predictions) -> str:
    """The score that judges a task: VQA accuracy if several people answered every question, else exact match."""
    return VQA_ACCURACY if all("references" in row for row in predictions) else EXACT_MATCH


def score_answer(prediction: Mapping[str, Any], metric: str) -> float:
    """The score of one answer, from 0 to 1, by ``metric`` of ``choose_metric``."""
    if metric == VQA_ACCURACY:
        return vqa_accuracy(prediction["answer"], prediction["references"])
    return float(exact_match(prediction["answer"], prediction["reference"]))


def normalize_vqa(text: str) -> str:
    """Normalize as the VQA challenge: case, punctuation, articles, number words and missing apostrophes.

    Two steps are unconditional here and conditional in its evaluator: references are normalized even if all annotators
    agree, and "im", "ive" and "id've" get their apostrophes. Its evaluator knows the punctuation of ASCII, of which the
    result is the same here; that of other scripts is treated alike, after ``unicode_text.fold``.
    """
    text = " ".join(_APOSTROPHE.sub("'", fold(text)).split()).lower()
    text = _FULL_STOPS.sub("", _replace_punctuation(text))
    words = (_NUMBERS.get(word, word) for word in text.split())
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in ("a", "an", "the"))


def _replace_punctuation(text: str) -> str:
    """Delete marks at a word's edge, and all marks if the text has a number such as 1,000; others become spaces."""
    original = text
    has_large_number = _COMMA_IN_NUMBER.search(text) is not None
    others = {c for c in text if not c.isascii() and unicodedata.category(c).startswith("P")}
    for mark in (*_PUNCTUATION, *others):
        at_edge = f"{mark} " in original or f" {mark}" in original
        text = text.replace(mark, "" if at_edge or has_large_number else " ")
    return text


_SENTENCE_ENDS = tuple(".。।॥۔።։။។།")  # of Latin, Chinese, Indic, Urdu, Ethiopic, Armenian, Burmese, Khmer, Tibetan
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # of the challenge's evaluator, in its order
_APOSTROPHE = re.compile(r"(?<=\w)’(?=\w)")
_FULL_STOPS = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_CONTRACTIONS = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd
somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've
something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't
we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's
who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll
you're you've"""


def _without_apostrophes(word: str) -> list[str]:
    """The spellings of ``word`` with one or more of its apostrophes missing."""
    positions = [i for i, letter in enumerate(word) if letter == "'"]
    spellings = []
    for count in range(1, len(positions) + 1):
        for missing in combinations(positions, count):
            spellings.append("".join(letter for i, letter in enumerate(word) if i not in missing))
    return spellings


_APOSTROPHES = {spelling: word for word in _CONTRACTIONS.split() for spelling in _without_apostrophes(word)}
