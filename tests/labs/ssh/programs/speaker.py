"""Listen to a machine while it cannot be reached, and say how soon a call gets through when it can."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

import bigmachine
from bigmachine.errors import NetworkError


class Speaker:
    """It speaks, pauses and speaks on."""

    def speak(self, pause: float) -> Iterator[int]:
        yield 0
        time.sleep(pause)
        for number in range(1, 200):
            yield number
            time.sleep(0.1)

    def echo(self, word: str) -> str:
        return word


def listen(items: Iterator[int]) -> None:
    """Hear it out, or until the connection is given up for the sake of a call."""
    with contextlib.suppress(NetworkError):
        for _ in items:
            pass


def main() -> None:
    with bigmachine.driver.start() as session:
        (machine,) = session.start(1, services=[Speaker()])
        machine.wait(timeout=60)
        items = iter(machine.call(Speaker.speak, float(sys.argv[1])))
        next(items)
        threading.Thread(target=listen, args=(items,), daemon=True).start()
        print("LISTENING", flush=True)
        sys.stdin.readline()
        lost = machine.submit(Speaker.echo, "into the silence")  # retransmitted, after longer and longer
        sys.stdin.readline()
        began = time.monotonic()
        assert machine.submit(Speaker.echo, "after it").result(30) == "after it"
        print("AFTER", time.monotonic() - began, flush=True)
        lost.exception(30)  # its outcome, or that it is not known


if __name__ == "__main__":
    main()
