"""Services of a host that will be taken back finish their work, those that can."""

from __future__ import annotations

import asyncio
import logging

import pytest

from bigmachine.program.supervisor import Supervisor
from bigmachine.rpc import ServiceTable


class Plain:
    def __init__(self) -> None:
        self.drained = 0

    def drain(self) -> None:
        self.drained += 1


class Coroutine(Plain):
    async def drain(self) -> None:  # type: ignore[override]  # either is allowed
        await asyncio.sleep(0)
        self.drained += 1


class Failing:
    def drain(self) -> None:
        raise OSError("the disk is full")


class Unable:
    """Has nothing to finish."""


def test_each_that_can_does_and_one_that_fails_keeps_no_other_from_it(caplog: pytest.LogCaptureFixture) -> None:
    services = {"failing": Failing(), "plain": Plain(), "coroutine": Coroutine(), "unable": Unable()}
    table = ServiceTable()
    for name, service in services.items():
        table.register(name, service)
    supervisor = Supervisor(table, None, lambda _: None, lambda *_: None)
    table.register("Supervisor", supervisor)
    with caplog.at_level(logging.ERROR):
        asyncio.run(supervisor.drain())
    assert [service.drained for service in services.values() if isinstance(service, Plain)] == [1, 1]
    assert "drain of service 'failing' failed" in caplog.text
    assert "the disk is full" in caplog.text
