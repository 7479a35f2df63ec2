"""The little of ASGI that the pages need: a request as a value, and answers."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import field
from typing import Any, Final

from bigmachine.frozen import frozen

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

TEXT: Final = "text/plain; charset=utf-8"
HTML: Final = "text/html; charset=utf-8"
JSON: Final = "application/json"

#: Nothing is loaded from elsewhere, nothing is sent there, and nobody else's page may frame these or read them.
#: speedscope makes its style sheets at run time; what it shows is handed to it as a blob.
SAFE: Final = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "connect-src 'self' blob:; img-src 'self' data:; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
#: Shorter bodies are not worth packing.
_PACKED: Final = 1024


@frozen
class Request:
    """What somebody asks for. `path` is below where the application is mounted; `base` is that place's path."""

    method: str
    base: str
    path: str
    query: str
    headers: Mapping[str, str]

    @classmethod
    def of(cls, scope: Scope) -> Request:
        """Read it from a scope of type "http"."""
        base = str(scope.get("root_path", "")).rstrip("/")
        path = str(scope["path"])
        # Servers differ in whether the path has the mount point in it; the specification says that it has.
        if base and (path == base or path.startswith(f"{base}/")):
            path = path[len(base) :]
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}{'; ' if name == 'cookie' else ', '}{value}" if name in headers else value
        return cls(scope["method"], base, path or "/", scope.get("query_string", b"").decode("latin-1"), headers)


@frozen
class Answer:
    """What is said to it. `events`: a stream of server-sent events instead of a body."""

    status: int = 200
    body: bytes = b""
    media: str = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)
    events: AsyncIterator[bytes] | None = None


def text(said: str, status: int = 200, **headers: str) -> Answer:
    """Answer with plain text."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, said.encode("utf-8", "replace"), TEXT, named)


def as_json(told: object) -> Answer:
    """Answer with JSON."""
    return Answer(200, (json.dumps(told, indent=1, default=str) + "\n").encode(), JSON)


def redirect(where: str, **headers: str) -> Answer:
    """Send the browser elsewhere on this site."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(303, b"", TEXT, {"location": where, **named})


async def say(answer: Answer, request: Request, receive: Receive, send: Send) -> None:
    """Send an answer; that of a stream until the other side has gone."""
    body = answer.body
    headers = {"content-type": answer.media, "cache-control": "no-store", **SAFE, **answer.headers}
    if answer.events is None:
        is_packable = len(body) > _PACKED and "gzip" in request.headers.get("accept-encoding", "")
        if is_packable and answer.media.startswith(("text/", JSON, "image/svg")):
            body = gzip.compress(body, 5, mtime=0)
            headers["content-encoding"] = "gzip"
        headers["content-length"] = str(len(body))
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    if answer.events is None or request.method == "HEAD":
        body = b"" if request.method == "HEAD" else body
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return
    await _stream(answer.events, receive, send)


async def _stream(events: AsyncIterator[bytes], receive: Receive, send: Send) -> None:
    import asyncio

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def pass_on() -> None:
        async for event in events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    tasks = {asyncio.ensure_future(gone()), asyncio.ensure_future(pass_on())}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await events.aclose()  # type: ignore[attr-defined]  # it is an async generator, which mypy is not told
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, OSError):
            raise error
