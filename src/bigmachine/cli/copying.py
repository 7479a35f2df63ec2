"""`bigmachine cp`: copy a file to a machine's host, or from it, whole or not at all."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import stat
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from bigmachine.cli.choosing import chosen
from bigmachine.cli.client import OK, USAGE, Conversation, Failure, open_conversation
from bigmachine.cli.printing import plain, say, say_json
from bigmachine.session.conversing import BROKEN, LENGTH, PIECE

if TYPE_CHECKING:
    from bigmachine.session.register import Entry

_FRAME: Final = 0.2
#: By name (m1) or address (10.0.0.7:4001/h12-m1).
_OF_MACHINE: Final = re.compile(r"([^/:]+:\d+/[^/:]+|[^/:]+):(.*)", re.DOTALL)


def add_cp(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument("source", metavar="SOURCE", help="a file here, or MACHINE:FILE")
    parser.add_argument("target", metavar="TARGET", help="MACHINE:FILE, or a file or folder here")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of how far it is")


def run_cp(args: argparse.Namespace) -> int:
    """Copy."""
    source, target = _place(args.source), _place(args.target)
    if (source[0] is None) == (target[0] is None):
        raise Failure("one of the two has to be on a machine: bigmachine cp data.bin m1:/tmp/data.bin", USAGE)
    entry = chosen(args.session)
    progress = _Progress(is_shown=not args.quiet and sys.stderr.isatty())
    began = time.monotonic()
    with contextlib.closing(progress):
        if target[0] is not None:
            told = _put(entry, source[1], target[0], target[1] or ".", progress)
        else:
            assert source[0] is not None
            told = _get(entry, source[0], source[1], target[1], progress)
    if args.json:
        say_json({**told, "seconds": round(time.monotonic() - began, 3)})
    elif not args.quiet:
        say(f"{plain(str(told['path']))}  {told['size']} bytes")
    return OK


def _place(text: str) -> tuple[str | None, str]:
    """Take apart MACHINE:FILE; what has a slash before its first colon is a file here."""
    found = _OF_MACHINE.fullmatch(text)
    return (found[1], found[2]) if found is not None else (None, text)


def _put(entry: Entry, path: str, machine: str, there: str, progress: _Progress) -> dict[str, Any]:
    with _opened(path) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise Failure(f"{path} is no file: only files are copied")
        progress.total = found.st_size
        name = os.path.basename(os.path.abspath(path))
        with open_conversation(
            entry, "put", machine=machine, path=there, name=name, mode=stat.S_IMODE(found.st_mode)
        ) as conversation:
            with contextlib.suppress(ConnectionError):  # it has failed, and has said why
                _send(conversation, file, progress)
            for told in conversation.lines():
                return {"path": f"{machine}:{told['path']}", "size": told["size"]}
    raise Failure(f"the session ended while {path} was copied: it is not on {machine}")


def _send(conversation: Conversation, file: BinaryIO, progress: _Progress) -> None:
    while data := file.read(PIECE):
        conversation.write(LENGTH.pack(len(data)))
        conversation.write(data)
        progress.add(len(data))
    conversation.write(LENGTH.pack(0))


def _get(entry: Entry, machine: str, path: str, here: str, progress: _Progress) -> dict[str, Any]:
    target = here or "."
    if os.path.isdir(target):
        target = os.path.join(target, os.path.basename(path))
    with open_conversation(entry, "get", machine=machine, path=path) as conversation:
        progress.total = conversation.told["size"]
        try:
            size = _save(conversation, target, progress)
        except OSError as error:
            raise Failure(f"{target} could not be written: {error.strerror}") from error
    return {"path": target, "size": size}


def _save(conversation: Conversation, target: str, progress: _Progress) -> int:
    handle, part = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(target)), prefix=".bigmachine-cp.")
    try:
        with open(handle, "wb", buffering=0) as file:
            size = _receive(conversation, file, progress)
            os.fchmod(file.fileno(), conversation.told["mode"] & 0o777)
        os.replace(part, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
    return size


def _receive(conversation: Conversation, file: BinaryIO, progress: _Progress) -> int:
    size = 0
    while True:
        (length,) = LENGTH.unpack(conversation.read_exactly(LENGTH.size))
        if length == BROKEN:
            for _ in conversation.lines():
                break
            raise Failure("the file could not be read to its end")
        if not length:
            return size
        view = memoryview(conversation.read_exactly(length))
        size += length
        while view:
            view = view[file.write(view) :]
        progress.add(length)


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb", opener=_without_waiting)
    except IsADirectoryError as error:
        raise Failure(f"{path} is a folder: only files are copied") from error
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}") from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # not for a pipe that nobody writes


class _Progress:
    """How far it is, on a terminal."""

    def __init__(self, *, is_shown: bool) -> None:
        self.total = 0
        self._is_shown = is_shown
        self._done = 0
        self._began = self._shown = time.monotonic()

    def add(self, count: int) -> None:
        """Note that so many bytes have been copied."""
        self._done += count
        now = time.monotonic()
        if self._is_shown and now - self._shown >= _FRAME:
            self._shown = now
            part = f"{self._done / self.total:4.0%}" if self.total else ""
            rate = self._done / (now - self._began) / 1e6
            sys.stderr.write(f"\r{part} {self._done / 1e6:.0f} MB, {rate:.0f} MB/s\x1b[K")
            sys.stderr.flush()

    def close(self) -> None:
        """Take it from the terminal."""
        if self._is_shown and self._shown != self._began:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


__all__ = ["add_cp", "run_cp"]
