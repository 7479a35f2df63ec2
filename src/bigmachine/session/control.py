"""What a session answers to its user's other programs, on its socket in the register.

A client sends one line, an object of JSON: `{"do": NAME, ...arguments}`. It gets one line back, `{"ok": true, ...}` or
`{"error": {"kind": KIND, "text": TEXT}}`, and that is all; or, where NAME says so, what follows until the end: lines of
JSON or bytes, or a conversation, bytes both ways. The end of what a client sends ends its request, except in a
conversation. Who is not of the same user is refused before a byte of his is read.

KIND is one of: forbidden, unknown (there is no such NAME), invalid (wrong arguments), missing (there is no such
machine), timeout, failed.

What there is to be asked stands in `VERBS`. A verb is a coroutine function, run on the session's event loop:

    async def verb(session: Session, request: Mapping[str, Any], channel: Channel) -> None

It calls `channel.accept(...)` once, and writes what follows; or it raises: `Refusal`, or any `BigmachineError`. What
waits (`Session.profile`, say) goes by `aside(...)`. It is cancelled when its client is gone or the session ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bigmachine.errors import BigmachineError, DeadlineExceeded, InvalidCall
from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from bigmachine.machine import Machine
    from bigmachine.session.session import Session

_log = logging.getLogger("bigmachine")
_T = TypeVar("_T")
_LONGEST: Final = 2**20
#: For a client to say what it wants.
_PATIENCE: Final = 10.0
#: Clients at once; somebody's loop that went wild should not take all descriptors.
_MOST: Final = 64


@frozen
class Verb:
    """Where a verb is to be found. `talks`: it reads what its client sends, until that ends."""

    module: str
    function: str
    talks: bool = False


_ANSWERS: Final = "bigmachine.session.answers"
_CONVERSING: Final = "bigmachine.session.conversing"

#: What can be asked; imported when it is.
VERBS: Final[Mapping[str, Verb]] = {
    "brief": Verb(_ANSWERS, "brief"),
    "status": Verb(_ANSWERS, "status"),
    "top": Verb(_ANSWERS, "top"),
    "vars": Verb(_ANSWERS, "variables"),
    "timeline": Verb(_ANSWERS, "timeline"),
    "profile": Verb(_ANSWERS, "profile"),
    "dump": Verb(_ANSWERS, "dump"),
    "kill": Verb(_ANSWERS, "kill"),
    "logs": Verb(_ANSWERS, "logs"),
    "halts": Verb(_CONVERSING, "halts"),
    "converse": Verb(_CONVERSING, "converse", talks=True),
    "get": Verb(_CONVERSING, "get"),
    "put": Verb(_CONVERSING, "put", talks=True),
}


class Refusal(BigmachineError):
    """A request cannot be met; `kind` as the protocol has it."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Channel:
    """A connection to one client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        #: Whether the client has been answered.
        self.is_accepted = False
        #: Called when the session is about to end: whoever wants to tell the last of something ends by itself then,
        #: and soon; without it, a verb is cancelled.
        self.when_ending: Callable[[], object] | None = None

    async def accept(self, **told: object) -> None:
        """Say that the request is met, and what is known by now; once, and before anything else is written."""
        assert not self.is_accepted
        self.is_accepted = True
        await self.send({"ok": True, **told})

    async def send(self, told: Mapping[str, object]) -> None:
        """Write a line of JSON."""
        data = json.dumps(told, separators=(",", ":"), default=str, ensure_ascii=False)
        await self.write(data.encode("utf-8", "replace") + b"\n")

    async def write(self, data: bytes) -> None:
        """Write bytes; waits while the client does not take them.

        Raises:
            ConnectionError: if the client is gone.
        """
        self._writer.write(data)
        await self._writer.drain()

    async def read(self, most: int = 65536) -> bytes:
        """Read what the client has sent; b"" at its end."""
        return await self._reader.read(most)

    async def readline(self) -> bytes:
        """Read a line; without its newline at the end of what the client sends."""
        try:
            return await self._reader.readline()
        except ValueError as error:
            raise Refusal("invalid", f"a line has to be shorter than {_LONGEST} bytes") from error

    def end_writing(self) -> None:
        """Say that nothing more will be written; the client may still send."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.write_eof()

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()


