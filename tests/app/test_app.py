"""The app as programs meet it: a real server and a real model."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from functools import partial

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from tests.support.served import BLUE, QUESTION, app
from vlmcomp.app import handlers, page, recommend_tab, results
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.engine import Engine
from vlmcomp.serving import backend, recorded, recording


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with app() as address:
        yield Client(address, verbose=False)


def test_the_page_is_titled_where_its_address_is_posted(client: Client) -> None:
    served = urllib.request.urlopen(client.src).read().decode()
    for tag, text in (("title", "vlmcomp: what compression costs"), ("description", page.DESCRIPTION)):
        assert served.count(f'property="og:{tag}" content="{text}') == 1
        assert served.count(f'name="twitter:{tag}" content="{text}') == 1
    assert '"Gradio"' not in served.partition("</head>")[0]


def test_fp16_and_int8_answer_an_easy_vqa_test_image(client: Client) -> None:
    asked = ["llava-shapes/int8", "llava-shapes/fp16"]
    cards = client.predict(handle_file(BLUE), QUESTION, asked, api_name="/compare")
    assert [c["recipe"] for c in cards] == ["llava-shapes/fp16", "llava-shapes/int8"]
    assert [c["answer"] for c in cards] == ["blue", "blue"]
    assert cards[1]["agrees_with_fp16"] is True and cards[0]["weight_bytes"] > cards[1]["weight_bytes"]
    assert all(c["device"] and c["recorded"] is None and c["error"] is None for c in cards)


@pytest.mark.parametrize(
    "question, recipes, sentence",
    [
        ("", ["llava-shapes/fp16"], "no question"),
        ("a" * 501, ["llava-shapes/fp16"], "at most 500"),
        ("Is there a star?", [], "no variant"),
        ("Is there a star?", "llava-shapes/fp16", "must be a list"),
        ("Is there a star?", [5], "no variant"),
        ("Is there a star?", ["llava-shapes/int5"], "did you mean"),
        ("Is there a star?", ["../../etc/fp16"], "not a recipe"),
        ("Is there a star?", ["gpt/fp16"], "unknown model"),
        ("Is there a star?", ["llava-shapes/<b>x</b>"], "&lt;b&gt;"),
    ],
)
def test_bad_input_is_one_sentence_and_the_app_goes_on(client: Client, question, recipes, sentence: str) -> None:
    with pytest.raises(AppError, match=sentence):
        client.predict(handle_file(BLUE), question, recipes, api_name="/compare")
    assert client.predict(None, "llava-shapes", api_name="/results") == results.to_records(model="llava-shapes")


def test_a_file_that_is_no_image_is_one_sentence(client: Client, tmp_path) -> None:
    page_file = tmp_path / "page.png"
    page_file.write_text("<script>alert(1)</script>")
    for image, sentence in ((handle_file(page_file), "cannot be read"), (None, "no image")):
        with pytest.raises(AppError, match=sentence):
            client.predict(image, "Is there a star?", ["llava-shapes/fp16"], api_name="/compare")


def test_results_and_recommend_answer_programs(client: Client) -> None:
    assert client.predict(api_name="/results") == results.to_records()
    with pytest.raises(AppError, match="no results of hardware"):
        client.predict("no-machine", None, api_name="/results")
    told = client.predict("llava-shapes", "8GB", 5.0, "memory", api_name="/recommend")
    found = recommend_tab.advise("llava-shapes", "8GB", 5.0, "memory")
    assert told["recipe"] == str(found.best.recipe) and told["measured"] is True
    assert told["command"] == found.command and told["python"] == found.python
    for wish, sentence in (
        (("llava-shapes", "lots", 1.0, "memory"), "not an amount"),
        (("gpt", "8GB", 1.0, "memory"), "unknown model"),
        (("llava-shapes", "8GB", -3.0, "memory"), "0 to 100"),
        (("llava-shapes", "8GB", "some", "memory"), "number of points"),
        (("llava-shapes", 8, 1.0, "memory"), "must be strings"),
    ):
        with pytest.raises(AppError, match=sentence):
            client.predict(*wish, api_name="/recommend")


def test_the_three_endpoints_are_named_and_say_what_they_take(client: Client) -> None:
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {"/compare", "/recommend", "/results"}
    assert [p["parameter_name"] for p in named["/recommend"]["parameters"]] == [
        "model",
        "memory",
        "loss_points",
        "goal",
        "task",
    ]
    assert all(named[name]["description"] for name in named)


def test_where_nothing_runs_examples_are_answered_from_recordings(client: Client, built, monkeypatch, tmp_path) -> None:
    vlm = built("llava-shapes/fp16")
    recorded.save(recording.record_answers(Engine(vlm), rounds=1), "cpu", tmp_path)
    monkeypatch.setattr(recorded, "lookup", partial(recorded.lookup, root=tmp_path))
    monkeypatch.setattr(handlers, "backend", backend.RecordedBackend)
    asked = ["llava-shapes/fp16", "llava-shapes/int8"]
    fp16 = Recipe.parse("llava-shapes/fp16")
    for example in handlers.examples():
        dense, other = client.predict(handle_file(example.image), example.question, asked, api_name="/compare")
        found = recorded.lookup([fp16], recorded.open_image(example.image), example.question)[fp16]
        assert dense["answer"] == found.answer.text and dense["recorded"].startswith("recorded on ")
        assert found.date[:10] in dense["recorded"] and dense["device"] is None
        assert other["answer"] is None and "recorded" in other["error"]
    (alone,) = client.predict(handle_file(BLUE), "Is there a star?", asked[:1], api_name="/compare")
    assert "choose one of the examples" in alone["error"]
