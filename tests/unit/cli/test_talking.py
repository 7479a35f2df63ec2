"""A conversation that ends while somebody is asked at a terminal."""

from __future__ import annotations

import pty
import subprocess
import sys

ENDS = """
import os, random, sys, time
from bigmachine.agent.conversations import ASKS
from bigmachine.cli import talking

class Ends:
    def __init__(self, delay):
        self.end, self.is_asked = time.perf_counter() + delay, False
    def read(self):
        if not self.is_asked:
            self.is_asked = True
            return b"(Pdb) " + ASKS
        while time.perf_counter() < self.end:
            pass
        return b""

for _ in range(30):
    child = os.fork()
    if not child:  # a command is a process: the first line that is read prepares the terminal
        os._exit(talking._Person(Ends(random.uniform(0, 0.004)), is_asked=True).talk())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
"""


def test_it_ends_whenever_its_other_end_goes() -> None:
    ours, theirs = pty.openpty()  # nobody types
    with open(ours, "rb"), open(theirs, "r+b", buffering=0) as terminal:
        done = subprocess.run(
            [sys.executable, "-c", ENDS],
            stdin=terminal,
            stdout=terminal,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
            start_new_session=True,
        )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.count(b"the machine has ended") == 30
