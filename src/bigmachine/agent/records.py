"""Records of `logging` on their way from a machine to the driver, as bytes of a pipe.

A record is one JSON object, and a frame is one line: the writer's pid, the record's number there, a sign, and a piece
of the JSON. The sign is "." for the last piece of a record and "+" for one that others follow. No frame is longer than
what a pipe takes whole (PIPE_BUF), so the threads of a machine, its signal handlers and the processes that it forked
may all write to the same pipe: frames of two records can alternate, but never mix.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

#: So many records may be incomplete at once; of more, the oldest is one whose writer died in the middle of it.
_INCOMPLETE: Final = 64
#: What stands before the piece in a frame, at most, and the newline: two numbers of up to 20 digits, sign, spaces.
_HEAD: Final = 45


def encode(fields: Mapping[str, object], writer: int, number: int, limit: int) -> Iterator[bytes]:
    """Write a record as frames of at most `limit` bytes each. `fields` must be what JSON can say."""
    data = json.dumps(fields, separators=(",", ":")).encode("ascii")
    size = max(1, limit - _HEAD)
    last = (len(data) - 1) // size * size
    for start in range(0, len(data), size):
        yield b"%d %d %c %b\n" % (writer, number, b"." if start == last else b"+", data[start : start + size])


class RecordReader:
    """Puts records together from what came through the pipe, cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""
        self._pieces: dict[bytes, list[bytes]] = {}

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes; give the records that are complete now, as JSON."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        whole = []
        for line in lines:
            writer, _, rest = line.partition(b" ")
            number, _, rest = rest.partition(b" ")
            key = writer + b" " + number
            if rest.startswith(b". "):
                whole.append(b"".join([*self._pieces.pop(key, ()), rest[2:]]))
            elif rest.startswith(b"+ "):
                self._pieces.setdefault(key, []).append(rest[2:])
                if len(self._pieces) > _INCOMPLETE:
                    del self._pieces[next(iter(self._pieces))]
        return whole


def decode(data: bytes) -> dict[str, object]:
    """Read one record. What is none becomes a record that says so: a program may write to any descriptor."""
    try:
        fields = json.loads(data)
    except ValueError:
        fields = None
    return fields if isinstance(fields, dict) else {"msg": f"unreadable record: {data[:200]!r}"}


def as_text(fields: Mapping[str, object]) -> str:
    """Say a record in words, as standard error would have: one line, and those of its traceback."""
    parts = [f"{fields.get('levelname', 'WARNING')} {fields.get('name', 'root')}: {fields.get('msg', '')}"]
    parts += [str(fields[key]) for key in ("exc_text", "stack_info") if fields.get(key)]
    return "\n".join(parts)


__all__ = ["RecordReader", "as_text", "decode", "encode"]
