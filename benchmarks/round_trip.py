"""Round trip of a small call, one at a time.

The caller is a plain thread, a user's event loop (`asyncio.run`), or another machine; the method is plain (it runs in
a thread) or `async def` (it runs on the machine's event loop).
"""

from __future__ import annotations

import asyncio

import floors
import loops
import measure
import peers
from measure import Goal, Options, Row, Stat
from target import Target

import bigmachine


def figures(session: bigmachine.Session, options: Options) -> list[Row]:
    here, there = session.start(2, services={"Target": Target()})
    there.call(Target.pin, measure.MACHINE)
    here.call(Target.pin, measure.DRIVER)
    measure.pin(measure.DRIVER)
    n, rounds = options.pick(300, 1000), options.pick(3, 10)
    with (
        floors.Floor() as floor,
        loops.Loops() as bare,
        loops.Loops(looks=True) as looking,
        asyncio.Runner() as runner,
        peers.Peers(options.peers) as others,
    ):

        def awaits(method: object) -> list[float]:
            return runner.run(measure.timed_async(lambda: there.submit(method, 1), n))

        def calls_in_deadline() -> list[float]:
            with bigmachine.deadline(60):
                return measure.timed(lambda: there.call(Target.echo, 1), n)

        stats = measure.take_turns(
            rounds,
            floor=lambda: floor.ping(n),
            loops=lambda: runner.run(bare.ping(n)),
            looking=lambda: runner.run(looking.ping(n)),
            call=lambda: measure.timed(lambda: there.call(Target.echo, 1), n),
            await_async=lambda: awaits(Target.echo_async),
            await_plain=lambda: awaits(Target.echo),
            machine=lambda: here.call(Target.time_calls, there, n),
            in_deadline=calls_in_deadline,
            machine_sync=lambda: here.call(Target.time_sync_calls, there, n),
            **others.subjects(lambda peer: measure.timed(peer.echo, n)),
        )
    return rows(stats, others.beside(stats))


def rows(stats: dict[str, Stat], beside: dict[str, Stat | str]) -> list[Row]:
    """Say what each figure is, and what it should be."""
    floor = stats["floor"]
    limit = 1.6 if "aiofastnet" in measure.engine() else 1.8

    def row(name: str, key: str, *goals: Goal, others: dict[str, Stat | str] | None = None) -> Row:
        return Row(name, "s", stats[key], floors.PING, floor, goals, others or {})

    def tail(name: str, key: str) -> Row:
        ratios = [Stat.of([stats[of].p99 / stats[of].median]) for of in (key, "looking")]
        note = (
            f"p99 {measure.show(stats[key].p99, 's')}; of the blocking sockets {measure.show(stats['floor'].p99, 's')}"
        )
        return Row(f"p99 / p50 of {name}", "x", ratios[0], loops.LOOKING, ratios[1], (Goal("median", 2.0),), note=note)

    return [
        row(
            "sync call, plain method",
            "call",
            Goal("ratio", 2.3),
            Goal(peers.RPYC),
            Goal(peers.GO),
            others=beside,
        ),
        row(loops.PING, "loops"),
        row(loops.LOOKING, "looking"),
        row("await submit, async def method", "await_async", Goal("ratio", 3.0), Goal("ratio", limit)),
        row("await submit, plain method", "await_plain"),
        row("machine to machine, async def method", "machine", Goal("ratio", limit)),
        row("sync call, plain method, a deadline of 60 s", "in_deadline", Goal("ratio", 2.3)),
        row("machine to machine, sync call, plain method", "machine_sync", Goal("ratio", 2.3)),
        tail("sync call, plain method", "call"),
        tail("await submit, async def method", "await_async"),
    ]


if __name__ == "__main__":
    measure.run_in_session(figures)
