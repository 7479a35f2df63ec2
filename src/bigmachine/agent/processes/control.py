"""The messages between the agent, the zygote and a program: lines of JSON over a Unix socket, with open files.

A message is one JSON object on one line; its key "k" says what it is. Sockets and pipes go with a message by
SCM_RIGHTS; its key "fds" says how many. How the two find each other again on a byte stream: a sender attaches the
files to the first byte of the message's own sendmsg, and the kernel never lets one recvmsg cross from one such batch
into the next (unix(7)). So each recvmsg brings at most one batch, no later than the first byte of its message, and
the n-th message that declares files owns the n-th batch, however its bytes were cut or glued together. A batch can be
incomplete when the receiver has no descriptors left (MSG_CTRUNC); its message then arrives with fewer files than it
declares, and the messages after it still get their own.

This file holds the codec, which does no I/O, and the channel for a process that has nothing else to wait for.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, Final

from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

#: No message of ours carries more files.
MAX_FDS: Final = 8
#: A longer line is a mistake: the longest are a pickled exception or a large environment.
MAX_LINE: Final = 64 << 20
_CHUNK: Final = 64 * 1024
_ANCILLARY: Final = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
# Received files must not leak into processes that the receiver starts; where the kernel cannot see to it, we do.
_CLOEXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


@frozen
class Message:
    """One message as received. Whoever takes it owns `fds`."""

    body: Mapping[str, object]
    fds: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        """What it is."""
        return self.text("k")

    def text(self, key: str) -> str:
        """Give a field that is text; empty if it is missing or something else."""
        value = self.body.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int:
        """Give a field that is an integer; 0 if it is missing or something else."""
        value = self.body.get(key)
        return value if isinstance(value, int) else 0


def encode(body: Mapping[str, object], fds: int = 0) -> bytes:
    """Write a message that goes with `fds` files."""
    if fds:
        body = {**body, "fds": fds}
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


class Decoder:
    """Puts messages together from what recvmsg gave. `close` disposes of a file that belongs to no message."""

    def __init__(self, close: Callable[[int], None]) -> None:
        self._close = close
        self._buffer = bytearray()
        self._searched = 0
        self._batches: deque[Sequence[int]] = deque()

    def feed(self, data: bytes, batch: Sequence[int] | None = None) -> None:
        """Take the bytes and the files of one recvmsg. `batch` is None if none came, not even one cut off."""
        self._buffer += data
        if batch is not None:
            self._batches.append(batch)

    def messages(self) -> Iterator[Message]:
        """Give the messages that are complete.

        Raises:
            ValueError: if a line is no JSON object, or too long: the other side is broken, and the channel with it.
        """
        while (end := self._buffer.find(b"\n", self._searched)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._searched = 0
            yield self._message(line)
        self._searched = len(self._buffer)
        if self._searched > MAX_LINE:
            raise ValueError(f"a control message is longer than {MAX_LINE} bytes")

    def close(self) -> None:
        """Dispose of the files that no message has claimed."""
        while self._batches:
            self._dispose(self._batches.popleft())

    def _message(self, line: bytes) -> Message:
        try:
            body = json.loads(line)
        except RecursionError:
            raise ValueError(f"a control message is nested too deeply: {line[:80]!r}") from None
        if not isinstance(body, dict):
            raise ValueError(f"a control message must be a JSON object, not {line[:80]!r}")  # noqa: TRY004 (bad bytes)
        message = Message(body)
        count = message.number("fds")
        if count <= 0 or not self._batches:
            return message
        batch = self._batches.popleft()
        self._dispose(batch[count:])
        return Message(body, tuple(batch[:count]))

    def _dispose(self, batch: Sequence[int]) -> None:
        for fd in batch:
            self._close(fd)


def receive_chunk(sock: socket.socket) -> tuple[bytes, Sequence[int] | None]:
    """Do one recvmsg: the bytes (none at the end of the stream) and the files, as `Decoder.feed` takes them."""
    data, ancillary, flags, _ = sock.recvmsg(_CHUNK, _ANCILLARY, _CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    if not _CLOEXEC:
        for fd in fds:
            os.set_inheritable(fd, False)
    return data, fds.tolist() if fds or flags & socket.MSG_CTRUNC else None


def send_chunk(sock: socket.socket, data: bytes | memoryview, fds: Sequence[int] = ()) -> int:
    """Do one sendmsg; gives how many bytes it took. The files go with the first of them."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    return sock.sendmsg([data], ancillary, getattr(socket, "MSG_NOSIGNAL", 0))


class BlockingChannel:
    """The end of a control socket in a process that has nothing else to wait for: the zygote, a program coming up."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.decoder = Decoder(os.close)
        self._ready: deque[Message] = deque()

    def send(self, body: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Send a message; the files stay open here.

        Raises:
            OSError: if the other side is gone.
        """
        data = memoryview(encode(body, len(fds)))
        sent = send_chunk(self.socket, data, fds)
        while sent < len(data):
            sent += send_chunk(self.socket, data[sent:])

    def receive(self) -> Message | None:
        """Wait for a message; None when the other side is gone."""
        while not self._ready:
            if not self._take_in():
                return None
        return self._ready.popleft()

    def next_of(self, kind: str) -> Message | None:
        """Give the next message if it is there already and of this kind; any other waits for `receive`."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        while not self._ready:
            if not poll.poll(0) or not self._take_in():
                return None
        return self._ready.popleft() if self._ready[0].kind == kind else None

    def _take_in(self) -> bool:
        """Wait for what comes; False when the other side is gone."""
        try:
            data, batch = receive_chunk(self.socket)
        except ConnectionError:
            return False
        if data:
            self.decoder.feed(data, batch)
            self._ready.extend(self.decoder.messages())
        return bool(data)

    def take_over(self) -> list[Message]:
        """Give what was received beyond the last message taken; the socket and the decoder are the caller's now."""
        waiting = list(self._ready)
        self._ready.clear()
        return waiting

    def close(self) -> None:
        """Close the socket, and the files that nobody took."""
        for message in self.take_over():
            for fd in message.fds:
                os.close(fd)
        self.decoder.close()
        self.socket.close()


__all__ = ["MAX_FDS", "BlockingChannel", "Decoder", "Message", "encode", "receive_chunk", "send_chunk"]
