"""A Hub of one repository on this machine: enough of its HTTP interface to look it up and to download it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """``gated``: only requests with a token get files. ``breaks``: how many downloads of weights are cut off halfway;
    those of files whose names begin with ``broken`` always are. ``sent`` counts the bytes of files sent, ``asked``
    names the files. ``kind``: models or datasets. ``commit``: the one that there is."""

    repo: str
    folder: Path
    gated: bool = False
    breaks: int = 0
    broken: str = ""
    kind: str = "models"
    commit: str = COMMIT
    url: str = ""
    sent: int = 0
    asked: list[str] = field(default_factory=list)

    def files(self) -> list[Path]:
        return sorted(file for file in self.folder.rglob("*") if file.is_file())

    def name(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self, body: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in ({"Content_Length": str(len(body)), "X_Repo_Commit": hub.commit} | headers).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def _refuse(self, status: int, code: str) -> None:
            self._answer(b"{}", status, X_Error_Code=code, X_Error_Message=code)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            facts = f"/api/{hub.kind}/{hub.repo}"
            files = f"/{hub.repo}/resolve/" if hub.kind == "models" else f"/{hub.kind}/{hub.repo}/resolve/"
            if not path.startswith((facts, files)):
                return self._refuse(404, "RepoNotFound")
            if path.startswith("/api/"):
                return self._facts(*filter(None, path.removeprefix(facts).split("/")))
            name = path.removeprefix(files).partition("/")[2]  # after the revision
            if hub.gated and not self.headers.get("Authorization"):
                return self._refuse(401, "GatedRepo")
            return self._file(hub.folder / name)

        do_HEAD = do_GET

        def do_POST(self) -> None:
            """Facts about the paths in the body."""
            body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            rows = [_entry(hub, hub.folder / path) for path in body["paths"] if (hub.folder / path).exists()]
            self._answer(json.dumps(rows).encode())

        def _facts(self, what: str = "revision", revision: str = "main", *below: str) -> None:
            if revision not in ("main", hub.commit):
                return self._refuse(404, "RevisionNotFound")
            if what == "revision":
                siblings = [{"rfilename": hub.name(f)} for f in hub.files()]
                return self._answer(json.dumps({"id": hub.repo, "sha": hub.commit, "siblings": siblings}).encode())
            folder = hub.folder.joinpath(*below)
            if not folder.is_dir():
                return self._refuse(404, "EntryNotFound")
            found = folder.rglob("*") if "recursive=true" in self.path.lower() else folder.iterdir()
            rows = [_entry(hub, path) for path in sorted(found)]
            return self._answer(json.dumps(rows).encode())

        def _file(self, file: Path) -> None:
            if not file.is_file():
                return self._refuse(404, "EntryNotFound")
            data, start = file.read_bytes(), 0
            headers = {"ETag": f'"{_oid(file)}"', "Accept_Ranges": "bytes"}
            if (span := self.headers.get("Range")) and self.command == "GET":
                first, _, last = span.removeprefix("bytes=").partition("-")
                start, end = int(first), min(int(last or len(data)), len(data) - 1)
                headers["Content_Range"] = f"bytes {start}-{end}/{len(data)}"
                data = data[: end + 1]
            body = data[start:]
            headers["Content_Length"] = str(len(body))
            if self.command == "GET":
                always = bool(hub.broken) and file.name.startswith(hub.broken)
                if always or (hub.breaks and file.suffix == ".safetensors"):
                    hub.breaks -= not always
                    body, self.close_connection = body[: len(body) // 2], True
                hub.asked.append(file.name)
                hub.sent += len(body)
            self._answer(body, 206 if "Content_Range" in headers else 200, **headers)

    return Handler


def _entry(hub: Hub, path: Path) -> dict[str, object]:
    if path.is_dir():
        return {"type": "directory", "path": hub.name(path), "oid": "0" * 40}
    return {"type": "file", "path": hub.name(path), "size": path.stat().st_size, "oid": _oid(path)}


def _oid(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def serve(repo: str, folder: Path, kind: str = "models", commit: str = COMMIT) -> Iterator[Hub]:
    """A running Hub that holds ``folder`` as the model, or of another kind, ``repo``."""
    hub = Hub(repo, folder, kind=kind, commit=commit)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def connect(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the Hub's client speak to ``hub``, with the cache ``cache``."""
    for name, value in (
        ("ENDPOINT", hub.url),
        ("HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_CACHE", str(cache)),
        ("HF_HUB_DISABLE_XET", True),
        ("DOWNLOAD_CHUNK_SIZE", 10_000),  # what an interruption loses
    ):
        monkeypatch.setattr(constants, name, value)
    if hub.kind == "datasets":
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.url)
        monkeypatch.setattr(
            "datasets.config.HUB_DATASETS_URL", hub.url + "/datasets/{repo_id}/resolve/{revision}/{path}"
        )
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
