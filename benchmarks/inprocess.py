"""Time until a machine of the `inprocess` system is RUNNING: what a user's unit test pays."""

from __future__ import annotations

import threading

import measure
from measure import Goal, Options, Row
from target import Target

import bigmachine

_FLOOR = "a thread, started and joined"


def figures(options: Options) -> list[Row]:
    def fresh() -> None:
        with bigmachine.start("inprocess") as session:
            start(session)

    def start(session: bigmachine.Session) -> None:
        (machine,) = session.start(1, services={"Target": Target()})
        machine.wait()

    def thread() -> None:
        made = threading.Thread(target=lambda: None)
        made.start()
        made.join()

    n = options.pick(10, 40)
    with bigmachine.start("inprocess") as session:
        stats = measure.take_turns(
            options.pick(2, 4),
            floor=lambda: measure.timed(thread, n),
            machine=lambda: measure.timed(lambda: start(session), n),
            whole=lambda: measure.timed(fresh, n),
        )
    return [
        Row("a machine RUNNING", "s", stats["machine"], _FLOOR, stats["floor"], (Goal("median", 5e-3),)),
        Row("a session, a machine RUNNING, shutdown", "s", stats["whole"], _FLOOR, stats["floor"]),
    ]


if __name__ == "__main__":
    measure.run(figures)
