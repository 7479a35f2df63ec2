"""Packs that were made once, kept by what is in them: a second host, or tomorrow's start, need not compress again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import Final

from bigmachine.image.scan.cache import cache_directory, private_directory, write_atomically

#: Bytes that are kept; what was used least recently goes.
CAP: Final = 5 << 30
#: The cache is looked through once in so many seconds at most.
_TIDY: Final = 24 * 3600.0
_HASH_SIZE: Final = 32


class PackCache:
    """Packs under the user's cache directory, each a file. Whatever goes wrong with it, it only costs time."""

    def __init__(self, directory: Path | None = None, cap: int = CAP) -> None:
        self._directory = (directory or cache_directory()) / "packs"
        self._cap = cap

    def get(self, key: str) -> bytes | None:
        """Give a pack; None if it is not here."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        pack = data[_HASH_SIZE:]
        if hashlib.sha256(pack).digest() == data[:_HASH_SIZE]:
            return pack
        with contextlib.suppress(OSError):  # a damaged disk must not damage every start from now on
            path.unlink()
        return None

    def has(self, key: str) -> bool:
        """Whether a pack is here; it may go at any time."""
        return self._path(key).is_file()

    def put(self, key: str, data: bytes) -> None:
        """Keep a pack."""
        path = self._path(key)
        with contextlib.suppress(OSError):  # a full disk, or a home that cannot be written
            private_directory(path.parent)
            write_atomically(path, hashlib.sha256(data).digest() + data)

    def _path(self, key: str) -> Path:
        return self._directory / key[:2] / key

    def tidy(self) -> None:
        """Drop what is above the cap, at most once a day."""
        stamp = self._directory / "tidied"
        try:
            if time.time() - stamp.stat().st_mtime < _TIDY:
                return
        except OSError:
            pass
        with contextlib.suppress(OSError):
            private_directory(self._directory)
            stamp.touch()
            self._drop()

    def _drop(self) -> None:
        found = []
        for path in self._directory.glob("??/*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._cap:
                return
            path.unlink(missing_ok=True)
            total -= size


class Warming(PackCache):
    """The same, for whoever wants packs to be here, and not to have them: what is here already is not read."""

    def get(self, key: str) -> bytes | None:
        return b"" if self.has(key) else None


__all__ = ["CAP", "PackCache", "Warming"]
