"""Two sides of a terminal: programs that run in one, typed to and read from as a person would."""

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

from tests.cluster.programs import Running, StartProgram
from tests.cluster.terminal import plain


class Terminal:
    """A program in a terminal of its own."""

    def __init__(
        self, start_program: StartProgram, *arguments: str | Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 300, 0, 0))
        # The program leads a session whose terminal this is, as one that a shell has started in its foreground.
        lead = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, "
            "[sys.executable, *sys.argv[1:]])"
        )
        settings = {"TERM": "xterm", **(environ or {})}
        self.program: Running = start_program("-c", lead, *arguments, environ=settings, stdin=slave, terminal=slave)
        os.close(slave)
        self._shown = ""

    def type(self, text: str) -> None:
        """Type something; what was shown before is not waited for any more."""
        self._shown = ""
        os.write(self._master, text.encode())

    def expect(self, pattern: str, limit: float = 20.0) -> str:
        """Wait until something is shown; return all that was since one typed last."""
        end = time.monotonic() + limit
        while not re.search(pattern, self._shown):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._master], [], [], left)[0]:
                pytest.fail(f"after {limit:g} s {pattern!r} is not shown:\n{self._shown}")
            try:
                data = os.read(self._master, 65536)
            except OSError:
                pytest.fail(f"the program ended before {pattern!r} was shown:\n{self._shown}")
            self._shown += plain(data.decode("utf-8", "replace")).replace("\r\n", "\n")
        return self._shown

    def takes_signals(self) -> bool:
        """Tell whether Ctrl-C is a signal in this terminal now."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ISIG)

    def wait(self, limit: float = 20.0) -> int:
        """Wait for the program's end, and return its status."""
        end = time.monotonic() + limit
        while self.program.process.poll() is None:
            if time.monotonic() > end:
                pytest.fail(f"the program has not ended after {limit:g} s:\n{self._shown}")
            if select.select([self._master], [], [], 0.05)[0]:
                with contextlib.suppress(OSError):
                    self._shown += plain(os.read(self._master, 65536).decode("utf-8", "replace"))
        return self.program.process.wait()

    def close(self) -> None:
        os.close(self._master)


def command(*words: str) -> list[str]:
    """Give the arguments of Python for a command of `bigmachine`."""
    return ["-m", "bigmachine", *words]
