"""Title and description of the page, as sites show them where its address is posted."""

from __future__ import annotations

import html
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_META = re.compile(
    r'<meta\s+(?:property|name)="((?:og|twitter):(title|description|image|url|creator))"\s+content="[^"]*"\s*/?>'
)


class ShareCard:
    """Middleware that fills in the ``og:`` and ``twitter:`` tags of the page, which Gradio fills in with its own."""

    def __init__(self, app: ASGIApp, title: str, description: str) -> None:
        self.app = app
        self.texts = {"title": title, "description": description}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            return await self.app(scope, receive, send)
        start: list[Message] = []  # until the length is known
        body = b""

        async def fill_in(message: Message) -> None:
            nonlocal body
            if message["type"] == "http.response.start":
                start.append(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            body = self._replace(body)
            headers = [(name, value) for name, value in start[0]["headers"] if name != b"content-length"]
            start[0]["headers"] = [*headers, (b"content-length", str(len(body)).encode())]
            await send(start[0])
            await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, fill_in)

    def _replace(self, page: bytes) -> bytes:
        """``page`` with title and description once, and without Gradio's own address, picture and author."""
        seen: set[str] = set()

        def tag(match: re.Match[str]) -> str:
            name, kind = match.groups()
            if name in seen or kind not in self.texts:
                return ""
            seen.add(name)
            key = "property" if name.startswith("og:") else "name"
            return f'<meta {key}="{name}" content="{html.escape(self.texts[kind])}" />'

        return _META.sub(tag, page.decode()).encode()
