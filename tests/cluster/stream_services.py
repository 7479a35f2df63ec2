"""What streams much through a machine; importable there without a test runner."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

MEBIBYTE = 1 << 20


def blocks(count: int) -> Iterator[bytes]:
    """Give blocks of 1 MiB, each new."""
    for number in range(count):
        yield bytes([number % 256]) * MEBIBYTE


class Zeros(io.RawIOBase):
    """A file of so many MiB that only promises to be read."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._left = count * MEBIBYTE

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._left)
        self._left -= count
        return count


class Flow:
    """Takes and gives streams, and keeps nothing of them."""

    def pid(self) -> int:
        return os.getpid()

    def give_blocks(self, count: int) -> Iterator[bytes]:
        return blocks(count)

    def take_blocks(self, items: Iterable[bytes]) -> int:
        return sum(map(len, items))

    def give_file(self, count: int) -> BinaryIO:
        return Zeros(count)  # type: ignore[return-value]  # a raw one is read like any

    def take_file(self, file: BinaryIO) -> int:
        return sum(map(len, iter(lambda: file.read(MEBIBYTE), b"")))
