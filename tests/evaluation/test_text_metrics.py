"""The metrics themselves, run for real: known values, bounds, and that shortcuts change nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from vlmcomp.data.answer_matching import exact_match
from vlmcomp.evaluation import text_metrics, unicode_words

PAIRS = [
    ("The circle is red.", "The circle is red."),
    ("red", "red"),
    ("blue", "red"),
    ("There are two circles.", "There are three circles."),
    ("", "red"),
]


@pytest.mark.parametrize("answer", ["red", "Red", " red. ", "RED.", "red ."])
def test_exact_match_forgives_case_space_and_full_stop(answer: str) -> None:
    assert exact_match(answer, "red")


@pytest.mark.parametrize("answer", ["", "reddish", "a red", "red, red", "red!"])
def test_exact_match_forgives_nothing_else(answer: str) -> None:
    assert not exact_match(answer, "red")


def test_meteor_is_the_documented_one() -> None:
    hypothesis = "It is a guide to action which ensures that the military always obeys the commands of the party"
    reference = "It is a guide to action that ensures that the military will forever heed Party commands"
    one_word, sentence, wrong = text_metrics.meteor([("red", "red"), (hypothesis, reference), ("blue", "red")])
    assert one_word == 0.5  # one chunk of one word: the whole penalty
    assert sentence == pytest.approx(0.6944, abs=1e-4)  # the value in nltk's documentation
    assert wrong == 0.0


def test_wordnet_is_really_consulted() -> None:
    assert text_metrics.meteor([("car", "auto"), ("car", "dog")]) == [0.5, 0.0]
    description = text_metrics.load_wordnet().description
    assert "WordNet 3.0" in description and "2007" in description


def test_rouge_counts_words_not_order() -> None:
    assert text_metrics.rouge1([("red is it", "it is red"), ("It is red.", "it is red"), ("blue", "red")]) == [
        1.0,
        1.0,
        0.0,
    ]
    assert text_metrics.rouge1([("one two", "one three")]) == [0.5]


@pytest.mark.parametrize(
    ("right", "half", "wrong"),
    [("红色", "红蓝", "天空"), ("красный шар", "красный куб", "синий куб"), ("لون أحمر", "لون أزرق", "شكل آخر")],
)
def test_other_scripts_have_words_too(right: str, half: str, wrong: str) -> None:
    pairs = [(right, right), (half, right), (wrong, right)]
    assert text_metrics.rouge1(pairs) == [1.0, 0.5, 0.0]
    same, partly, different = text_metrics.meteor(pairs)
    assert same > partly > different == 0.0


def test_words_of_ascii_are_those_of_rouge() -> None:
    from rouge_score.tokenize import tokenize

    for text in ("It's a red_ball, 3.5 cm!", "T-shirt\tnot\nshirt", "", "..."):
        assert unicode_words.split(text) == [word for word in tokenize(text, None) if word]


def test_bertscore_knows_same_near_and_far() -> None:
    scores, name = text_metrics.bertscore(
        [*PAIRS[:1], ("A dog runs.", "The dog is running."), ("Yes.", "A quiet sea.")], "minilm"
    )
    assert scores[0] == pytest.approx(1.0, abs=1e-4)
    assert scores[0] > scores[1] > scores[2]
    assert "MiniLM" in name and "bert-score" in name and "transformers" in name


def test_empty_and_endless_answers_are_scored() -> None:
    scores = text_metrics.text_scores(["", " ", "red " * 2000], ["red"] * 3, "minilm")
    assert 0 <= scores.composite < 0.5
    assert text_metrics.text_scores([""], ["red"], "minilm").composite == 0


def test_composite_is_the_mean_over_every_sample() -> None:
    answers, references = zip(*(PAIRS * 3 + PAIRS[:1] * 5), strict=True)
    scores = text_metrics.text_scores(answers, references, "minilm")
    one_by_one = [text_metrics.text_scores([a], [r], "minilm") for a, r in zip(answers, references, strict=True)]
    for name in ("meteor", "rouge1", "bertscore_f1"):
        mean = sum(getattr(s, name) for s in one_by_one) / len(one_by_one)
        assert getattr(scores, name) == pytest.approx(mean, abs=1e-5), name
    assert scores.composite == pytest.approx((scores.meteor + scores.rouge1 + scores.bertscore_f1) / 3)


def test_what_cannot_be_scored_is_refused() -> None:
    for answers, references in (([], []), (["a"], ["a", "b"])):
        with pytest.raises(ValueError, match="as many answers"):
            text_metrics.text_scores(answers, references, "minilm")
    with pytest.raises(ValueError, match="choose from auto, minilm"):
        text_metrics.bertscore([("a", "b")], "bert")


def test_wordnet_is_made_ready_in_an_empty_home(tmp_path: Path) -> None:
    code = (
        "from vlmcomp.evaluation import text_metrics as m\n"
        "print(m.load_wordnet().description); print(m.meteor([('red', 'red')]))"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == "[0.5]"
    assert not list(tmp_path.rglob(".wordnet*"))  # nothing half made stays


def test_importing_the_metrics_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'nltk', 'bert_score'}"
    code = f"import sys, vlmcomp.evaluation.text_metrics; sys.exit(' '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_evaluate_loads_the_composite_without_a_network() -> None:
    import evaluate

    module = evaluate.load(str(Path(text_metrics.__file__).with_name("evaluate_module.py")))
    answers, references = zip(*PAIRS, strict=True)
    found = module.compute(predictions=answers, references=references, encoder="minilm")
    assert found == asdict(text_metrics.text_scores(answers, references, "minilm"))
