"""A call that does not come in frames: its outcome, and its end."""

from __future__ import annotations

import asyncio

import pytest

from bigmachine.errors import DeadlineExceeded
from bigmachine.rpc import Server, ServiceTable
from bigmachine.rpc.reactor import new_event_loop
from bigmachine.trust import Peer, Role

PEER = Peer("0123abcd", Role.CLIENT, "somebody")


class Patient:
    async def hold(self) -> None:
        await asyncio.sleep(60)

    async def give_up(self) -> None:
        raise TimeoutError("the method's own")


def test_a_deadline_is_told_by_name_also_if_the_loops_timer_goes_off_a_little_early() -> None:
    # uvloop counts in whole milliseconds, so of many deadlines some are early.
    async def scenario() -> None:
        table = ServiceTable()
        table.register("Patient", Patient())
        server = Server(table)

        async def call(seconds: float) -> None:
            with pytest.raises(DeadlineExceeded):
                await server.invoke(PEER, "Patient.hold", (), {}, seconds)

        await asyncio.gather(*(call(0.01 + 0.0013 * number) for number in range(100)))
        with pytest.raises(TimeoutError, match="the method's own"):
            await server.invoke(PEER, "Patient.give_up", (), {}, 10.0)

    loop = new_event_loop()
    try:
        loop.run_until_complete(scenario())
    finally:
        loop.close()
