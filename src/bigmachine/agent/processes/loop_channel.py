"""The end of a control socket in a process that runs an event loop: the agent, and a program that serves.

It never blocks: what the socket does not take waits in a queue, with its files. The loop comes in as an argument and
may be any that has add_reader (asyncio's own, uvloop).
"""

from __future__ import annotations

import errno
import os
from collections import deque
from typing import TYPE_CHECKING

from bigmachine.agent.processes.control import Decoder, Message, encode, receive_chunk, send_chunk

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from bigmachine.agent.processes.reserve import Reserve


class LoopChannel:
    """Sends and receives messages on `loop`, in whose thread every method must be called.

    `on_message` gets each message and owns its files. `on_end` is called once, when the other side is gone or talks
    nonsense; not after `close`. `reserve` is let go of while something is received, so that a file can come.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[Message], None],
        on_end: Callable[[], None],
        decoder: Decoder | None = None,
        reserve: Reserve | None = None,
    ) -> None:
        self._sock = sock
        self._loop = loop
        self._on_message = on_message
        self._on_end = on_end
        self._decoder = decoder or Decoder(os.close)
        self._reserve = reserve
        self._queue: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._is_open = True
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._readable)

    @property
    def is_open(self) -> bool:
        """Whether messages can still be sent."""
        return self._is_open

    @property
    def backlog(self) -> int:
        """How many messages wait because the other side does not read."""
        return len(self._queue)

    def send(self, body: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Send a message and take over its files: they are closed here once they are sent, or cannot be."""
        if not self._is_open:
            _close_all(fds)
            return
        self._queue.append((memoryview(encode(body, len(fds))), fds))
        if len(self._queue) == 1:
            self._flush()

    def close(self) -> None:
        """Close the socket, and all files that wait here."""
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        while self._queue:
            _close_all(self._queue.popleft()[1])
        self._decoder.close()
        self._sock.close()

    def _readable(self) -> None:
        if self._reserve is not None:
            self._reserve.let_go()
        try:
            data, batch = receive_chunk(self._sock)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._end()
            return
        finally:
            if self._reserve is not None:
                self._reserve.take()
        if not data:
            self._end()
            return
        self._decoder.feed(data, batch)
        try:
            for message in self._decoder.messages():
                if self._is_open:
                    self._on_message(message)
                else:
                    _close_all(message.fds)
        except ValueError:
            self._end()

    def _end(self) -> None:
        if self._is_open:
            self.close()
            self._on_end()

    def _flush(self) -> None:
        while self._queue:
            data, fds = self._queue[0]
            try:
                sent = send_chunk(self._sock, data, fds)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                _close_all(fds)
                self._queue.popleft()
                if error.errno != errno.ETOOMANYREFS:
                    # Gone: the reader sees it, too, and reports it once what came before is read. But too many files
                    # on their way to readers that do not read concern this message only.
                    while self._queue:
                        _close_all(self._queue.popleft()[1])
                continue
            _close_all(fds)
            if sent == len(data):
                self._queue.popleft()
            else:
                self._queue[0] = (data[sent:], ())
        if self._queue:
            self._loop.add_writer(self._sock.fileno(), self._flush)
        else:
            self._loop.remove_writer(self._sock.fileno())


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


__all__ = ["LoopChannel"]
