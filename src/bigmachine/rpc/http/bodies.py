"""Results that are streams, as bodies: an iterator as lines of JSON, a binary file as its bytes.

A `Streamed` body is pulled by the connection, one chunk when there is room for it, so a slow client holds up the
method and not the memory. An error in mid-stream cannot change the status any more. It goes out as a last line
`{"error": …}`, and the next pull raises `Truncated`, upon which the connection must end the reply in a way that no
client takes for its proper end (HTTP/2: RST_STREAM, HTTP/1.1: close without the last chunk). A file has no lines: it
is only truncated.

Whoever has a `Streamed` closes it, read to the end or not; that closes the method's generator.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, cast

from bigmachine.errors import DeadlineExceeded
from bigmachine.rpc.http import errors as http_errors
from bigmachine.rpc.http import values as http_json
from bigmachine.rpc.streams import streamed

LINES = "application/x-ndjson"
BYTES = "application/octet-stream"
_END = object()


class Truncated(Exception):
    """The rest of the body will not come; its cause is why."""


class Streamed:
    """A body that comes in chunks: an async iterator of bytes."""

    def __init__(self, items: AsyncIterator[object], media_type: str, deadline: float | None = None) -> None:
        self.media_type = media_type
        self._items = items
        self._deadline = deadline
        self._failure: BaseException | None = None

    def __aiter__(self) -> Streamed:
        return self

    async def __anext__(self) -> bytes:
        if self._failure is not None:
            raise Truncated("the method failed in the middle of its stream") from self._failure
        try:
            return self._encode(await self._next())
        except (Exception, SystemExit, asyncio.CancelledError) as exc:
            if isinstance(exc, StopAsyncIteration) or is_cancelled_by_us(exc):
                raise
            self._failure = exc
            if self.media_type != LINES:
                return b""
            return http_json.encode(http_errors.describe(exc, with_traceback=True)) + b"\n"

    async def aclose(self) -> None:
        """Close the source; a method's generator runs its `finally` now. Safe to call twice."""
        close = getattr(self._items, "aclose", None)
        if close is not None:
            with contextlib.suppress(Exception):  # the reply is over: there is nobody left to tell
                await close()

    async def _next(self) -> object:
        if self._deadline is None:
            return await anext(self._items)
        limit = asyncio.timeout_at(self._deadline)
        try:
            async with limit:
                return await anext(self._items)
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise DeadlineExceeded("the call's deadline passed in the middle of its stream") from exc

    def _encode(self, item: object) -> bytes:
        if self.media_type == LINES:
            return http_json.encode(item) + b"\n"
        if not isinstance(item, bytes | bytearray | memoryview):
            raise TypeError(f"a binary file's read() returned {type(item).__name__} instead of bytes")
        return bytes(item)


class Pulled:
    """A blocking source as an async iterator.

    It has a thread of its own: a source that blocks for long holds up no other stream, one that cares about threads
    sees always the same, and closing it needs no care, as it waits its turn behind the pull that is under way (a
    running generator refuses to be closed).
    """

    def __init__(self, pull: Callable[[], object], close: Callable[[], object] | None) -> None:
        self._pull = pull
        self._close = close
        self._context = contextvars.copy_context()
        self._thread = ThreadPoolExecutor(1, "bigmachine-http-stream")

    def __aiter__(self) -> Pulled:
        return self

    async def __anext__(self) -> object:
        item = await asyncio.get_running_loop().run_in_executor(self._thread, self._context.run, self._pull)
        if item is _END:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """Have the source closed; not awaited, as the source may be blocked. Safe to call twice."""
        close, self._close = self._close, None
        if close is not None:
            self._thread.submit(self._context.run, close)
        self._thread.shutdown(wait=False)


def stream_of(result: object, deadline: float | None) -> Streamed | None:
    """Return the streamed body for a result that is a stream, None for any other result.

    `deadline` is an instant of the event loop's clock; the whole stream must be through by then.
    """
    kind = streamed.stream_kind(result)
    if kind is None:
        return None
    close = getattr(result, "close", None)
    if kind == streamed.BYTES:
        read = cast(BinaryIO, result).read
        return Streamed(Pulled(lambda: read(streamed.PIECE) or _END, close), BYTES, deadline)
    # As in `streams`, what is both is read in a thread.
    if isinstance(result, Iterator):
        return Streamed(Pulled(lambda: next(result, _END), close), LINES, deadline)
    return Streamed(cast(AsyncIterator[object], result), LINES, deadline)


def is_cancelled_by_us(exc: BaseException) -> bool:
    """Tell the cancellation of the running task from a CancelledError that a method raised by itself."""
    task = asyncio.current_task()
    return isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling() > 0
