"""Bad input through the app's endpoints: refused or handled in one sentence, no file read, and the app goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from tests.support.bad_images import accepted, refused
from tests.support.served import BLUE, QUESTION, app
from vlmcomp.app import results
from vlmcomp.data.images import MAX_QUESTION

FP16 = ["llava-shapes/fp16"]
GOOD = Image.open(BLUE).convert("RGB")
REFUSED, ACCEPTED = refused(GOOD), accepted(GOOD)
SECRET = Path(__file__).resolve()  # a file of this machine that no visitor may read
_LEAKS = ("Traceback", 'File "', "site-packages", "/root/", "/home/", "/tmp/", str(SECRET.parent))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with app() as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False)


@pytest.fixture(autouse=True)
def goes_on(url: str) -> Iterator[None]:
    yield
    assert httpx.get(url, timeout=60).status_code == 200


def one_sentence(text: str) -> None:
    assert text and "\n" not in text and len(text) <= 400 and not any(leak in text for leak in _LEAKS), text
    assert "<" not in text and ">" not in text, text


def refusal(client: Client, *given: Any, api_name: str = "/compare") -> str:
    with pytest.raises((AppError, ValueError)) as found:
        client.predict(*given, api_name=api_name)
    one_sentence(str(found.value))
    return str(found.value)


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_no_usable_image_is_refused(client: Client, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(REFUSED[name])
    said = refusal(client, handle_file(file), QUESTION, FP16)
    assert "image" in said, said


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_odd_file_of_a_good_image_is_answered_rightly(client: Client, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(ACCEPTED[name])
    (card,) = client.predict(handle_file(file), QUESTION, FP16, api_name="/compare")
    assert card["answer"] == "blue" and card["error"] is None


def test_more_bytes_than_an_upload_may_have_are_refused(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "huge.png"
    file.write_bytes(b"\0" * 17_000_000)
    with pytest.raises(Exception, match=r"413|size|large"):
        client.predict(handle_file(file), QUESTION, FP16, api_name="/compare")


@pytest.mark.parametrize(
    "question",
    [
        "",
        " \n\t ",
        "\0\x1b\x7f\u200b",
        "<image>",
        "a" * (MAX_QUESTION + 1),
        "x" * 1_000_000,
        None,
    ],
)
def test_what_is_no_question_is_refused(client: Client, question: Any) -> None:
    assert "question" in refusal(client, handle_file(BLUE), question, FP16)


@pytest.mark.parametrize(
    "question",
    [
        "What color is the shape?\0\x1b[31m\u202e",
        "<script>alert(1)</script> What color is the shape?",
        "**What** [color](javascript:alert(1)) is the shape?",
        "<image><|image_pad|></s><bos> What color is the shape?",
        "{question} {0} %s What color is the shape?",
        "Ünïcödé 形 🟦 What color is the shape?",
        "' OR 1=1; -- $(reboot) `id` What color is the shape?",
        "What color is the shape? " * 19,
        5,
        ["why"],
        {"a": 1},
    ],
)
@pytest.mark.parametrize("recipe", ["llava-shapes/fp16", "qwen2-vl-shapes/fp16"])
def test_an_odd_question_is_answered(client: Client, question: Any, recipe: str) -> None:
    (card,) = client.predict(handle_file(BLUE), question, [recipe], api_name="/compare")
    assert card["error"] is None and isinstance(card["answer"], str)


@pytest.mark.parametrize(
    "recipes",
    [
        None,
        [],
        {},
        "llava-shapes/fp16",
        5,
        [None],
        [["llava-shapes/fp16"]],
        [{"recipe": "llava-shapes/fp16"}],
        [""],
        ["llava-shapes"],
        ["/fp16"],
        ["llava-shapes/"],
        ["gpt-5/fp16"],
        ["llava-shapes/int5"],
        ["llava-shapes/glu-5+fp16"],
        ["llava-shapes/glu0+fp16"],
        ["llava-shapes/glu100+fp16"],
        ["llava-shapes/heads99999999999999999999+fp16"],
        ["llava-shapes/glu３０+fp16"],
        ["llava-shapes/glu30+glu30+fp16"],
        ["llava-shapes/int8+glu30"],
        ["blip2-shapes/glu30+fp16"],
        ["../../etc/passwd"],
        ["llava-shapes/../../etc/fp16"],
        ["C:\\llava/fp16"],
        ["llava-shapes/fp16\0"],
        ["<img src=x onerror=alert(1)>/fp16"],
        ["x" * 1_000_000],
        [f"llava-shapes/glu{n}+fp16" for n in range(10, 80, 10)],
        ["llava-shapes/fp16"] * 5 + ["llava-shapes/int8"] + [f"llava-shapes/glu{n}+int8" for n in range(1, 60)],
    ],
)
def test_what_is_no_recipe_is_refused(client: Client, recipes: Any) -> None:
    refusal(client, handle_file(BLUE), QUESTION, recipes)


@pytest.mark.parametrize(
    "wish",
    [
        ("llava-shapes", "8GB", 1.0, "beauty"),
        ("llava-shapes", "-8GB", 1.0, "memory"),
        ("llava-shapes", "1e999GB", 1.0, "memory"),
        ("llava-shapes", "nan", 1.0, "memory"),
        ("llava-shapes", "8GB", float("1e300"), "memory"),
        ("llava-shapes", "8GB", [1], "memory"),
        ("llava-shapes", "8GB", None, "speed"),
        (["llava-shapes"], "8GB", 1.0, "memory"),
        ({"a": 1}, None, 1.0, None),
        ("../llava-shapes", "8GB", 1.0, "memory"),
    ],
)
def test_what_cannot_be_recommended_is_refused(client: Client, wish: tuple) -> None:
    refusal(client, *wish, api_name="/recommend")


@pytest.mark.parametrize("place", [("../../etc", None), ("/etc/passwd", None), (5, None), (None, ["x"]), (None, "gpt")])
def test_results_of_no_such_place_are_refused(client: Client, place: tuple) -> None:
    refusal(client, *place, api_name="/results")


FORGED = [
    {"path": str(SECRET)},
    {"path": str(SECRET), "meta": {"_type": "gradio.FileData"}},
    {"path": "/etc/passwd", "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}},
    {"path": "../../../../etc/passwd", "meta": {"_type": "gradio.FileData"}},
    {"path": "README.md", "meta": {"_type": "gradio.FileData"}},
    {"path": str(BLUE), "meta": {"_type": "gradio.FileData"}},
    {"path": "", "meta": {"_type": "gradio.FileData"}},
    {"path": None, "url": f"file://{SECRET}", "meta": {"_type": "gradio.FileData"}},
    {"path": "http://127.0.0.1:9/x.png", "url": "http://127.0.0.1:9/x.png", "meta": {"_type": "gradio.FileData"}},
    {"path": "x", "url": "data:image/png;base64,AAAA", "meta": {"_type": "gradio.FileData"}},
    {"path": ["/etc/passwd"]},
    str(SECRET),
    [str(SECRET)],
    5,
]


def called(url: str, api: str, data: list[Any]) -> str:
    """The raw stream of events that a call gives."""
    with httpx.Client(base_url=f"{url.rstrip('/')}/gradio_api", timeout=120) as raw:
        made = raw.post(f"/call/{api}", json={"data": data})
        if made.status_code != 200:
            return made.text
        return raw.get(f"/call/{api}/{made.json()['event_id']}").text


@pytest.mark.parametrize("image", FORGED, ids=lambda value: json.dumps(value)[:60])
def test_a_forged_file_reference_reads_nothing(url: str, image: Any) -> None:
    told = called(url, "compare", [image, QUESTION, FP16])
    assert "event: complete" not in told and not any(leak in told for leak in _LEAKS), told


@pytest.mark.parametrize("count", [-1, 10**12, "many", [5]])
def test_a_token_count_that_nobody_asked_for_changes_nothing(url: str, client: Client, count: Any) -> None:
    with BLUE.open("rb") as file:
        (path,) = httpx.post(f"{url}gradio_api/upload", files={"files": file}, timeout=60).json()
    told = called(url, "compare", [{"path": path, "meta": {"_type": "gradio.FileData"}}, QUESTION, FP16, count])
    assert '"answer": "blue"' in told or ("event: error" in told and not any(leak in told for leak in _LEAKS)), told
    with pytest.raises(Exception, match="max_new_tokens"):
        client.predict(handle_file(BLUE), QUESTION, FP16, max_new_tokens=count, api_name="/compare")


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=/etc/passwd",
        f"gradio_api/file={SECRET}",
        "gradio_api/file=app.py",
        "gradio_api/file=../../../etc/passwd",
        "gradio_api/file=%2e%2e/%2e%2e/etc/passwd",
        "gradio_api/file=README.md",
        "static/../../app.py",
        "custom_component/../../etc/passwd",
        "assets/..%2f..%2fapp.py",
        "gradio_api/proxy=http://127.0.0.1:9/",
        "gradio_api/file=http://127.0.0.1:9/",
    ],
)
def test_no_address_serves_a_file_of_this_machine(url: str, path: str) -> None:
    got = httpx.get(f"{url}{path}", timeout=60)
    assert got.status_code >= 400 and "root:" not in got.text and "import " not in got.text, got.text[:200]


def test_what_is_uploaded_never_runs_in_a_page(url: str) -> None:
    for name, kind in (("page.html", "text/html"), ("page.png", "text/html"), ("drawing.svg", "image/svg+xml")):
        sent = {"files": (name, b"<svg onload=alert(1)><script>alert(1)</script></svg>", kind)}
        (path,) = httpx.post(f"{url}gradio_api/upload", files=sent, timeout=60).json()
        got = httpx.get(f"{url}gradio_api/file={path}", timeout=60)
        drawn = got.headers["content-type"].startswith(("image/png", "application/octet-stream"))
        assert drawn or got.headers.get("content-disposition", "").startswith("attachment"), dict(got.headers)


def test_every_event_of_the_page_bears_wrong_types(url: str) -> None:
    """Each event, the private ones too, given nonsense of the right and of the wrong length."""
    with httpx.Client(base_url=url, timeout=120) as raw:
        events = raw.get("config").json()["dependencies"]
        assert len(events) > 20
        for event in events:
            for nonsense in ([], [{"a": []}] * len(event["inputs"]), [["x" * 1000]] * len(event["inputs"])):
                body = {"data": nonsense, "fn_index": event["id"], "session_hash": "nonsense", "event_data": [5]}
                got = raw.post("gradio_api/run/predict", json=body)
                assert not re.search("Traceback|site-packages", got.text), got.text
    assert results.to_records() == Client(url, verbose=False).predict(api_name="/results")
