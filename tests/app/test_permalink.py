"""Links to a state of the page: they come back as they were, and what they say is checked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vlmcomp.app import compare_tab, permalink, results
from vlmcomp.app.permalink import Link


def test_links_come_back_as_they_were() -> None:
    full = Link(
        tab="explore",
        model="blip2-shapes",
        variants=("fp16", "heads25+ffn30+int4"),
        example="scene-13",
        question="Is there a <b>star</b> & a 100 % circle, please?",
        hardware=results.hardware()[-1],
        families=("llava-shapes", "blip2-shapes"),
        techniques=("MLP pruned", "combined"),
        axis="size",
        fits="12.5MB",
        least=80.0,
        opened="llava-shapes/glu30+int4",
        memory="70MB",
        loss=2.5,
        goal="speed",
        task="easy-vqa",
    )
    for state in (Link(), full, replace(full, tab="choose", variants=())):
        assert permalink.read(_query(state.query())) == (state, [])
    assert Link().query() == "?"


def test_the_tab_was_called_view_and_the_apis_view_is_not_ours() -> None:
    for tab in permalink.TABS:
        assert permalink.read({"view": tab}) == permalink.read({"tab": tab}) == (Link(tab=tab), [])
    for view in ("api", "settings", "<b>"):
        assert permalink.read({"view": view}) == (Link(), [])
        assert not set(permalink.current_names({"view": view})) & set(permalink.NAMES)


def _query(text: str) -> dict[str, str]:
    from urllib.parse import parse_qsl

    return dict(parse_qsl(text.removeprefix("?")))


@pytest.mark.parametrize(
    "query",
    [
        {"model": "gpt"},
        {"tab": "../etc"},
        {"variants": "fp16,int5"},
        {"variants": ",".join(["fp16"] * 3 + [f"glu{i}+fp16" for i in range(10, 20)])},
        {"example": "../../secret"},
        {"question": "x" * 600},
        {"hardware": "no"},
        {"families": "llava-shapes,<b>"},
        {"fits": "-1GB"},
        {"least": "nan"},
        {"least": "1e99"},
        {"opened": "llava-shapes/none"},
        {"loss": "much"},
        {"goal": "beauty"},
        {"task": "no-such-task"},
    ],
)
def test_a_bad_part_of_a_link_is_named_and_left_as_usual(query: dict[str, str]) -> None:
    found, bad = permalink.read({**query, "utm_source": "x"})
    assert found == Link() and bad == list(query)


def test_a_drawn_scene_is_restored_by_its_seed() -> None:
    link, invalid = permalink.read({"example": "drawn-17"})
    assert link.example == "drawn-17" and not invalid
    one, other = compare_tab.load_example("drawn-17"), compare_tab.load_example("drawn-17")
    assert one[0].tobytes() == other[0].tobytes() and one[1:] == other[1:] and one[2]["answer"]
    assert permalink.read({"example": "drawn-x"})[1] == ["example"]
