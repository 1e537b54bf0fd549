"""Text in any script: a model gets it as it was written, and comparisons know the forms that are the same."""

from __future__ import annotations

import random
import re
import string
import unicodedata

import pytest

from vlmcomp.data.answer_matching import exact_match, normalize_vqa, vqa_accuracy
from vlmcomp.data.images import MAX_QUESTION, normalize_question
from vlmcomp.evaluation import text_metrics

PERSIAN, HINDI, FAMILY = "این می\u200cروم است؟", "क्\u200dष क्\u200cष", "👨\u200d👩\u200d👧 ❤\ufe0f"
WRITTEN = [
    PERSIAN,
    HINDI,
    FAMILY,
    "co\u00adop\u00aderate?",
    "שלום \u200f(עולם)\u200e",
    "quel\u00a0âge\u202f?",
    "形\u3000是什么？",
    "cafe\u0301?",
    "Which one?\nA. red\nB. blue",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_a_question_is_asked_as_it_was_written(text: str) -> None:
    assert normalize_question(f" {text}\r\n") == text


def test_control_characters_are_removed_and_line_ends_are_one() -> None:
    assert normalize_question("a\0\x1b\x7f\x9b\ud800b") == "ab"
    ends = ("\r\n", "\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029")
    assert {normalize_question(f"a{end}b") for end in ends} == {"a\nb"}


@pytest.mark.parametrize("text", ["\u200b", "\u200d\u200c", "\ufeff \n", "\u00ad", "\u202e\u00a0", "\u0301"])
def test_what_nobody_sees_is_no_question(text: str) -> None:
    with pytest.raises(ValueError, match="no question"):
        normalize_question(text)


@pytest.mark.parametrize("text", [5, 1.5, b"What?", ["What?"], {"a": 1}, {}, [], 0, False])
def test_what_is_no_text_is_no_question(text: object) -> None:
    with pytest.raises(ValueError, match="the question must be a text, not"):
        normalize_question(text)  # type: ignore[arg-type]


def test_a_long_question_is_measured_as_it_is_asked() -> None:
    assert len(normalize_question("a" * MAX_QUESTION + " \0\n")) == MAX_QUESTION


SAME = [
    ("红色。", "红色"),
    ("红色．", "红色"),
    ("红色｡", "红色"),
    ("लाल।", "लाल"),
    ("লাল।", "লাল"),
    ("سرخ۔", "سرخ"),
    ("ቀይ።", "ቀይ"),
    ("ကြ။", "ကြ"),
    ("ក្រហម។", "ក្រហម"),
    ("ＲＥＤ", "red"),
    ("４２", "42"),
    ("ｱｶ", "アカ"),
    ("cafe\u0301", "café"),
    ("가", "\u1100\u1161"),
    ("\u00a0red\u3000", "red"),
    ("ﻣﺮﺣﺒﺎ", "مرحبا"),
    ("ﬁve", "five"),
    ("❤", "❤\ufe0f"),
    ("\ufeffred\u200e", "red"),
    ("co\u00adop", "coop"),
]
DIFFERENT = [
    ("2⁵", "25"),
    ("H₂O", "H2O"),
    ("1½", "11/2"),
    ("cafe", "café"),
    ("红", "红色"),
    ("می\u200cروم", "میزوم"),
    ("👍", "👎"),
    ("", "."),
    ("", "。"),
    ("+", "-"),
    ("１", "2"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_forms_of_one_answer_are_equal(one: str, other: str) -> None:
    assert exact_match(one, other) and exact_match(other, one)
    assert vqa_accuracy(one, [other] * 10) == vqa_accuracy(other, [one] * 10) == 1
    assert text_metrics.rouge1([(one, other), (other, one)]) == [1, 1]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_answers_stay_different(one: str, other: str) -> None:
    assert not exact_match(one, other) and not exact_match(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("红色！", "红色"),
        ("（红色）", "红色"),
        ("红色，蓝色", "红色 蓝色"),
        ("«красный»", "красный"),
        ("„rot“", "rot"),
        ("¿rojo?", "rojo"),
        ("don’t", "don't"),
        ("dont", "don’t"),
        ("１，０００", "1000"),
        ("赤・青", "赤 青"),
        ("أحمر؟", "أحمر"),
        ("red—blue", "red blue"),
    ],
)
def test_marks_of_every_script_are_those_of_the_challenge(one: str, other: str) -> None:
    assert vqa_accuracy(one, [other] * 10) == vqa_accuracy(other, [one] * 10) == 1


@pytest.mark.parametrize("text", ["+", "%", "-", "?!", "👍", "👨\u200d👩\u200d👧", "→ ←", "€", "¬", "。", "\u200b+"])
def test_an_answer_of_symbols_has_a_rouge(text: str) -> None:
    same, other, word, nothing = text_metrics.rouge1([(text, text), (text, "$"), (text, "red"), ("", text)])
    assert same == 1 and other == word == nothing == 0
    bert, _ = text_metrics.bertscore([(text, text)], "minilm")
    assert bert[0] == pytest.approx(1) and text_metrics.meteor([(text, text)])[0] >= 0.5


def test_words_are_whole_in_scripts_with_joiners() -> None:
    assert text_metrics.rouge1([("می\u200cروم", "می\u200cخورم")]) == [0]
    assert text_metrics.rouge1([("C++ 5 %", "c 5")]) == [1]


def _official(text: str, contractions: dict[str, str]) -> str:
    """``vqaEval.py`` of the challenge, as published: processPunctuation, then processDigitArticle."""
    numbers = ["none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    manual = {word: str(max(0, i - 1)) for i, word in enumerate(numbers)}
    text = text.replace("\n", " ").replace("\t", " ").strip()
    out = text
    for mark in ';/[]"{}()=+\\_-><@`,?!':
        if (mark + " " in text or " " + mark in text) or re.search(r"(\d)(\,)(\d)", text) is not None:
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    out = re.compile(r"(?!<=\d)(\.)(?!\d)").sub("", out)
    words = [manual.get(word, word) for word in out.lower().split()]
    words = [word for word in words if word not in ("a", "an", "the")]
    return " ".join(contractions.get(word, word) for word in words)


def test_english_is_scored_as_the_challenge_does_bit_for_bit() -> None:
    from vlmcomp.data.answer_matching import _APOSTROPHES

    rng = random.Random(0)
    words = ["The", "a", "RED", "Two", "none", "1,000", "3.5", "dont", "i'm", "t-shirt", "yes", "7:30", "it's", "$5"]
    for _ in range(3000):
        parts = rng.choices([*words, *string.punctuation, *string.digits, "\n", "\t"], k=rng.randrange(7))
        text = "".join(part + rng.choice(("", " ")) for part in parts)
        text = " ".join(text.split())  # ours also joins runs of spaces, which words cannot tell
        assert normalize_vqa(text) == _official(text, _APOSTROPHES), text


def test_scores_of_ascii_text_know_no_unicode() -> None:
    for text in ("Red.", "1/2", "a  b", "x^2", "...", ".", "..", "C:\\x", "\x1cred"):
        assert unicodedata.normalize("NFKC", text) == text
        assert exact_match(text, text)
