"""Services are installed once, after their init, and a failing init is the machine's end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from bigmachine.errors import AuthenticationError, Cause, InvalidCall
from bigmachine.program.serving import authorize
from bigmachine.program.supervisor import Supervisor
from bigmachine.rpc import ServiceTable
from bigmachine.trust import Peer, Role


class Machine:
    """A supervisor with what surrounds it."""

    def __init__(self) -> None:
        self.table = ServiceTable()
        self.sent: list[Mapping[str, object]] = []
        self.failures: list[tuple[Cause, str, BaseException]] = []
        self.supervisor = Supervisor(
            self.table, "the session", self.sent.append, lambda *failure: self.failures.append(failure)
        )


class Plain:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, bool]] = []

    def init(self, session: object) -> None:
        self.calls.append((session, threading.current_thread() is threading.main_thread()))


class Async:
    def __init__(self) -> None:
        self.session: object = None

    async def init(self, session: object) -> None:
        await asyncio.sleep(0)
        self.session = session


class Bad:
    def init(self, session: object) -> None:
        raise LookupError("no data here")


def test_a_service_without_init_can_be_called_at_once() -> None:
    machine = Machine()
    service = object()
    assert asyncio.run(machine.supervisor.register("S", service)) is True
    assert machine.table.get("S") is service
    assert machine.sent == []


def test_a_plain_init_runs_in_a_thread_with_the_session() -> None:
    machine, service = Machine(), Plain()
    asyncio.run(machine.supervisor.register("S", service))
    assert service.calls == [("the session", False)]
    assert machine.sent == [{"k": "phase", "phase": "initialising services", "ack": 1}]


def test_an_async_init_runs_on_the_loop() -> None:
    machine, service = Machine(), Async()
    asyncio.run(machine.supervisor.register("S", service))
    assert service.session == "the session"


def test_a_second_registration_of_a_name_keeps_the_first_and_runs_no_init() -> None:
    async def main() -> None:
        machine, first, second = Machine(), Plain(), Plain()
        one, other = await asyncio.gather(
            machine.supervisor.register("S", first), machine.supervisor.register("S", second)
        )
        assert (one, other) == (True, False)
        assert await machine.supervisor.register("S", second) is False
        assert machine.table.get("S") is first
        assert second.calls == []

    asyncio.run(main())


def test_a_failing_init_is_told_to_the_caller_and_to_the_agent() -> None:
    machine = Machine()
    with pytest.raises(LookupError, match="no data here"):
        asyncio.run(machine.supervisor.register("S", Bad()))
    ((cause, detail, error),) = machine.failures
    assert cause is Cause.INIT_FAILED
    assert "'S'" in detail
    assert "LookupError: no data here" in detail
    assert isinstance(error, LookupError)
    assert machine.table.get("S") is None


def test_a_name_that_cannot_be_called_fails_the_call_and_not_the_machine() -> None:
    machine, service = Machine(), Plain()
    with pytest.raises(InvalidCall, match="cannot name a service"):
        asyncio.run(machine.supervisor.register("_hidden", service))
    assert machine.failures == []
    assert service.calls == []


def test_ping_gives_back_what_it_got() -> None:
    assert asyncio.run(Machine().supervisor.ping([1])) == [1]


def test_variables_are_counted() -> None:
    machine = Machine()
    asyncio.run(machine.supervisor.register("S", object()))
    assert asyncio.run(machine.supervisor.expvars())["services"] == ["S"]


@pytest.mark.parametrize("role", [Role.DRIVER, Role.MACHINE, Role.CLIENT])
def test_the_sessions_members_may_call_services(role: Role) -> None:
    authorize(Peer("0123abcd", role, "x"), "PI.sample")


@pytest.mark.parametrize("role", [Role.MACHINE, Role.CLIENT])
def test_only_the_driver_installs_services(role: Role) -> None:
    authorize(Peer("0123abcd", Role.DRIVER, "driver"), "Supervisor.register")
    with pytest.raises(AuthenticationError, match="only the driver"):
        authorize(Peer("0123abcd", role, "x"), "Supervisor.register")


def test_an_agent_calls_no_services() -> None:
    with pytest.raises(AuthenticationError, match="agent"):
        authorize(Peer("0123abcd", Role.AGENT, "h1"), "PI.sample")
