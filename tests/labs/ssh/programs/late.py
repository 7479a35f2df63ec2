"""Use a file that comes last: say whether it was there when the machine ran, and whether it is the driver's."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

import bigmachine
from bigmachine import State
from bigmachine.errors import BigmachineError


class Late:
    """Looks at the last file beside the program."""

    def __init__(self) -> None:
        self._name = last().name

    def is_there(self) -> bool:
        """Whether its content is on the disk; it has its size from the beginning."""
        return (Path(__file__).parent / self._name).stat().st_blocks > 0

    def digest(self) -> str:
        return hashlib.sha256((Path(__file__).parent / self._name).read_bytes()).hexdigest()


def last() -> Path:
    return max(Path(__file__).parent.glob("*.bin"))


def begin() -> bigmachine.Session:
    if "wait" not in sys.argv:
        return bigmachine.driver.start()
    from bigmachine.systems.ssh import SSHSystem

    flags = dict(word.removeprefix("--bigm.").split("=", 1) for word in sys.argv if word.startswith("--bigm."))
    clocks = bigmachine.Keepalive(interval=0.5, timeout=4, lease=8)
    return bigmachine.start(SSHSystem(flags["hosts"], flags["ssh-config"], keepalive=clocks))


def wait_for_the_rest(session: bigmachine.Session) -> None:
    """Wait until no phase goes on any more."""
    end = time.monotonic() + 10
    while any(span.ended is None for span in session.timeline()) and time.monotonic() < end:
        time.sleep(0.05)


def main() -> None:
    with begin() as session:
        machines = session.start(int(sys.argv[1]), services=[Late()])
        try:
            for machine in machines:
                machine.wait(State.RUNNING, timeout=60)
            print("THERE", *[machine.call(Late.is_there) for machine in machines], flush=True)
            if "leave" in sys.argv:
                return
            if "wait" in sys.argv:
                sys.stdin.readline()
            digest = hashlib.sha256(last().read_bytes()).hexdigest()
            print("SAME", *[machine.call(Late.digest) == digest for machine in machines], flush=True)
            wait_for_the_rest(session)
            for span in session.timeline():
                print("SPAN", span.machine, span.phase.replace(" ", "_"), span.seconds, span.sent, flush=True)
        except BigmachineError as error:
            print("DIED", type(error).__name__, error, flush=True)


if __name__ == "__main__":
    main()
