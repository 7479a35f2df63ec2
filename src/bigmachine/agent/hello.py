"""Read whom a TLS client wants to reach (SNI), from the first bytes of its connection, without taking part in TLS.

The agent looks at these bytes with MSG_PEEK and then gives the untouched socket to the named machine, so the answer
has to come from as much of the ClientHello as has arrived. The layout is RFC 8446, sections 4.1.2 and 5.1, and
RFC 6066, section 3:

    record     = type(1)=22 version(2)=3,x length(2) fragment
    handshake  = type(1)=1 length(3) body                       (may be cut over several records)
    body       = version(2) random(32) session<1> ciphers<2> compressions<1> extensions<2>
    extension  = type(2) data<2>         server_name: type 0, data = list<2> of type(1) name<2>

where <n> is a vector behind an n-byte length. Everything here comes from strangers. The rules: only three answers
exist, and no exception leaves; no length is believed before the bytes are there; at most `MAX_HELLO` bytes are ever
wanted; a first byte that is not TLS is decided at once, so plain HTTP does not wait for a time-out.
"""

from __future__ import annotations

import enum
from typing import Final, Literal

#: More than this is not a ClientHello of ours: with post-quantum key shares OpenSSL sends about 1.8 KB.
MAX_HELLO: Final = 16 * 1024

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0


class Verdict(enum.Enum):
    """What can be said while there is no name."""

    NEED_MORE = "need more"


NEED_MORE: Final = Verdict.NEED_MORE


class _Malformed(Exception):
    """Private to this file: the bytes contradict the layout."""


def server_name(data: bytes) -> str | Literal[Verdict.NEED_MORE] | None:
    """Give the name that the ClientHello at the start of `data` asks for, in lower case.

    None: it names nobody, or is no ClientHello at all (the agent's own TLS server then says so, as TLS prescribes).
    `NEED_MORE`: undecided until more bytes arrive; never given for `MAX_HELLO` bytes or more.
    """
    try:
        hello = _client_hello(data)
        if hello is None:
            return NEED_MORE if len(data) < MAX_HELLO else None
        return _named_in(hello)
    except _Malformed:
        return None


def _client_hello(data: bytes) -> bytes | None:
    """Put the handshake message together from its records; None while a part is missing."""
    message = b""
    position = 0
    while True:
        header = data[position : position + 5]
        if header[:1] not in (b"", b"\x16") or header[1:2] not in (b"", b"\x03"):
            raise _Malformed
        if len(header) < 5:
            return None
        length = int.from_bytes(header[3:5])
        if not 0 < length <= MAX_HELLO:
            raise _Malformed
        message += data[position + 5 : position + 5 + length]
        if (body := _body(message)) is not None:
            return body
        position += 5 + length
        if position > len(data):
            return None


def _body(message: bytes) -> bytes | None:
    """Strip the handshake header; None while the message is not whole."""
    if message and message[0] != _CLIENT_HELLO:
        raise _Malformed
    if len(message) < 4:
        return None
    length = int.from_bytes(message[1:4])
    if length > MAX_HELLO:
        raise _Malformed
    return message[4 : 4 + length] if len(message) >= 4 + length else None


class _Reader:
    """Takes pieces off a whole message; running over its end means that the message lies."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_at_end(self) -> bool:
        return self._at >= len(self._data)

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) != count:
            raise _Malformed
        self._at += count
        return piece

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width))

    def vector(self, width: int) -> bytes:
        return self.take(self.number(width))


def _named_in(body: bytes) -> str | None:
    reader = _Reader(body)
    reader.take(2 + 32)
    for width in (1, 2, 1):
        reader.vector(width)
    if reader.is_at_end:
        return None  # an old client without extensions
    extensions = _Reader(reader.vector(2))
    name = None
    while not extensions.is_at_end:
        kind, data = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME:
            if name is not None:
                raise _Malformed  # which of the two would the other side believe?
            name = _host_name(data)
    return name


def _host_name(data: bytes) -> str | None:
    names = _Reader(_Reader(data).vector(2))
    while not names.is_at_end:
        kind, name = names.number(1), names.vector(2)
        if kind == _HOST_NAME:
            # isascii: bytes.decode would raise, and no id of ours is anything else.
            return name.decode("ascii").lower() if name and name.isascii() else None
    return None


__all__ = ["MAX_HELLO", "NEED_MORE", "Verdict", "server_name"]
