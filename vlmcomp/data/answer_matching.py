"""When an answer is right: exact match for one reference, the VQA challenge's soft accuracy for ten."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

_ENOUGH = 3  # humans who must agree for full marks


def normalise(text: str) -> str:
    """What exact match compares: no outer space, lower case, no full stop at the end."""
    return text.strip().lower().removesuffix(".").rstrip()


def exact_match(answer: str, reference: str) -> bool:
    return normalise(answer) == normalise(reference)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Soft accuracy of the VQA challenge (Antol et al., arXiv 1505.00468), after its normalisation.

    The mean over the ways to leave one human out of min(humans who agree / 3, 1).

    Raises:
        ValueError: fewer than two references.
    """
    if len(references) < 2:
        raise ValueError("soft accuracy needs the answers of several people: use exact match for one reference")
    said = vqa_normalise(answer)
    agree = [vqa_normalise(r) == said for r in references]
    total = sum(agree)
    return sum(min((total - own) / _ENOUGH, 1.0) for own in agree) / len(agree)


def vqa_normalise(text: str) -> str:
    """The VQA challenge's normalisation: case, punctuation, articles, number words and lost apostrophes.

    Two things are done always that its evaluator does at times: references are normalised even where all humans agree,
    and "im", "ive" and "id've" get their apostrophes.
    """
    text = " ".join(text.replace("\n", " ").replace("\t", " ").split()).lower()
    text = _full_stops.sub("", _punctuation(text))
    words = (_NUMBERS.get(word, word) for word in text.split())
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in ("a", "an", "the"))


def _punctuation(text: str) -> str:
    """A mark at a word's edge, or any mark in a text with a number such as 1,000, goes; another leaves a space."""
    numbers, whole = _comma_in_number.search(text) is not None, text
    for mark in ';/[]"{}()=+\\_-><@`,?!':
        edge = f"{mark} " in whole or f" {mark}" in whole or numbers
        text = text.replace(mark, "" if edge else " ")
    return text


_full_stops = re.compile(r"\.(?!\d)")
_comma_in_number = re.compile(r"\d,\d")
_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_COUNTED)}
_WORDS = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't
must've needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's
there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"""


def _without_apostrophes(word: str) -> list[str]:
    """``word`` with one or more of its apostrophes lost."""
    places = [i for i, letter in enumerate(word) if letter == "'"]
    lost = [gone for count in range(1, len(places) + 1) for gone in combinations(places, count)]
    return ["".join(c for i, c in enumerate(word) if i not in gone) for gone in lost]


_APOSTROPHES = {lost: word for word in _WORDS.split() for lost in _without_apostrophes(word)}
