"""A driver that calls its machines while they are started, killed, stopped, cut off and restarted all the time.

    python -m tests.chaos.program --seed 7 --seconds 45

At the end, it looks at what it holds itself: descriptors, threads, children, files. Whatever was wrong is printed, and
the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib.util
import logging
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import bigmachine
from bigmachine import Keepalive
from bigmachine.systems.local import LocalSystem
from tests.chaos.harness import Chaos, Errors
from tests.chaos.services import Target

#: Short, so that everything has its turn within the time of a test.
CLOCKS = Keepalive(interval=0.5, timeout=5.0, lease=6.0, hang=2.0)
#: What the kernel and threads that end have time for.
SETTLED = 5.0


def held() -> tuple[Counter[str], list[str], list[str]]:
    """Return what this process holds: descriptors by kind, threads and temporary files."""
    descriptors: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            descriptors[os.readlink(entry).partition(":[")[0]] += 1
        except OSError:
            continue
    threads = sorted(thread.name for thread in threading.enumerate())
    files = sorted(path.name for path in Path(tempfile.gettempdir()).iterdir() if not is_of_aiofastnet(path))
    return descriptors, threads, files


def is_of_aiofastnet(path: Path) -> bool:
    """Tell whether a file is one that aiofastnet has each peer's certificate decoded from.

    A process that is killed meanwhile leaves it: `SSLEngineDirect._decode_certificate`, as of its version 1.
    """
    try:
        is_one = path.name.startswith("tmp") and path.read_text().startswith("-----BEGIN CERTIFICATE-----")
        return importlib.util.find_spec("aiofastnet") is not None and (is_one or not path.stat().st_size)
    except OSError:
        return True  # gone by now


def children() -> list[str]:
    """Return the processes below this one, zombies too."""
    found: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended
            found += (task / "children").read_text().split()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--seconds", type=float, default=45.0)
    args = parser.parse_args()
    faulthandler.enable()
    with bigmachine.start(LocalSystem()) as session:  # what is made once is made here
        session.start(1, services=[Target()])[0].call(Target.echo, 1)
    before = held()

    session = bigmachine.start(LocalSystem(keepalive=CLOCKS), output="off")
    chaos = Chaos(session, args.seed)
    handler = Errors(chaos.blame)
    logging.getLogger().addHandler(handler)
    logging.getLogger("bigmachine").setLevel(logging.ERROR)
    sys.unraisablehook = lambda what: chaos.blame(f"unraisable: {what.exc_value!r} in {what.object!r}")
    threading.excepthook = lambda what: chaos.blame(f"{what.thread} ended with {what.exc_value!r}")
    chaos.run(args.seconds)

    del session
    end = time.monotonic() + SETTLED
    while ((after := held()) != before or children()) and time.monotonic() < end:
        time.sleep(0.05)
    for was, now in zip(before, after, strict=True):
        if was != now:
            chaos.blame(f"left: it held {was}, now {now}")
    if left := children():
        chaos.blame(f"left: children {left}")
    for what, n in sorted(chaos.counts.items()):
        print(f"{n:7d} {what}")
    for what, took in sorted(chaos.longest.items(), key=lambda pair: -pair[1])[:8]:
        print(f"{took:7.2f} s at most: {what}")
    print(f"{len(chaos.wrong)} things were wrong; seed {args.seed}")
    return 1 if chaos.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
