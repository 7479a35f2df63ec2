"""Start machines and say of each whether it came up."""

from __future__ import annotations

import sys

import bigmachine
from bigmachine import State
from bigmachine.errors import BigmachineError


class Nothing:
    """No service at all."""


def main() -> None:
    with bigmachine.driver.start() as session:
        print("STARTING", flush=True)
        for machine in session.start(int(sys.argv[1]), services=[Nothing()]):
            try:
                machine.wait(State.RUNNING, timeout=60)
                print("RUNNING", machine.hostname, flush=True)
            except BigmachineError as error:
                print("FAILED", machine.hostname, type(error).__name__, error, flush=True)


if __name__ == "__main__":
    main()
