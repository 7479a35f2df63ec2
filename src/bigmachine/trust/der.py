"""DER as far as certificates need it (ITU-T X.690): values to bytes, and bytes to PEM (RFC 7468). Nothing is read."""

from __future__ import annotations

import binascii
import datetime as dt

# Universal tags, X.680, section 8.4; 0x20 marks those with other elements inside.
_BOOLEAN = 0x01
_INTEGER = 0x02
_BIT_STRING = 0x03
_OCTET_STRING = 0x04
_OBJECT_IDENTIFIER = 0x06
_UTF8_STRING = 0x0C
_UTC_TIME = 0x17
_GENERALIZED_TIME = 0x18
_SEQUENCE = 0x30
_SET = 0x31

TRUE = bytes((_BOOLEAN, 1, 0xFF))


def element(tag: int, content: bytes) -> bytes:
    """Put a tag and the content's length before it."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(size))) + size + content


def sequence(*elements: bytes) -> bytes:
    """Put encoded elements one after another."""
    return element(_SEQUENCE, b"".join(elements))


def set_of_one(member: bytes) -> bytes:
    """Make a set; of several members the order would matter."""
    return element(_SET, member)


def inside(number: int, *elements: bytes) -> bytes:
    """Put elements into a context-specific tag of that number: `[number]`, explicit, or implicit of a sequence."""
    return element(0xA0 | number, b"".join(elements))


def instead(number: int, content: bytes) -> bytes:
    """Give a content without elements the context-specific tag of that number: `[number]`, implicit."""
    return element(0x80 | number, content)


def integer(value: int) -> bytes:
    """Encode an integer, not a negative one."""
    return element(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1))


def bits(content: bytes, unused: int = 0) -> bytes:
    """Encode a bit string; of its last byte the lowest `unused` bits do not count."""
    return element(_BIT_STRING, bytes((unused,)) + content)


def octets(content: bytes) -> bytes:
    """Encode bytes, which may be an encoded element again."""
    return element(_OCTET_STRING, content)


def text(value: str) -> bytes:
    """Encode a string, as UTF-8."""
    return element(_UTF8_STRING, value.encode())


def identifier(dotted: str) -> bytes:
    """Encode an object identifier, such as "2.5.4.3"."""
    first, second, *arcs = map(int, dotted.split("."))
    content = bytearray()
    for arc in (40 * first + second, *arcs):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        content += bytes(reversed(groups))
    return element(_OBJECT_IDENTIFIER, bytes(content))


def time(moment: dt.datetime) -> bytes:
    """Encode a time, which is in UTC, as certificates have it (RFC 5280, section 4.1.2.5)."""
    if 1950 <= moment.year < 2050:
        return element(_UTC_TIME, f"{moment:%y%m%d%H%M%SZ}".encode())
    return element(_GENERALIZED_TIME, f"{moment:%Y%m%d%H%M%SZ}".encode())


def pem(label: str, data: bytes) -> bytes:
    """Write `data` as text."""
    body = binascii.b2a_base64(data, newline=False)
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    return b"\n".join((f"-----BEGIN {label}-----".encode(), *lines, f"-----END {label}-----".encode(), b""))
