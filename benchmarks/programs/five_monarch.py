"""The same as five_machines with Monarch: an actor in each of five processes of this host."""

from __future__ import annotations

import sys

from monarch.actor import Actor, endpoint, this_host


class Echo(Actor):  # type: ignore[misc]  # it has no types
    """Answers."""

    @endpoint  # type: ignore[untyped-decorator]
    async def echo(self, value: int) -> int:
        return value


if __name__ == "__main__":
    processes = this_host().spawn_procs(per_host={"procs": 5})
    processes.spawn("echo", Echo).echo.call(1).get()
    print("ready", flush=True)
    sys.stdin.read()
    processes.stop().get()
