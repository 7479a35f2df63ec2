"""Starts as many local machines as the argument says, then one more; prints the seconds until they are RUNNING."""

from __future__ import annotations

import json
import sys
import time

import bigmachine

_PATIENCE = 120.0


class Echo:
    """Answers."""

    def echo(self, value: int) -> int:
        return value


def running(session: bigmachine.Session, n: int) -> float:
    """Start `n` machines; return the seconds until the last of them is RUNNING."""
    begin = time.perf_counter()
    for machine in session.start(n, services={"Echo": Echo()}):
        machine.wait(bigmachine.State.RUNNING, _PATIENCE)
    return time.perf_counter() - begin


if __name__ == "__main__":
    with bigmachine.start("local") as session:
        many = running(session, int(sys.argv[1]))
        more = [running(session, 1) for _ in range(10)]
        begin = time.perf_counter()
    print(json.dumps({"many": many, "more": more, "end": time.perf_counter() - begin}))
