"""Read a pipe on the event loop, with a brake."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

#: What a pipe holds on Linux unless told otherwise, so that one read empties it.
_CHUNK: Final = 64 * 1024


class PipeReader:
    """Reads the non-blocking descriptor `fd`, which it owns, and calls `on_data` with what came.

    `ended` is resolved at the end of the file, or by `close`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, on_data: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._on_data = on_data
        self._is_reading = False
        self.ended: asyncio.Future[None] = loop.create_future()
        self.resume()

    def pause(self) -> None:
        """Stop reading: the writer waits once the pipe is full."""
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Read on."""
        if not self._is_reading and not self.ended.done():
            self._is_reading = True
            self._loop.add_reader(self._fd, self._readable)

    def drain(self) -> None:
        """Take what is there now, one pipe's fill at most, unless reading is paused."""
        if self._is_reading:
            self._readable()

    def close(self) -> None:
        """Stop for good."""
        if not self.ended.done():
            self.pause()
            os.close(self._fd)
            self.ended.set_result(None)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._on_data(data)
        else:
            self.close()


__all__ = ["PipeReader"]
