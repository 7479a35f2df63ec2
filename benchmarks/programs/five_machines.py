"""Five local machines: says "ready" once each has answered, then waits until standard input ends.

With the argument "busy" every machine is in a call meanwhile.
"""

from __future__ import annotations

import sys
import time

import bigmachine


class Echo:
    """Answers."""

    def echo(self, value: int) -> int:
        return value

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


with bigmachine.start("local") as session:
    machines = session.start(5, services={"Echo": Echo()})
    for call in [machine.submit(Echo.echo, 1) for machine in machines]:
        call.result()
    if "busy" in sys.argv:
        busy = [machine.submit(Echo.sleep, 600.0) for machine in machines]
        for call in [machine.submit(Echo.echo, 1) for machine in machines]:
            call.result()  # so the calls before have arrived
    print("ready", flush=True)
    sys.stdin.read()
