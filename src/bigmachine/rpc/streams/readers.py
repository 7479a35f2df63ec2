"""What a reader of a stream holds: `Stream` for items, `ByteStream` for the bytes of a file."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

from bigmachine.rpc.streams.incoming import Incoming

T = TypeVar("T")


class Stream(Generic[T]):
    """Items that a method yields, as they come: iterable, and async-iterable from any event loop.

    The producer is never more than a window ahead. Closing the stream, or dropping the last reference to it, stops
    the producer. An error of the producer is raised after the items that came before it.
    """

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming

    def __iter__(self) -> Stream[T]:
        return self

    def __next__(self) -> T:
        return self._incoming.pull()  # type: ignore[no-any-return]  # a T by construction

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        return await self._incoming.pull_async()  # type: ignore[no-any-return]  # a T by construction

    def close(self) -> None:
        """Stop the producer."""
        self._incoming.close()

    async def aclose(self) -> None:
        """Stop the producer."""
        self._incoming.close()

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._incoming.close()

    def __repr__(self) -> str:
        return f"<Stream {self._incoming.what} #{self._incoming.ident}>"


class ByteStream(io.RawIOBase):
    """Bytes that a method's file object gives, as a readable binary file; `async for` gives them on an event loop.

    As a file it is iterated by lines, like any other; on an event loop by pieces, as they come.
    """

    def __init__(self, incoming: Incoming) -> None:
        super().__init__()
        self._incoming = incoming
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        """Return up to `size` bytes, fewer only when no more are there yet; all of them if it is negative."""
        if size is None or size < 0:
            return self.readall()
        if size == 0 or not self._fill():
            return b""
        piece, self._left = self._left[:size], self._left[size:]
        whole = piece.obj
        return whole if isinstance(whole, bytes) and len(whole) == len(piece) else bytes(piece)

    def __aiter__(self) -> AsyncIterator[bytes]:
        # Not the stream itself: what has `__anext__` is a stream of items to whoever passes it on.
        return _Pieces(self)

    async def next_piece(self) -> bytes:
        """Return the next bytes as they came; b"" at the end. For readers on an event loop.

        Raises: the producer's error, DeadlineExceeded; ValueError if the stream is closed.
        """
        if self.closed:
            raise ValueError("the stream is closed")
        if self._left:
            piece, self._left = bytes(self._left), memoryview(b"")
            return piece
        try:
            return bytes(await self._incoming.pull_async())
        except StopAsyncIteration:
            return b""

    def readall(self) -> bytes:
        pieces = []
        while self._fill():
            pieces.append(self._left)
            self._left = memoryview(b"")
        return b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        into = memoryview(buffer).cast("B")
        if not len(into) or not self._fill():
            return 0
        count = min(len(into), len(self._left))
        into[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def _fill(self) -> bool:
        if self.closed:
            raise ValueError("the stream is closed")
        while not self._left:
            try:
                self._left = memoryview(self._incoming.pull())
            except StopIteration:
                return False
        return True

    def close(self) -> None:
        """Stop the producer."""
        if not self.closed:
            self._incoming.close()
        super().close()


class _Pieces:
    """The bytes of a stream, as they come, for `async for`."""

    __slots__ = ("_stream",)

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        if piece := await self._stream.next_piece():
            return piece
        raise StopAsyncIteration
