"""64 MiB at once: a NumPy array as argument and as result, and a byte stream either way."""

from __future__ import annotations

import io

import floors
import measure
import numpy as np
import peers
from measure import Goal, Options, Row, Stat
from target import Target

import bigmachine

SIZE = 64 * measure.MEBIBYTE


def figures(session: bigmachine.Session, options: Options) -> list[Row]:
    (machine,) = session.start(1, services={"Target": Target()})
    machine.call(Target.pin, measure.MACHINE)
    measure.pin(measure.DRIVER)
    array = np.ones(SIZE, np.uint8)
    data = array.tobytes()

    def pour() -> None:
        with machine.call(Target.pour, SIZE) as file:
            left = SIZE
            while piece := file.read(measure.MEBIBYTE):
                left -= len(piece)
        assert not left

    with floors.Floor() as floor, peers.Peers(options.peers) as others:
        taken = measure.take_turns(
            options.pick(3, 15),
            floor_up=lambda: [floor.up(SIZE)],
            floor_down=lambda: [floor.down(SIZE)],
            array_up=lambda: measure.timed(lambda: machine.call(Target.take, array)),
            array_down=lambda: measure.timed(lambda: machine.call(Target.give, SIZE)),
            bytes_up=lambda: measure.timed(lambda: machine.call(Target.drain, io.BytesIO(data))),
            bytes_down=lambda: measure.timed(pour),
            **others.subjects(lambda peer: measure.timed(lambda: peer.up(data)), "up"),
            **others.subjects(lambda peer: measure.timed(lambda: peer.down(SIZE)), "down"),
        )
    stats = {name: stat.per(SIZE) for name, stat in taken.items()}

    def row(name: str, key: str, beside: dict[str, Stat | str] | None = None) -> Row:
        floor = stats["floor_up" if key.endswith("up") else "floor_down"]
        goals = (Goal("ratio", 0.85, at_least=True),)
        return Row(name, "B/s", stats[key], floors.BULK, floor, goals, beside or {})

    return [
        row("array up", "array_up", others.beside(stats, "up")),
        row("array down", "array_down", others.beside(stats, "down")),
        row("bytes up", "bytes_up"),
        row("bytes down", "bytes_down"),
    ]


if __name__ == "__main__":
    measure.run_in_session(figures)
