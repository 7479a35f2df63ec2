"""What the same work costs without the library, between two processes over a blocking TLS socket.

`Floor` is the calling end; the same file, run as a script, is the other one. Each piece of work begins with a header:
what, a size, a number.
"""

from __future__ import annotations

import io
import pickle
import ssl
import struct
import threading
import time
from collections.abc import Callable

import measure
import tls

_HEADER = struct.Struct("<BQQ")
_PING, _UP, _DOWN, _ECHO, _ITEMS = range(1, 6)
#: About what a frame with the call of an int takes.
CALL = 64
_BUFFER = 256 * 1024
_ACK = b"!"

PING = f"blocking ssl ping-pong of {CALL} B between two processes, TLS 1.3"
BULK = "blocking ssl socket pair between two processes, TLS 1.3, into memory that is there already"
ECHO = "pickled calls and replies over the same blocking ssl socket, all that are in flight in one write"
BESIDE = "the same ping-pong while two threads a side move 64 MiB up and down over blocking ssl sockets of their own"
ITEMS = "pickle.dump and pickle.load through buffered files over a blocking ssl socket"


class Floor(tls.Child):
    """The calling end of the floors; with `beside`, also of one transfer each way that goes on beside them."""

    def __init__(self, *, beside: bool = False) -> None:
        super().__init__("floors.py", connections=3 if beside else 1)
        self._memory = memoryview(bytearray(64 * measure.MEBIBYTE))

    def ping(self, n: int) -> list[float]:
        """Send and receive a few bytes; return the seconds of each round trip."""
        self.socket.sendall(_HEADER.pack(_PING, CALL, n))
        message, into = bytes(CALL), memoryview(bytearray(CALL))

        def turn() -> None:
            self.socket.sendall(message)
            _receive(self.socket, into)

        return measure.timed(turn, n)

    def traffic(self) -> Traffic:
        """Begin to move 64 MiB up and down all the time, by two threads."""
        up, down = self.others
        return Traffic(
            lambda: _send(up, self._memory),
            lambda: _ask(down, memoryview(bytearray(len(self._memory)))),
            len(self._memory),
        )

    def up(self, size: int) -> float:
        """Send so many bytes; return the seconds until the other end has them."""
        begin = time.perf_counter()
        _send(self.socket, self._memory[:size])
        return time.perf_counter() - begin

    def down(self, size: int) -> float:
        """Ask for so many bytes; return the seconds until they are here."""
        begin = time.perf_counter()
        _ask(self.socket, self._memory[:size])
        return time.perf_counter() - begin

    def echo(self, in_flight: int, total: int) -> float:
        """Send pickled calls, so many at once; return the calls a second."""
        batches = total // in_flight
        self.socket.sendall(_HEADER.pack(_ECHO, in_flight, batches))
        file = _Buffered(self.socket)
        call = ("Target.echo", (1,), {}, None, None)
        begin = time.perf_counter()
        for _ in range(batches):
            for _ in range(in_flight):
                file.dump(call)
            file.flush()
            for _ in range(in_flight):
                file.load()
        return batches * in_flight / (time.perf_counter() - begin)

    def items(self, n: int) -> float:
        """Receive pickled ints; return the items a second."""
        begin = time.perf_counter()
        self.socket.sendall(_HEADER.pack(_ITEMS, 0, n))
        file = _Buffered(self.socket)
        for _ in range(n):
            file.load()
        return n / (time.perf_counter() - begin)


class Traffic:
    """What goes up and down all the time, by a thread each way, until it is ended."""

    def __init__(self, up: Callable[[], object], down: Callable[[], object], size: int) -> None:
        self._size = size
        self._is_ended = False
        self._count = [0, 0]
        self._threads = [threading.Thread(target=self._go, args=(i, way)) for i, way in enumerate((up, down))]
        self._begin = time.perf_counter()
        for thread in self._threads:
            thread.start()

    def _go(self, number: int, way: Callable[[], object]) -> None:
        while not self._is_ended:
            way()
            self._count[number] += 1

    def end(self) -> tuple[float, float]:
        """Stop; return bytes a second, up and down."""
        self._is_ended = True
        for thread in self._threads:
            thread.join()
        took = time.perf_counter() - self._begin
        up, down = (count * self._size / took for count in self._count)
        return up, down


class _Buffered:
    """Pickles through buffered files."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        raw = connection.makefile("rwb", 0)
        self._reader = io.BufferedReader(raw, _BUFFER)  # type: ignore[arg-type]  # a SocketIO
        self._writer = io.BufferedWriter(raw, _BUFFER)  # type: ignore[arg-type]  # a SocketIO
        self.flush = self._writer.flush

    def dump(self, value: object) -> None:
        pickle.dump(value, self._writer, 5)

    def load(self) -> object:
        return pickle.load(self._reader)


def _send(connection: ssl.SSLSocket, data: memoryview) -> None:
    connection.sendall(_HEADER.pack(_UP, len(data), 1))
    connection.sendall(data)
    _receive(connection, memoryview(bytearray(1)))


def _ask(connection: ssl.SSLSocket, into: memoryview) -> None:
    connection.sendall(_HEADER.pack(_DOWN, len(into), 1))
    _receive(connection, into)


def _receive(connection: ssl.SSLSocket, into: memoryview) -> None:
    at = 0
    while at < len(into):
        count = connection.recv_into(into[at:])
        if not count:
            raise EOFError("the other end is gone")
        at += count


def _answer(connection: ssl.SSLSocket) -> None:
    """Be the other end."""
    memory = memoryview(bytearray(64 * measure.MEBIBYTE))
    header = memoryview(bytearray(_HEADER.size))
    while True:
        try:
            _receive(connection, header)
        except EOFError:
            return
        what, size, n = _HEADER.unpack(header)
        if what == _PING:
            for _ in range(n):
                _receive(connection, memory[:size])
                connection.sendall(memory[:size])
        elif what == _UP:
            _receive(connection, memory[:size])
            connection.sendall(_ACK)
        elif what == _DOWN:
            connection.sendall(memory[:size])
        else:
            _answer_pickles(_Buffered(connection), what, size, n)


def _answer_pickles(file: _Buffered, what: int, in_flight: int, n: int) -> None:
    if what == _ECHO:
        for _ in range(n):
            values = [file.load()[1][0] for _ in range(in_flight)]  # type: ignore[index]  # a call
            for value in values:
                file.dump(value)
            file.flush()
    else:
        for i in range(n):
            file.dump(i)
        file.flush()


if __name__ == "__main__":
    tls.serve(_answer)
