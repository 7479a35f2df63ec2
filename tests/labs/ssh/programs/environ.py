"""Say what a machine has in its environment of the names that are given, as `name=value`."""

from __future__ import annotations

import os
import sys

import bigmachine


class Environ:
    """A machine's environment."""

    def get(self, names: list[str]) -> list[str]:
        return [f"{name}={os.environ.get(name)}" for name in names]


def main() -> None:
    names = [word for word in sys.argv[1:] if not word.startswith("--")]
    with bigmachine.driver.start() as session:
        [machine] = session.start(1, services=[Environ()], environ={"ORDERED": "by start"})
        machine.wait(bigmachine.State.RUNNING, timeout=60)
        print("ENVIRON", *machine.call(Environ.get, names), sep="|")


if __name__ == "__main__":
    main()
