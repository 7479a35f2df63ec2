"""Ask for machines and say with which error that ended, in how many seconds, and what is left in this process."""

from __future__ import annotations

import os
import sys
import threading
import time

import bigmachine
from bigmachine.errors import BigmachineError


class Nothing:
    """No service at all."""


def main() -> None:
    sockets_before = sockets()
    began = time.monotonic()
    session = bigmachine.driver.start()
    try:
        for machine in session.start(int(sys.argv[1]), services=[Nothing()]):
            machine.wait(bigmachine.State.RUNNING)
        print("RUNNING")
    except BigmachineError as error:
        print(f"FAILED {type(error).__name__} {time.monotonic() - began:.2f} {error}")
    session.shutdown()
    end = time.monotonic() + 2
    while time.monotonic() < end and (ours() or sockets() > sockets_before):
        time.sleep(0.02)
    print("LEFT", ours(), sockets() - sockets_before)


def ours() -> list[str]:
    """Name the threads of the library; those of executors wait for work and end with the program."""
    return [each.name for each in threading.enumerate() if each.name.startswith("bigmachine")]


def sockets() -> int:
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue
    return found


if __name__ == "__main__":
    main()
