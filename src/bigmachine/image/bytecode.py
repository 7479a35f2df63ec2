"""Byte code that a machine may use without looking at the source (PEP 552: unchecked hash).

What is in the driver's `__pycache__` is mostly good for that but for its header: the code is the same, and its file
name is set anew when it is imported. What is not there is compiled here, and kept by the source's hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import marshal
import os
import sys
from pathlib import Path
from typing import Final

from bigmachine.image.scan.cache import private_directory, write_atomically

_HEADER: Final = 16
_UNCHECKED: Final = (0b01).to_bytes(4, "little")


def unchecked(source: str, sha256: str, cache_dir: Path | None) -> bytes | None:
    """Return the byte code of a source file whose content has that hash, or None if there is none any more."""
    try:
        with open(source, "rb") as file:
            status, text = os.fstat(file.fileno()), file.read()
    except OSError:
        return None
    if hashlib.sha256(text).hexdigest() != sha256:
        return None
    header = importlib.util.MAGIC_NUMBER + _UNCHECKED + importlib.util.source_hash(text)
    body = _cached(source, text, int(status.st_mtime), len(text))
    if body is None:
        body = _compiled(source, text, sha256, cache_dir)
    return None if body is None else header + body


def _cached(source: str, text: bytes, modified: int, size: int) -> bytes | None:
    """Return the code in `__pycache__`, if it is that of this source by the interpreter's own rules."""
    try:
        with open(importlib.util.cache_from_source(source), "rb") as file:
            content = file.read()
    except (OSError, NotImplementedError):  # the latter by `cache_from_source`, where an interpreter keeps none
        return None
    if len(content) <= _HEADER or content[:4] != importlib.util.MAGIC_NUMBER:
        return None
    flags, proof = int.from_bytes(content[4:8], "little"), content[8:_HEADER]
    told = (modified & 0xFFFF_FFFF).to_bytes(4, "little") + (size & 0xFFFF_FFFF).to_bytes(4, "little")
    is_valid = proof == (importlib.util.source_hash(text) if flags & 1 else told)
    return content[_HEADER:] if is_valid and flags & ~0b11 == 0 else None


def _compiled(source: str, text: bytes, sha256: str, cache_dir: Path | None) -> bytes | None:
    kept = (
        None
        if cache_dir is None
        else cache_dir / "pyc" / f"{sha256}.{sys.implementation.cache_tag}-{sys.flags.optimize}"
    )
    if kept is not None and (known := _kept(kept)) is not None:
        return known
    try:
        body = marshal.dumps(compile(text, source, "exec", dont_inherit=True))
    except (SyntaxError, ValueError, RecursionError):
        return None  # it was loaded in another way than from this source
    if kept is not None:
        with contextlib.suppress(OSError):
            private_directory(kept.parent)
            write_atomically(kept, hashlib.sha256(body).digest() + body)
    return body


def _kept(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    body = content[32:]
    return body if hashlib.sha256(body).digest() == content[:32] else None


__all__ = ["unchecked"]
