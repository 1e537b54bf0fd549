"""When an answer is right: exact match, and the VQA challenge's accuracy on cases worked out by hand."""

from __future__ import annotations

import pytest

from vlmcomp.data.answer_matching import normalize_vqa, vqa_accuracy


@pytest.mark.parametrize(("agree", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_three_other_humans_make_an_answer_right(agree: int, accuracy: float) -> None:
    assert vqa_accuracy("red", ["red"] * agree + ["blue"] * (10 - agree)) == pytest.approx(accuracy)


@pytest.mark.parametrize("people", [1, 2, 3, 4])
def test_few_people_count_by_their_share(people: int) -> None:
    for agree in range(people + 1):
        given = ["red"] * agree + ["blue"] * (people - agree)
        assert vqa_accuracy("red", given) == pytest.approx(agree / people)


@pytest.mark.parametrize("people", range(1, 13))
def test_what_everybody_says_is_right_and_more_people_never_make_it_less(people: int) -> None:
    scores = [vqa_accuracy("red", ["red"] * agree + ["blue"] * (people - agree)) for agree in range(people + 1)]
    assert scores == sorted(scores) and scores[0] == 0 and scores[-1] == 1


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The cat.", "cat"),
        ("a red  ball\n", "red ball"),
        ("Two", "2"),
        ("none", "0"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("YOURE", "you're"),
        ("its", "its"),
        ("well", "well"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("yes, sir", "yes sir"),
        ("black/white", "black white"),
        ("t-shirt", "t shirt"),
        ("a/-b c-d", "b c d"),
        ("is it?", "is it"),
        ("", ""),
    ],
)
def test_normalisation(text: str, normal: str) -> None:
    assert normalize_vqa(text) == normal
    assert normalize_vqa(normal) == normal


def test_style_does_not_count_and_somebody_must_have_answered() -> None:
    assert vqa_accuracy("The red ball!", ["a red ball"] * 10) == 1.0
    with pytest.raises(ValueError, match="at least one person"):
        vqa_accuracy("red", [])
