"""The Python API's models: what they answer, what they report, and that saving and sharing change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from PIL import Image

import vlmcomp
from tests.support import hub_server, space_server
from vlmcomp.runtime.engine import Engine

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "assets/examples/scene-6.png"
QUESTION = "How many circles are there?"
REPO = "user/llava-small"


@pytest.fixture
def model(built: Callable) -> vlmcomp.Model:
    return vlmcomp.Model(built("llava-shapes/int8"))


def test_answers_are_the_engines(model: vlmcomp.Model) -> None:
    expected = Engine(model.vlm).generate(Image.open(IMAGE).convert("RGB"), QUESTION).text
    assert model.ask(IMAGE, QUESTION).text == model.ask(Image.open(IMAGE), f" {QUESTION}\n").text == expected
    streamed = list(model.stream(str(IMAGE), QUESTION))
    assert streamed[-1].text == expected and [a.finished for a in streamed] == [False] * (len(streamed) - 1) + [True]
    assert model.generate([IMAGE, IMAGE], [QUESTION, QUESTION]) == [expected, expected]
    assert model.generate([], []) == []


def test_a_model_says_what_it_is(model: vlmcomp.Model) -> None:
    assert str(model.recipe) in repr(model) and "\n" not in repr(model)
    assert model.pruning == () and sum(model.size.values()) > 0
    with pytest.raises(AttributeError):
        model.recipe = vlmcomp.Recipe("llava-shapes")  # type: ignore[misc]
    with pytest.raises(TypeError):
        model.size["decoder MLP"] = 0  # type: ignore[index]


@pytest.mark.parametrize("length", [0, -1, 257])
def test_answer_length_is_limited(model: vlmcomp.Model, length: int) -> None:
    for call in (model.ask, model.stream):
        with pytest.raises(ValueError, match="max_new_tokens"):
            call(IMAGE, QUESTION, length)


def test_bad_input_is_refused(model: vlmcomp.Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no image file"):
        model.ask(tmp_path / "none.png", QUESTION)
    with pytest.raises(ValueError, match="no question"):
        model.stream(IMAGE, " ")  # before the first token is read
    with pytest.raises(ValueError, match="1 image and 2 questions"):
        model.generate([IMAGE], [QUESTION, QUESTION])


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_saved_model_answers_the_same(asked_before: bool, tmp_path: Path) -> None:
    model = vlmcomp.compress("llava-shapes", "int8", device="cpu")
    if asked_before:
        model.ask(IMAGE, QUESTION)
    model.save_pretrained(tmp_path / "small")
    loaded = vlmcomp.load(tmp_path / "small", device="cpu")
    assert loaded.recipe == model.recipe and loaded.size == model.size
    assert loaded.ask(IMAGE, QUESTION).text == model.ask(IMAGE, QUESTION).text


def test_calibration_data_decides_what_is_pruned(samples: list, tmp_path: Path) -> None:
    rows = [(image, question, answer) for image, question, answer in samples * 2]
    paths = [(tmp_path / f"{i}.png", question, answer) for i, (_, question, answer) in enumerate(rows)]
    for (image, _, _), (path, _, _) in zip(rows, paths):
        image.save(path)
    from_images = vlmcomp.compress("llava-shapes/glu20+fp16", calibration_data=iter(rows), device="cpu")
    from_paths = vlmcomp.compress("llava-shapes/glu20+fp16", calibration_data=paths, device="cpu")
    (step,) = from_images.pruning
    assert step.step == "glu20" and "16 samples" in step.calibration and (step,) == from_paths.pruning
    assert from_images.ask(IMAGE, QUESTION).text == from_paths.ask(IMAGE, QUESTION).text


@pytest.mark.parametrize(
    "arguments, settings, message",
    [
        (("llava-shapes",), {}, "is not a recipe"),
        (("llava-shapes/int8", "glu30+int8"), {}, "leave out steps"),
        ((vlmcomp.Recipe("llava-shapes"), "int8"), {}, "leave out steps"),
        (("no-such-model/int8",), {}, "unknown model"),
        (("llava-shapes/ffn30+int8",), {}, "use glu30"),
        (("llava-shapes/int8",), {"calibration_data": []}, "removes nothing"),
        (("llava-shapes/glu30+int8",), {"calibration_data": []}, "at least"),
        (("llava-shapes/glu30+int8",), {"calibration_data": ["text"]}, "calibration sample 0"),
        (("llava-shapes/glu30+int8",), {"calibration_data": "none.jsonl"}, "cannot be read"),
    ],
)
def test_what_cannot_be_compressed_is_refused(arguments: tuple, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vlmcomp.compress(*arguments, device="cpu", **settings)


@pytest.mark.parametrize("name", ["llava-shapes", "llava-shapes/int8", "llava-1.5-7b"])
def test_loading_a_model_name_points_to_compress(name: str) -> None:
    with pytest.raises(ValueError, match="is a model, not a saved checkpoint"):
        vlmcomp.load(name)


@pytest.mark.parametrize("name", ["nothing-there", "./nothing/there", "a/b/c"])
def test_loading_what_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no folder"):
        vlmcomp.load(name)


def test_loading_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a vlmcomp checkpoint"):
        vlmcomp.load(tmp_path)


@pytest.fixture
def spaces(monkeypatch: pytest.MonkeyPatch) -> Iterator[space_server.Spaces]:
    """A Hub that takes uploads, and a token for it."""
    with space_server.serve() as running:
        for name, value in (("ENDPOINT", running.url), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", space_server.TOKEN)
        yield running


def test_a_model_goes_to_the_hub_and_comes_back(
    model: vlmcomp.Model, spaces: space_server.Spaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model.push_to_hub(REPO) == f"{spaces.url}/{REPO}"
    assert spaces.commits == ["llava-shapes/int8"] and b"license: apache-2.0" in spaces.files[REPO]["README.md"]
    folder = tmp_path / "uploaded"
    folder.mkdir()
    for name, data in spaces.files[REPO].items():
        (folder / name).write_bytes(data)
    with hub_server.serve(REPO, folder) as running:
        hub_server.connect(running, tmp_path / "cache", monkeypatch)
        loaded = vlmcomp.load(REPO, device="cpu")
        with pytest.raises(ValueError, match="no model user/other"):
            vlmcomp.load("user/other", device="cpu")
    assert loaded.ask(IMAGE, QUESTION).text == model.ask(IMAGE, QUESTION).text


def test_a_repository_of_another_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with hub_server.serve(REPO, folder) as running:
        hub_server.connect(running, tmp_path / "cache", monkeypatch)
        with pytest.raises(ValueError, match="not a vlmcomp checkpoint"):
            vlmcomp.load(REPO, device="cpu")


def test_a_refused_upload_is_one_sentence(
    model: vlmcomp.Model, spaces: space_server.Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    spaces.create_error = 403, "You don't have the rights to create a model under this namespace"
    with pytest.raises(ValueError, match="may not write to user/llava-small") as refused:
        model.push_to_hub(REPO)
    assert "\n" not in str(refused.value)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ValueError, match="does not accept your token"):
        model.push_to_hub(REPO)