async def aside(function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    """Call a function that waits, in a thread of its own, which does not hold up the end of the program."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_T] = loop.create_future()

    def tell(value: _T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(value)  # type: ignore[arg-type]  # a value, where there is no error

    def run() -> None:
        value: _T | None = None
        failed: BaseException | None = None
        try:
            value = function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 (the thread's edge: it goes to whoever waits)
            failed = error
        with contextlib.suppress(RuntimeError):  # the session has ended meanwhile
            loop.call_soon_threadsafe(tell, value, failed)

    threading.Thread(target=run, name="bigmachine-answer", daemon=True).start()
    return await outcome


def machines_of(session: Session, wanted: Iterable[str] | None) -> list[Machine]:
    """Find the machines that a request names, by name, address or id; all that there are if it names none.

    Raises:
        Refusal: if there is none of this name.
    """
    from bigmachine.session.seeing.asking import chosen

    names = list(wanted or ())
    if not all(isinstance(name, str) for name in names):
        raise Refusal("invalid", "machines are named by strings")
    try:
        return chosen(session.machines(), names or None)
    except InvalidCall as error:
        raise Refusal("missing", str(error)) from error


class Control:
    """Answers those who come. On the session's event loop."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._tasks: dict[asyncio.Task[None], Channel | None] = {}

    def take(self, connection: socket.socket) -> None:
        """Take a connection, and answer it."""
        if len(self._tasks) >= _MOST:
            connection.close()
            return
        task: asyncio.Task[None] = self._session._reactor.spawn(self._serve(connection), "answering a command")
        self._tasks[task] = None
        task.add_done_callback(lambda ended: self._tasks.pop(ended, None))

    async def close(self, patience: float) -> None:
        """Send all away; those who follow what is written get the last of it, in so many seconds."""
        if not self._tasks:
            return
        await aside(self._session.shown, patience)
        for task, channel in list(self._tasks.items()):
            if channel is not None and channel.when_ending is not None:
                channel.when_ending()
            else:
                task.cancel()
        left = set(self._tasks)
        if left:
            _, left = await asyncio.wait(left, timeout=patience)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=patience)

    async def _serve(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(_LONGEST, loop)
        try:
            is_ours = uid_of(connection) == os.geteuid()
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection)
        except OSError:
            connection.close()
            return
        channel = Channel(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
        if (task := asyncio.current_task()) in self._tasks:
            self._tasks[task] = channel
        try:
            await self._answer(channel, is_ours=is_ours)
        except OSError:
            pass  # the client went away, which is its right
        finally:
            await channel.close()

    async def _answer(self, channel: Channel, *, is_ours: bool) -> None:
        try:
            if not is_ours:
                raise Refusal("forbidden", "this session belongs to another user")
            verb, request = await _request(channel)
            await self._do(verb, request, channel)
        except Exception as error:  # the edge: it is told to who asked, not to the program
            if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                raise
            told = told_error(error)
            if told["kind"] == "failed" and not isinstance(error, BigmachineError):
                _log.debug("a command failed", exc_info=error)
            await channel.send({"error": told})

    async def _do(self, verb: Verb, request: Mapping[str, Any], channel: Channel) -> None:
        # Some of what a verb needs takes a while to be imported, in which keepalives are due.
        module = await aside(import_module, verb.module)
        doing = asyncio.ensure_future(getattr(module, verb.function)(self._session, request, channel))
        leaving = None if verb.talks else asyncio.ensure_future(_gone(channel))
        both = [task for task in (doing, leaving) if task is not None]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                doing.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.wait(both, timeout=_PATIENCE)


async def _gone(channel: Channel) -> None:
    """Wait until the client has ended."""
    with contextlib.suppress(OSError):
        while await channel.read():
            pass


async def _request(channel: Channel) -> tuple[Verb, Mapping[str, Any]]:
    try:
        async with asyncio.timeout(_PATIENCE):
            line = await channel.readline()
    except TimeoutError as error:
        raise Refusal("timeout", f"no request came within {_PATIENCE:g} s") from error
    try:
        request = json.loads(line)
    except ValueError as error:
        raise Refusal("invalid", f"a request is a line of JSON: {error}") from error
    name = request.get("do") if isinstance(request, dict) else None
    verb = VERBS.get(name) if isinstance(name, str) else None
    if verb is None:
        raise Refusal("unknown", f"this session cannot {name!r}: it can {', '.join(sorted(VERBS))}")
    return verb, request


def told_error(error: BaseException) -> dict[str, str]:
    """Say what went wrong as the protocol has it."""
    kind = "failed"
    if isinstance(error, Refusal):
        kind = error.kind
    elif isinstance(error, DeadlineExceeded | TimeoutError):
        kind = "timeout"
    elif isinstance(error, InvalidCall):
        kind = "invalid"
    text = str(error) or type(error).__name__
    return {"kind": kind, "text": text if isinstance(error, BigmachineError) else f"{type(error).__name__}: {text}"}


def uid_of(connection: socket.socket) -> int:
    """Ask the kernel who is at the other end.

    Raises:
        OSError: if it does not say.
    """
    if sys.platform == "linux":
        return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
    # macOS and the BSDs: LOCAL_PEERCRED gives a struct xucred, a version and then the user.
    return int(struct.unpack_from("2I", connection.getsockopt(0, 1, 76))[1])


__all__ = ["VERBS", "Channel", "Control", "Refusal", "Verb", "aside", "machines_of", "told_error", "uid_of"]
