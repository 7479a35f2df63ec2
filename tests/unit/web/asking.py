"""Ask an ASGI application directly, as a server would."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bigmachine.web.asgi import ASGIApp


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


async def ask(
    app: ASGIApp,
    path: str,
    query: str = "",
    *,
    headers: Mapping[str, str] | None = None,
    root: str = "",
    method: str = "GET",
    until: Callable[[bytes], bool] | None = None,
) -> Reply:
    """Ask for a page; a stream is left when `until` says of what has come that it is enough."""
    given = {"host": "127.0.0.1", **(headers or {})}
    left = asyncio.Event()
    messages: list[Any] = []
    has_begun = False

    async def receive() -> dict[str, Any]:
        nonlocal has_begun
        if not has_begun:
            has_begun = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        messages.append(message)
        if until is not None and until(b"".join(each.get("body", b"") for each in messages)):
            left.set()

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": root,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    await asyncio.wait_for(app(scope, receive, send), 30)
    start, *rest = messages
    body = b"".join(each.get("body", b"") for each in rest)
    named = {name.decode(): value.decode() for name, value in start["headers"]}
    if named.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    return Reply(start["status"], named, body)


def events(body: bytes) -> list[tuple[str, Any]]:
    """Read server-sent events."""
    found = []
    for block in body.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found
