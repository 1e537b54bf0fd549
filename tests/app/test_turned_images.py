"""A photograph that a camera stored on its side arrives upright, whichever way it is sent."""

from __future__ import annotations

import ast
import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from tests.support.bad_images import encoded
from tests.support.served import app
from vlmcomp.app import handlers
from vlmcomp.serving import backend
from vlmcomp.serving.examples import get_examples

RECIPE = "llava-shapes/fp16"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with app() as address:
        yield address


@pytest.fixture(autouse=True)
def from_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only exactly the pixels of an example have a recorded answer."""
    monkeypatch.setattr(handlers, "backend", backend.RecordedBackend)


def photograph(kind: str) -> bytes:
    """An example with an alpha channel, turned by 90 degrees, and the EXIF data that say so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(get_examples()[0].image).convert("RGBA").transpose(Image.Transpose.ROTATE_90)
    settings = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    return encoded(image, kind, exif=exif.tobytes(), **settings)


def data_url(kind: str) -> str:
    return f"data:image/{kind.lower()};base64,{base64.b64encode(photograph(kind)).decode()}"


def ask_file(url: str, kind: str, folder: Path) -> dict:
    file = folder / f"photo.{kind.lower()}"
    file.write_bytes(photograph(kind))
    question = get_examples()[0].question
    return Client(url, verbose=False).predict(handle_file(file), question, [RECIPE], api_name="/compare")[0]


def ask_http(url: str, kind: str, folder: Path) -> dict:
    image = {"url": data_url(kind), "meta": {"_type": "gradio.FileData"}}
    sent = {"data": [image, get_examples()[0].question, [RECIPE]]}
    event = httpx.post(f"{url}gradio_api/call/compare", json=sent, timeout=60).json()["event_id"]
    lines = httpx.get(f"{url}gradio_api/call/compare/{event}", timeout=60).text.splitlines()
    return json.loads(lines[-2].removeprefix("data: "))[0][0]


def ask_agent(url: str, kind: str, folder: Path) -> dict:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def talk() -> str:
        async with streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                name = next(t.name for t in (await session.list_tools()).tools if t.name.endswith("compare"))
                question = get_examples()[0].question
                asked = {"image": data_url(kind), "question": question, "recipes": [RECIPE]}
                return (await session.call_tool(name, asked)).content[0].text

    return ast.literal_eval(asyncio.run(talk()))[0]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("ask", [ask_file, ask_http, ask_agent])
def test_it_is_answered_as_the_upright_example(ask, kind: str, url: str, tmp_path: Path) -> None:
    card = ask(url, kind, tmp_path)
    assert card["error"] is None and card["recorded"].startswith("recorded on "), card


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ("data:image/png;base64," + base64.b64encode(b"P6 4 4 255\n" + b"\0" * 48).decode(), "cannot be read"),
        ("data:image/png;base64,", "cannot be read"),
        ("data:image/png;base64,*", "cannot be read"),
        ("data:image/png", "cannot be read"),
        ("data:", "cannot be read"),
    ],
)
def test_what_comes_within_a_url_is_decoded_in_the_same_formats(sent: str, sentence: str, url: str) -> None:
    image = {"url": sent, "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError, match=sentence):
        Client(url, verbose=False).predict(image, "Is there a star?", [RECIPE], api_name="/compare")
