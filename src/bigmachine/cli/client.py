"""The client's side of a session's socket; see `session.control` for the protocol."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any, Final, Self

from bigmachine.errors import BigmachineError
from bigmachine.session import register

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
MISSING: Final = 3
INTERRUPTED: Final = 130

_CODES: Final = {"invalid": USAGE, "unknown": FAILED, "missing": MISSING}
_CHUNK: Final = 65536
_AGAIN: Final = 0.02
#: For the driver to take a request; longer than it takes the busiest event loop.
CONNECTING: Final = 10.0


class Failure(BigmachineError):
    """A command fails; `code` is its exit code."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.code = code


class Conversation:
    """A request that was accepted: what was answered at first (`told`), and what follows."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self.connection = connection
        self._name = name
        self._rest = b""
        self.told: dict[str, Any] = {}

    def begin(self) -> None:
        """Read the first answer.

        Raises:
            Failure: if it is an error, or none comes.
        """
        line = self._line()
        if line is None:
            raise Failure(f"the session {self._name} has ended before it answered: see `bigmachine ls`")
        self.told = self._checked(line)

    def _checked(self, line: bytes) -> dict[str, Any]:
        told = json.loads(line)
        if "error" in told:
            raise Failure(told["error"]["text"], _CODES.get(told["error"]["kind"], FAILED))
        assert isinstance(told, dict)
        return told

    def _line(self) -> bytes | None:
        while (at := self._rest.find(b"\n")) < 0:
            data = self._more()
            if not data:
                return None
            self._rest += data
        line, self._rest = self._rest[:at], self._rest[at + 1 :]
        return line

    def _more(self) -> bytes:
        try:
            return self.connection.recv(_CHUNK)
        except TimeoutError as error:
            raise Failure(f"the session {self._name} did not answer in time: its driver hangs or is stopped") from error
        except ConnectionError:
            return b""

    def lines(self) -> Iterator[dict[str, Any]]:
        """Give the objects that follow, as they come, until the end.

        Raises:
            Failure: if one of them is an error.
        """
        while (line := self._line()) is not None:
            yield self._checked(line)

    def read(self) -> bytes:
        """Read some of what follows; b"" at its end."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        return self._more()

    def read_exactly(self, count: int) -> bytes:
        """Read so many bytes.

        Raises:
            Failure: if there are not so many.
        """
        parts: list[bytes] = []
        left = count
        while left:
            data = self.read()
            if not data:
                raise Failure(f"the session {self._name} has ended, {left} of {count} bytes are missing")
            parts.append(data[:left])
            self._rest = data[left:]
            left -= len(parts[-1])
        return b"".join(parts)

    def write(self, data: bytes) -> None:
        """Send bytes, in a conversation."""
        self.connection.sendall(data)

    def end_writing(self) -> None:
        """Say that nothing more will be sent."""
        self.connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_conversation(
    entry: register.Entry, do: str, *, timeout: float | None = 30.0, connecting: float = CONNECTING, **arguments: Any
) -> Conversation:
    """Ask a session for something, and give the conversation once it has accepted.

    `timeout`: for the first answer, None: as long as it takes. What follows is waited for without a limit.

    Raises:
        Failure: if it refuses, fails, or does not answer.
    """
    name = entry.record.id
    connection = socket.socket(socket.AF_UNIX)
    conversation = Conversation(connection, name)
    try:
        connection.settimeout(connecting)
        try:
            with register.reachable(entry.folder, name) as path:
                _connect(connection, path, connecting)
            with contextlib.suppress(BrokenPipeError):  # it refuses before it reads, and says why
                connection.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
        except TimeoutError as error:
            raise Failure(f"the session {name} does not listen: its driver hangs, or is stopped") from error
        except OSError as error:
            raise Failure(f"the session {name} cannot be reached ({error.strerror}): see `bigmachine ls`") from error
        connection.settimeout(timeout)
        conversation.begin()
        connection.settimeout(None)
    except BaseException:
        connection.close()
        raise
    return conversation


def _connect(connection: socket.socket, path: str, limit: float) -> None:
    """Connect; where others wait already the kernel does not let one wait, but says so at once."""
    end = time.monotonic() + limit
    while True:
        try:
            connection.connect(path)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError from None
            time.sleep(_AGAIN)
        else:
            return


def ask(entry: register.Entry, do: str, *, timeout: float | None = 30.0, **arguments: Any) -> dict[str, Any]:
    """Ask a session for something that is one answer.

    Raises:
        Failure: as `open_conversation`.
    """
    with open_conversation(entry, do, timeout=timeout, **arguments) as conversation:
        return conversation.told


__all__ = [
    "FAILED",
    "INTERRUPTED",
    "MISSING",
    "OK",
    "USAGE",
    "Conversation",
    "Failure",
    "ask",
    "open_conversation",
]
