"""Every answer about a scene of things follows from the scene, by a second reading of question and scene."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from vlmcomp.data import objects_vqa
from vlmcomp.data.object_questions import BRIEFLY, NUMBERS, TYPES, sample_question
from vlmcomp.data.object_scenes import PlacedThing, Scene, sample_scene
from vlmcomp.data.object_sprites import HELD_OUT, TRAIN, TRAIN_ONLY, renderings
from vlmcomp.data.object_things import KINDS, PROPERTIES, things
from vlmcomp.data.questions import Question
from vlmcomp.data.task_registry import get_task
from vlmcomp.data.tasks import majority_baseline

SCORES: dict[str, Callable[[PlacedThing], float]] = {
    "leftmost": lambda t: t.x,
    "rightmost": lambda t: -t.x,
    "highest": lambda t: t.y,
    "lowest": lambda t: -t.y,
    "largest": lambda t: -t.size,
    "smallest": lambda t: t.size,
}
NOUNS = {words.things: name for name, words in PROPERTIES.items()}
PREDICATES = {form: name for name, words in PROPERTIES.items() for form in (words.singular, words.plural)}


def _is_beside(side: str, a: PlacedThing, b: PlacedThing) -> bool:
    return {"left of": a.x < b.x, "right of": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}[side]


def _named(scene: Scene, name: str) -> PlacedThing:
    [found] = [t for t in scene.objects if t.name.lower() == name]
    return found


def _subject(scene: Scene, text: str) -> PlacedThing:
    """The thing that a phrase at the end of a question denotes."""
    if text == "this":
        [only] = scene.objects
        return only
    if word := re.fullmatch(r"the (\w+) thing", text):
        return min(scene.objects, key=SCORES[word[1]])
    anchor = _named(scene, re.fullmatch(r"(?:the thing )?nearest to the (.+)", text)[1])
    others = [t for t in scene.objects if t is not anchor]
    return min(others, key=lambda t: (t.x - anchor.x) ** 2 + (t.y - anchor.y) ** 2)


def _clear(thing: PlacedThing, name: str) -> bool:
    answer = thing.thing.has(name)
    assert answer is not None, f"people may argue whether {thing.name} has {name}"
    return answer


def _yes_or_no(truth: bool) -> str:
    return "yes" if truth else "no"


def _count(scene: Scene, what: str) -> str:
    counted = list(scene.objects)
    if place := re.fullmatch(r"(.+) are (left of|right of|above|below) the (.+)", what):
        what = place[1]
        counted = [t for t in counted if _is_beside(place[2], t, _named(scene, place[3]))]
    what = re.sub(r" are (there|in the picture)$", "", what)
    if what != "things":
        counted = [t for t in counted if _clear(t, NOUNS[what])]
    return NUMBERS[len(counted)]


def _exists(scene: Scene, what: str) -> str:
    if form := re.fullmatch(r"anything that (.+)", what):
        return _yes_or_no(any(_clear(t, PREDICATES[form[1]]) for t in scene.objects))
    if f"is {what}" in PREDICATES:
        return _yes_or_no(any(_clear(t, PREDICATES[f"is {what}"]) for t in scene.objects))
    assert what in {thing.phrase.lower() for thing in things().values()}
    return _yes_or_no(any(t.thing.phrase.lower() == what for t in scene.objects))


def _which(scene: Scene, predicate: str) -> str:
    positive = re.sub(r"^(is) not |^(can)not ", lambda m: f"{m[1] or m[2]} ", predicate).removeprefix("does not ")
    name = PREDICATES[positive]
    [found] = [t for t in scene.objects if _clear(t, name) == (positive == predicate)]
    return found.name


def _predicate(scene: Scene, verb: str, rest: str) -> str:
    for form, name in PREDICATES.items():
        spoken = form if form.startswith(("is ", "can ")) else f"does {form}"
        first, _, last = spoken.partition(" ")
        if first == verb and rest.endswith(f" {last}"):
            return _yes_or_no(_clear(_subject(scene, rest.removesuffix(f" {last}")), name))
    raise AssertionError(rest)


def solve(scene: Scene, question: str) -> str:
    """The short answer to ``question``."""
    text = question.lower().removesuffix(BRIEFLY.lower()).strip().rstrip("?.")
    if text in ("what is this", "what does the picture show", "what do you see"):
        return _subject(scene, "this").name
    rules: list[tuple[str, Callable[..., str]]] = [
        (r"what kind of thing is (.+)", lambda s: KINDS[_subject(scene, s).thing.category]),
        (r"what letter does the name of (.+) begin with", lambda s: _subject(scene, s).name[0]),
        (r"what color is (this|the thing nearest.+)", lambda s: str(_subject(scene, s).color)),
        (r"what color (?:is|are) the (.+)", lambda s: str(_named(scene, s).color)),
        (r"(?:how many|count the) (.+)", lambda s: _count(scene, s)),
        (r"which (?:of these|thing) (.+)", lambda s: _which(scene, s)),
        (r"(?:is|are) there (.+?)(?: in the picture)?", lambda s: _exists(scene, s)),
        (
            r"(?:is|are) the (.+) (left of|right of|above|below) the (.+)",
            lambda a, side, b: _yes_or_no(_is_beside(side, _named(scene, a), _named(scene, b))),
        ),
        (
            r"what is (left of|right of|above|below) the (.+)",
            lambda side, b: next(
                t.name for t in scene.objects if t.name.lower() != b and _is_beside(side, t, _named(scene, b))
            ),
        ),
        (r"what is (.+)", lambda s: _subject(scene, s).name),
        (r"(is|can|does) (.+)", lambda verb, s: _predicate(scene, verb, s)),
    ]
    for pattern, rule in rules:
        if match := re.fullmatch(pattern, text):
            return rule(*match.groups())
    assert re.match(r"describe the picture|list everything", text), text
    names = [t.thing.phrase for t in sorted(scene.objects, key=lambda t: t.x)]
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]


def _agree(question: Question, truth: str) -> bool:
    """Whether the reference, in the style that the question asks for, says ``truth``."""
    answer, truth = question.answer.lower(), truth.lower()
    if question.text.lower().endswith(BRIEFLY.lower()):
        return answer == truth
    if truth in ("yes", "no"):
        return answer.startswith(f"{truth}, ") and answer.endswith(".")
    if truth == NUMBERS[0]:
        return answer.startswith("there are no ")
    return bool(re.search(rf"(?<!\w){re.escape(truth)}(?!\w)", answer)) and answer.endswith(".")


@pytest.mark.parametrize("roles", [(TRAIN, TRAIN_ONLY), (HELD_OUT,)], ids=["training", "held-out artist"])
def test_every_answer_follows_from_the_scene(roles: tuple[str, ...]) -> None:
    rng = random.Random(f"answers-{roles}")
    seen: Counter[str] = Counter()
    for _ in range(1500):
        scene = sample_scene(rng, roles)
        for _ in range(4):
            question = sample_question(rng, scene)
            seen[question.type] += 1
            assert _agree(question, solve(scene, question.text)), (question, scene)
    assert set(seen) == set(TYPES) and min(seen.values()) > 100


def test_sentences_agree_in_number() -> None:
    """ "The scissors are", never "the scissors is"."""
    rng = random.Random("number")
    many = "|".join(thing.name for thing in things().values() if thing.number == "many")
    one = "|".join(thing.name for thing in things().values() if thing.number == "one")
    wrong = re.compile(rf"[Tt]he ({many}) (is|has|lives|does)\b|[Tt]he ({one}) (are|have|live|do)\b|\ban? ({many})\b")
    for _ in range(3000):
        question = sample_question(rng, sample_scene(rng, (TRAIN,)))
        assert not wrong.search(question.answer), question


def test_the_benchmark_holds_out_scenes_and_an_artist() -> None:
    samples = get_task("objects-vqa").all_samples
    by_axis = defaultdict(list)
    for sample in samples:
        by_axis[objects_vqa.held_out_axis(sample.id)].append(sample)
    assert {axis: len(found) for axis, found in by_axis.items()} == dict.fromkeys(objects_vqa.AXES, 1500)
    for axis, role in objects_vqa.AXES.items():
        scenes = [sample.load_image.args[0] for sample in by_axis[axis]]
        used = {renderings()[t.rendering].role for scene in scenes for t in scene.objects}
        assert used == {role} and {sample.type for sample in by_axis[axis]} == set(TYPES)
        asked = {(sample.id.rpartition("-")[0], sample.question.lower()) for sample in by_axis[axis]}
        assert len(asked) == 1500  # no question twice about a picture
        assert len({t.name for scene in scenes for t in scene.objects}) > 0.9 * len(things())


def test_the_benchmark_cannot_be_guessed() -> None:
    samples = get_task("objects-vqa").all_samples
    shares = majority_baseline([{"type": s.type, "reference": s.reference} for s in samples])
    counts = Counter(s.type for s in samples)
    assert sum(shares[name] * count for name, count in counts.items()) / len(samples) < 0.15
    page = (Path(__file__).resolve().parents[2] / "docs/objects.md").read_text(encoding="utf-8")
    assert f"| questions | {' | '.join(str(counts[name]) for name in TYPES)} | 3,000 |" in page
    assert f"| commonest answer, % | {' | '.join(f'{100 * shares[name]:.1f}' for name in TYPES)} |" in page
    assert shares["name"] < 0.02 and shares["which"] < 0.03 and shares["describe"] < 0.02
    for name in ("exist", "relation"):
        answers = Counter(s.reference.lower().partition(",")[0] for s in samples if s.type == name)
        assert 0.4 < answers["yes"] / (answers["yes"] + answers["no"]) < 0.6


def test_people_would_not_argue_about_what_is_missing() -> None:
    """A "no" is about a thing that nothing in the picture may be called."""
    rng = random.Random("missing")
    for _ in range(2000):
        scene = sample_scene(rng, (TRAIN,))
        question = sample_question(rng, scene)
        if question.type != "exist" or question.answer.lower().startswith("yes"):
            continue
        asked = re.sub(r"^(is|are) there (an? )?|( in the picture)?\?.*$", "", question.text.lower())
        assert not any(asked in t.name.lower().split() for t in scene.objects), question
