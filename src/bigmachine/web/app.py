"""The application: which page is where, and who may see it.

    ./                      the dashboard, ./events its stream
    ./status                text
    ./pprof/, ./pprof/NAME  profiles
    ./vars, ./metrics       variables, for people and for Prometheus

`.` is `/debug/bigmachine` below where the application is mounted, as in the Go original, and that place itself; also
`/debug/vars` and `/metrics` are there.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode

from bigmachine.errors import BigmachineError, InvalidCall
from bigmachine.web.access import PARAMETER, Access, Refused
from bigmachine.web.asgi import Answer, Receive, Request, Scope, Send, as_json, redirect, say, text
from bigmachine.web.live import watch_of
from bigmachine.web.query import parameters
from bigmachine.web.static import static

if TYPE_CHECKING:
    from bigmachine.session import Session

_log = logging.getLogger("bigmachine")
#: Where Go has the pages.
PREFIX: Final = "/debug/bigmachine"
#: So many pages may be collected at once; each has a thread for that time.
_MOST: Final = 32
_PAGES: Final = "./, ./status, ./pprof/, ./vars, ./metrics, /debug/vars"


class App:
    """The pages of one session, as an ASGI application."""

    def __init__(self, session: Session, access: Access) -> None:
        self._session = session
        self._access = access
        self._watch = watch_of(session)
        self._places = threading.BoundedSemaphore(_MOST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or take part in the lifespan protocol."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            request = Request.of(scope)
            await say(await self._answer(request), request, receive, send)
        else:
            raise NotImplementedError(f"these pages are for http, not for {scope['type']}")

    async def _answer(self, request: Request) -> Answer:
        query = parse_qsl(request.query, keep_blank_values=True)
        given = next((value for name, value in query if name == PARAMETER), "")
        try:
            is_new = self._access.check(request.method, request.headers, given)
        except Refused as refused:
            return text(f"{refused}\n", refused.status)
        rest = urlencode([pair for pair in query if pair[0] != PARAMETER])
        cookie = self._cookie(request) if is_new else {}
        if is_new and "text/html" in request.headers.get("accept", ""):
            # A browser: the token leaves its address line, history and what it would tell other sites.
            return redirect(f"{request.base}{request.path}{'?' if rest else ''}{rest}", **cookie)
        try:
            answer = await self._page(request, rest)
        except BigmachineError as error:
            answer = text(f"{error}\n", 503)
        except Exception as error:  # noqa: BLE001 (the edge of a request: it is answered)
            _log.exception("a page of the session failed: %s", request.path)
            answer = text(f"{type(error).__name__}: {error}\n", 500)
        if not cookie:
            return answer
        headers = {name.replace("_", "-"): value for name, value in cookie.items()} | dict(answer.headers)
        return Answer(answer.status, answer.body, answer.media, headers, answer.events)

    def _cookie(self, request: Request) -> dict[str, str]:
        path = request.base or "/"
        value = f"{self._access.cookie}={self._access.token}; Path={path}; HttpOnly; SameSite=Strict"
        return {"set_cookie": value}

    async def _page(self, request: Request, query: str) -> Answer:
        """Find the page.

        Raises:
            BigmachineError: if the session has ended.
        """
        self._session._check_open()
        path = request.path
        inside = path.removeprefix(PREFIX) if path == PREFIX or path.startswith(f"{PREFIX}/") else path
        if inside in ("", "/pprof"):
            return redirect(f"{request.base}{path}/{'?' if query else ''}{query}")
        if inside == "/":
            if path == "/" and not request.base:
                return redirect(f"{PREFIX}/")
            return static("index.html")
        if inside == "/events":
            return Answer(200, b"", "text/event-stream", {"x-accel-buffering": "no"}, self._watch.events())
        if inside.startswith("/static/"):
            return static(inside.removeprefix("/static/"))
        if inside.startswith("/pprof/"):
            return await self._profile(inside.removeprefix("/pprof/"), query)
        pages: dict[str, tuple[Callable[[list[str]], Answer], list[str]]] = {
            "/status": (self._status, ["machine"]),
            "/vars": (self._vars, []),
            "/metrics": (self._metrics, []),
        }
        found = pages.get("/vars" if path == "/debug/vars" else inside)
        if found is None:
            return text(f"no page {path!r}: there is {_PAGES}, where . is {request.base}{PREFIX}\n", 404)
        page, there = found
        try:
            values = [value for _, value in parameters(query, there) if value]
        except ValueError as error:
            return text(f"{error}\n", 400)
        return await self._in_thread(lambda: page(values))

    async def _profile(self, name: str, query: str) -> Answer:
        from bigmachine.web import profiles

        if not name:
            return await self._in_thread(lambda: profiles.index(self._session))
        return await self._in_thread(lambda: profiles.profile(self._session, name, query))

    def _status(self, names: list[str]) -> Answer:
        from bigmachine.session.seeing.asking import chosen
        from bigmachine.session.seeing.status import status

        try:
            machines = chosen(self._session.machines(), names or None)
        except InvalidCall as error:
            return text(f"{error}\n", 404)
        return text(status(self._session, machines))

    def _vars(self, _: list[str]) -> Answer:
        """Give the variables in Go's shape: those of machines under "machines"."""
        from bigmachine.session.seeing.variables import plain

        return as_json({"cmdline": sys.argv[:1], "machines": plain(self._session.vars(driver=True))})

    def _metrics(self, _: list[str]) -> Answer:
        from bigmachine.observe.openmetrics import CONTENT_TYPE, openmetrics

        told = openmetrics(self._session.vars(driver=True))
        return Answer(200, told.encode("utf-8", "replace"), CONTENT_TYPE)

    async def _in_thread(self, page: Callable[[], Answer]) -> Answer:
        """Have a page made in a thread of its own: it may take minutes, and the loop's own pool is small."""
        if not self._places.acquire(blocking=False):
            return text(f"{_MOST} pages are being collected already: try again when one of them is there\n", 503)
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Answer] = loop.create_future()

        def tell(answer: Answer | None, error: BaseException | None) -> None:
            if outcome.done():
                return  # whoever asked has gone
            if answer is not None:
                outcome.set_result(answer)
            else:
                outcome.set_exception(error or AssertionError("a page without an answer"))

        def make() -> None:
            answer: Answer | None = None
            failure: BaseException | None = None
            try:
                answer = page()
            except BaseException as error:  # noqa: BLE001 (the thread's edge: it goes to whoever asked)
                failure = error
            finally:
                self._places.release()
            try:
                loop.call_soon_threadsafe(tell, answer, failure)
            except RuntimeError:
                _log.debug("the loop of a page has ended before the page was there")

        threading.Thread(target=make, name="bigmachine-page", daemon=True).start()
        return await outcome


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return


def debug_app(session: Session, *, hosts: Iterable[str] = (), token: str = "") -> App:
    """Make the application for somebody's own server."""
    return App(session, Access.to(token, hosts))


__all__ = ["PREFIX", "App", "debug_app"]
