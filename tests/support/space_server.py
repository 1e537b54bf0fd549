"""A Hub on this machine: the part of its HTTP interface that makes a Space or a model and takes commits, with large
files by git LFS. It checks the token, the hashes of LFS files, and that commits refer to uploaded files."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_writes"
_UNAUTHORIZED = "Invalid credentials in Authorization header"


@dataclass
class Spaces:
    """``files``: the files of each Space; ``commits``: the message of each; ``hardware``: the requested one;
    ``create_error``: status and message when a Space is created; ``lost_uploads``: how many LFS uploads fail."""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    hardware: dict[str, str] = field(default_factory=dict)
    create_error: tuple[int, str] | None = None
    lost_uploads: int = 0
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return f"{len(self.commits):040x}"


def oid(path: str, data: bytes) -> str:
    """The identifier of a file on the Hub: the hash of its bytes for LFS, of a git blob otherwise."""
    return hashlib.sha256(data).hexdigest() if lfs(path) else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".png", ".gz"))


def _handler(hub: Spaces) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self, data: Any, status: int = 200, **headers: str) -> None:
            body = json.dumps(data).encode()
            self.send_response(status)
            for name, value in ({"Content_Length": str(len(body))} | headers).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def _refuse(self, status: int, code: str) -> None:
            self._answer({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _is_unauthorized(self) -> bool:
            return self.headers.get("Authorization") != f"Bearer {TOKEN}"

        def do_GET(self) -> None:
            _, _, _, user, name, *rest = self.path.partition("?")[0].split("/")
            files = hub.files.get(f"{user}/{name}")
            if self._is_unauthorized():
                return self._refuse(401, _UNAUTHORIZED)
            if files is None:
                return self._refuse(404, "RepoNotFound")
            if rest[:1] == ["tree"]:
                rows = [{"type": "file", "path": p, "size": len(d), "oid": oid(p, d)} for p, d in files.items()]
                return self._answer(rows)
            self._answer({"id": f"{user}/{name}", "sha": hub.head, "siblings": []})

        def do_PUT(self) -> None:
            data, key = self._body(), self.path.rpartition("/")[2]
            if hub.lost_uploads or hashlib.sha256(data).hexdigest() != key:
                hub.lost_uploads -= bool(hub.lost_uploads)
                return self._refuse(400, "Bad bytes")
            hub.blobs[key] = data
            self._answer({})

        def do_POST(self) -> None:
            body, path = self._body(), self.path.partition("?")[0]
            if self._is_unauthorized():
                return self._refuse(401, _UNAUTHORIZED)
            if path.endswith("/commit/main"):
                return self._commit(path, [json.loads(line) for line in body.splitlines()])
            data = json.loads(body)
            if path == "/api/repos/create":
                return self._create(data)
            if path == "/api/validate-yaml":
                good = data["content"].startswith("---\n") and data["repoType"] in ("space", "model")
                result = {"errors": [] if good else [{"message": "no front matter"}], "warnings": []}
                return self._answer(result, 200 if good else 400)
            if path.endswith("/objects/batch"):
                rows = [o | ({} if o["oid"] in hub.blobs else _upload(hub, o["oid"])) for o in data["objects"]]
                return self._answer({"transfer": "basic", "objects": rows})
            repo = "/".join(path.split("/")[3:5])
            if path.endswith("/hardware"):
                hub.hardware[repo] = data["flavor"]
                return self._answer({"stage": "BUILDING", "hardware": {"requested": data["flavor"]}})
            if path.endswith("/variables"):
                hub.variables[data["key"]] = data["value"]
                return self._answer({data["key"]: {"value": data["value"], "updatedAt": "2026-01-01T00:00:00.000Z"}})
            files = hub.files[repo]
            self._answer({"files": [_mode(f["path"], files) for f in data["files"]]})  # preupload

        def _create(self, data: dict[str, Any]) -> None:
            if hub.create_error:
                return self._answer({"error": hub.create_error[1]}, hub.create_error[0])
            repo = f"{data['organization']}/{data['name']}"
            if data.get("type", "model") == "model":
                hub.files[repo] = {".gitattributes": b"*.safetensors filter=lfs\n"}
                return self._answer({"url": f"{hub.url}/{repo}"})
            assert data["type"] == "space" and data["sdk"] == "gradio"
            hub.files[repo] = {".gitattributes": b"*.png filter=lfs\n", "README.md": b"---\nsdk: gradio\n---\n"}
            hub.hardware[repo] = data.get("hardware", "cpu-basic")
            self._answer({"url": f"{hub.url}/spaces/{repo}"})

        def _commit(self, path: str, lines: list[dict[str, Any]]) -> None:
            repo = "/".join(path.split("/")[3:5])
            files = dict(hub.files[repo])
            for line in lines[1:]:
                item, value = line["key"], line["value"]
                if item == "deletedFile":
                    del files[value["path"]]
                else:
                    data = hub.blobs[value["oid"]] if item == "lfsFile" else base64.b64decode(value["content"])
                    files[value["path"]] = data
            hub.files[repo] = files
            hub.commits.append(lines[0]["value"]["summary"])
            self._answer({"commitUrl": f"{hub.url}/spaces/{repo}/commit/{hub.head}", "commitOid": hub.head})

    return Handler


def _upload(hub: Spaces, key: str) -> dict[str, Any]:
    return {"actions": {"upload": {"href": f"{hub.url}/blobs/{key}"}}}


def _mode(path: str, files: dict[str, bytes]) -> dict[str, Any]:
    known = oid(path, files[path]) if path in files else None
    return {"path": path, "uploadMode": "lfs" if lfs(path) else "regular", "shouldIgnore": False, "oid": known}


@contextmanager
def serve() -> Iterator[Spaces]:
    """A running Hub without Spaces."""
    hub = Spaces()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
