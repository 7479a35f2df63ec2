"""The keys of the calls that this machine has begun and that may be sent again, kept where they outlive its process.

When `Supervisor.exec` replaces the process, an attempt that comes after that must not begin a call that the old process
had begun. So their keys stand in a file in memory that the agent has open, too, and passes on to the next process. A
key is written before its call is begun, by one write: it is there however the process ends. What came of the calls is
lost with the process; a repetition is told so (`OutcomeGone`).

The file is made for the first such call, and is a ring of records: a number that grows, and a key.
"""

from __future__ import annotations

import logging
import os
import struct
import tempfile
from typing import TYPE_CHECKING, Final

from bigmachine.rpc.ledger import REMEMBERED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_log = logging.getLogger("bigmachine")
_RECORD: Final = struct.Struct("<Q16s")
_NAME: Final = "bigmachine-calls"


class Journal:
    """Notes keys. `send` tells the agent something, with files, which it closes; `fd`: what an earlier process noted.

    All of it on the event loop's thread.
    """

    def __init__(
        self, send: Callable[[Mapping[str, object], Sequence[int]], None], fd: int | None, capacity: int = REMEMBERED
    ) -> None:
        self._send = send
        self._fd = fd
        self._capacity = capacity
        self._file = None if fd is None else os.fstat(fd)
        self._has_warned = False
        self._written = 0

    def former(self) -> list[bytes]:
        """Read the keys that are there, the oldest first."""
        if self._fd is None:
            return []
        data = os.pread(self._fd, self._capacity * _RECORD.size, 0)
        whole = len(data) - len(data) % _RECORD.size
        records = sorted(record for record in _RECORD.iter_unpack(data[:whole]) if record[0])
        self._written = records[-1][0] if records else 0
        return [key for _, key in records]

    def note(self, key: bytes, method: str) -> None:
        """Write a key down. The services are brought to each process anew, by the same keys: these are left out."""
        if method.startswith("Supervisor.") or len(key) != 16:
            return
        try:
            if self._fd is None:
                self._begin()
            assert self._fd is not None
            assert self._file is not None
            # A program that closes descriptors which are not its own may have got this number for a file of its own.
            if not os.path.samestat(os.fstat(self._fd), self._file):
                raise OSError("the program has closed it")
            os.pwrite(self._fd, _RECORD.pack(self._written + 1, key), self._written % self._capacity * _RECORD.size)
            self._written += 1
        except OSError as error:
            if self._has_warned:
                return
            self._has_warned = True
            _log.warning(
                "no note is kept of calls: if Supervisor.exec comes, one that is repeated may run twice: %s", error
            )

    def _begin(self) -> None:
        self._fd = _memory()
        self._file = os.fstat(self._fd)
        self._send({"k": "journal"}, (os.dup(self._fd),))


def _memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create(_NAME)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


__all__ = ["Journal"]
