"""Start a machine on a Python that the host has; say which one runs it, or with which error that ended."""

from __future__ import annotations

import os
import sys

import bigmachine
from bigmachine.errors import BigmachineError


class Which:
    """What a machine's Python is."""

    def it_is(self) -> list[str]:
        import numbers

        import psutil

        return [os.path.realpath(sys.executable), sys.base_prefix, sys.prefix, psutil.__file__, numbers.__file__]


def main() -> None:
    with bigmachine.driver.start() as session:
        try:
            [machine] = session.start(
                1, services=[Which()], image=bigmachine.Image(program=__file__, python=sys.argv[1])
            )
            machine.wait(bigmachine.State.RUNNING, timeout=60)
            print("WHICH", *machine.call(Which.it_is))
        except BigmachineError as error:
            print("FAILED", type(error).__name__, error)


if __name__ == "__main__":
    main()
