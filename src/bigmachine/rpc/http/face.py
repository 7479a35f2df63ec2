"""What the HTTP face of the port answers, whatever version of HTTP the request came by. No I/O but the call itself.

    POST /bigrpc/Service.Method     calls a method: JSON in (`http_json`), JSON or a stream (`http_stream`) out
    GET  /  or  GET /bigrpc/        lists the services

| status | when |
|---|---|
| 200 | the method returned |
| 400 | the body is not JSON, the arguments do not fit, a header makes no sense |
| 403 | this peer's role may not call this, or a web page of another site made the browser send it |
| 404 | no such path, service or method |
| 405 | not POST (not GET or HEAD for the list) |
| 408, 413, 431, 503, 505 | sent by the connections, which enforce `http_limits` |
| 500 | the result has no JSON form |
| 504 | the deadline passed: `bigmachine-timeout: <seconds>` in the request |
| 590 | the method raised; the body has its type, message and traceback |

The peer has proved by its certificate who it is before any of this is reached.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from dataclasses import field
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from bigmachine.errors import AuthenticationError, InvalidCall, NetworkError
from bigmachine.frozen import frozen
from bigmachine.rpc.http import errors as http_errors
from bigmachine.rpc.http import values as http_json
from bigmachine.rpc.http.bodies import Streamed, is_cancelled_by_us, stream_of
from bigmachine.rpc.services import NotYetOpen

if TYPE_CHECKING:
    from bigmachine.trust import Peer

PREFIX = "/bigrpc/"
TIMEOUT_HEADER = "bigmachine-timeout"

_LISTS = ("/", "/bigrpc", PREFIX)
_JSON = "application/json"


class Table(Protocol):
    """The services that can be called."""

    def names(self) -> Iterable[str]: ...


class Invoker(Protocol):
    """What runs a call: `rpc.Server`."""

    @property
    def table(self) -> Table: ...

    def method(self, peer: Peer, name: str, /) -> object:
        """Find a method that this peer may call. Raises: InvalidCall, AuthenticationError."""

    async def invoke(
        self, peer: Peer, method: str, args: tuple[object, ...], kwargs: dict[str, object], timeout_s: float | None, /
    ) -> object: ...


@frozen
class Request:
    """A whole request. `path` is the target as it was sent; names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


@frozen
class Response:
    """A reply; whoever has it closes it. Neither length nor framing are in `headers`: they depend on the version."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes | Streamed = field(repr=False)

    @property
    def reason(self) -> str:
        """The words that HTTP/1.1 puts after the status."""
        if self.status == http_errors.METHOD_RAISED:
            return "Method Raised"
        return HTTPStatus(self.status).phrase

    async def aclose(self) -> None:
        """Close the stream behind the body, if it is one."""
        if isinstance(self.body, Streamed):
            await self.body.aclose()


async def answer(server: Invoker, peer: Peer, request: Request) -> Response:
    """Answer a request; everything that can go wrong becomes a status. Cancelling this cancels the call."""
    path = _path_of(request.path)
    if path in _LISTS:
        return _answer_list(server, request)
    if not path.startswith(PREFIX):
        return failure(404, InvalidCall(f"nothing is at {path}: post to {PREFIX}Service.Method, or get {PREFIX}"))
    if request.method != "POST":
        return failure(405, InvalidCall(f"{request.method} is not how a method is called: use POST"), allow="POST")
    if _is_from_another_site(request.headers):
        return failure(403, AuthenticationError(f"a web page of {request.headers['origin']} may not call services"))
    method = path[len(PREFIX) :]
    try:
        server.method(peer, method)
    except InvalidCall as exc:
        return failure(404, exc)
    except NotYetOpen as exc:
        return failure(503, NetworkError(str(exc)))
    except AuthenticationError as exc:
        return failure(403, exc)
    except Exception as exc:  # noqa: BLE001 (looking it up can run a property of the service)
        return failure(http_errors.METHOD_RAISED, exc)
    try:
        args, kwargs = http_json.decode_arguments(request.body)
        limit_s = _timeout_of(request.headers)
    except ValueError as exc:
        return failure(400, InvalidCall(str(exc)))
    return await _invoke(server, peer, method, args, kwargs, limit_s)


def failure(status: int, exc: BaseException, **headers: str) -> Response:
    """Make the reply for an error."""
    told = http_errors.describe(exc, with_traceback=status == http_errors.METHOD_RAISED)
    return Response(status, (("content-type", _JSON), *headers.items()), http_json.encode(told) + b"\n")


async def _invoke(
    server: Invoker, peer: Peer, method: str, args: tuple[object, ...], kwargs: dict[str, object], limit_s: float | None
) -> Response:
    deadline = None if limit_s is None else asyncio.get_running_loop().time() + limit_s
    try:
        result = await server.invoke(peer, method, args, kwargs, limit_s)
    except (Exception, SystemExit, asyncio.CancelledError) as exc:
        # Whatever a method raises is its answer, and ends nothing else.
        if is_cancelled_by_us(exc):
            raise
        return failure(http_errors.status_of(exc), exc)
    stream = stream_of(result, deadline)
    if stream is not None:
        return Response(200, (("content-type", stream.media_type),), stream)
    try:
        return _json(result)
    except http_json.NotJsonable as exc:
        return failure(500, exc)


def _answer_list(server: Invoker, request: Request) -> Response:
    if request.method not in ("GET", "HEAD"):
        complaint = InvalidCall(f"{request.method} {request.path} means nothing: post to {PREFIX}Service.Method")
        return failure(405, complaint, allow="GET, HEAD")
    return _json({"services": sorted(server.table.names())})


def _json(value: object) -> Response:
    return Response(200, (("content-type", _JSON),), http_json.encode(value) + b"\n")


def _path_of(target: str) -> str:
    """Return the decoded path of a request's target, which may be a whole URL (RFC 9112, 3.2.2)."""
    if not target.startswith("/"):
        try:
            target = urlsplit(target).path or "/"
        except ValueError:  # like "http://[": it has no path that we know
            return target
    return unquote(target.partition("?")[0])


def _timeout_of(headers: Mapping[str, str]) -> float | None:
    text = headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{TIMEOUT_HEADER}: {text!r} is not a number of seconds, such as 2.5")
    return seconds


def _is_from_another_site(headers: Mapping[str, str]) -> bool:
    """Tell whether a browser says that another site's page made it send this.

    The user may have put the client certificate into a browser to look around; a form on any page of the web could
    then post to the port in the user's name. Browsers put Origin on every such request, other clients on none.
    """
    origin = headers.get("origin")
    return origin is not None and origin.lower() != f"https://{headers.get('host', '')}".lower()
