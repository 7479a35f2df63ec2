"""A terminal in which a program runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cluster.programs import StartProgram, assert_gone

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def run_in_terminal(
    start_program: StartProgram,
    *arguments: str | Path,
    typed: str = "",
    environ: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> str:
    """Run `python *arguments` in a terminal to its end, typing `typed`; return what it showed, as it came.

    Afterwards no process of it may be left.
    """
    master, slave = pty.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
        settings = {"TERM": "xterm", "PYTHON_BASIC_REPL": "1", **(environ or {})}
        program = start_program(*arguments, environ=settings, stdin=slave, terminal=slave)
        os.close(slave)
        slave = -1
        os.write(master, typed.encode())
        shown = _read(master, timeout)
        outcome = program.wait(2.0)
        assert outcome.status == 0, shown
        assert_gone(program.mark)
        return shown
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)


def _read(master: int, timeout: float) -> str:
    """Read until nobody holds the other end any more."""
    data = bytearray()
    end = time.monotonic() + timeout
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select([master], [], [], left)[0]:
                pytest.fail(
                    f"the program in the terminal took longer than {timeout:g} s\n{data.decode(errors='replace')}"
                )
            data += os.read(master, 65536)
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


def plain(shown: str) -> str:
    """Take colours and movements of the cursor out of what a program showed."""
    return _CONTROL.sub("", shown)
