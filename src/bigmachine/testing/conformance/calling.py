"""Calls reach the machine that they are meant for, from the driver and from other machines."""

from __future__ import annotations

import asyncio
import time

import pytest

import bigmachine
from bigmachine import DeadlineExceeded, InvalidCall, Machine
from bigmachine.errors import is_remote
from bigmachine.testing.conformance.fixtures import eventually, is_inside, needs_process
from bigmachine.testing.conformance.services import OddError, Probe


class TestCalls:
    """From the driver."""

    def test_values_of_all_sizes_come_back_as_they_are(self, machine: Machine) -> None:
        for value in (None, [1, {"a": (2.5, "ü")}], b"x" * 100_000, b"y" * 8_000_000):
            assert machine.call(Probe.same, value) == value

    def test_plain_and_async_methods_are_called_alike(self, machine: Machine) -> None:
        async def main() -> list[object]:
            return list(await asyncio.gather(*(machine.submit(Probe.same_async, n) for n in range(10))))

        assert machine.call(Probe.same_async, value=5) == 5
        assert asyncio.run(main()) == list(range(10))

    def test_two_calls_run_at_once(self, machine: Machine) -> None:
        calls = [machine.submit(Probe.meet) for _ in range(2)]
        assert [call.result(30) for call in calls] == [True, True]

    def test_an_exception_arrives_as_it_is(self, machine: Machine) -> None:
        with pytest.raises(OddError) as caught:
            machine.call(Probe.fail, "odd")
        assert caught.value.args == ("odd", 7)
        assert is_remote(caught.value)
        assert "in fail" in str(caught.value.__cause__)

    def test_a_stream_arrives_item_by_item(self, machine: Machine) -> None:
        assert list(machine.call(Probe.count, 1000)) == list(range(1000))

    @pytest.mark.parametrize("method", ["Probe.sane", "Prob.same", "Probe._meeting", "Supervisor.nothing"])
    def test_what_is_not_there_cannot_be_called(self, machine: Machine, method: str) -> None:
        with pytest.raises(InvalidCall):
            machine.call(method)

    def test_arguments_have_to_fit(self, machine: Machine) -> None:
        with pytest.raises(InvalidCall):
            machine.call("Probe.same", 1, 2, 3)

    def test_a_deadline_travels_and_ends_a_call(self, machine: Machine) -> None:
        with bigmachine.deadline(30):
            remaining = machine.call(Probe.remaining)
        assert remaining is not None
        assert 20 < remaining <= 30
        begin = time.monotonic()
        with bigmachine.deadline(0.2), pytest.raises(DeadlineExceeded):
            machine.call(Probe.wait, 60.0)
        assert time.monotonic() - begin < 10

    def test_cancelling_reaches_the_method(self, machine: Machine) -> None:
        before = machine.call(Probe.times_cancelled)
        call = machine.submit(Probe.linger, 60.0)
        machine.call(Probe.same)  # sent after it, so the method has begun
        assert call.cancel()
        eventually(lambda: machine.call(Probe.times_cancelled) == before + 1, "the method is not told")

    def test_a_repeated_call_is_a_call(self, machine: Machine) -> None:
        assert machine.retry_call(Probe.same, 6) == 6

    def test_a_proxy_calls(self, machine: Machine) -> None:
        assert machine.service(Probe).same(7) == 7

    def test_the_supervisor_answers(self, machine: Machine) -> None:
        assert machine.call("Supervisor.ping", "x") == "x"
        assert machine.call("Supervisor.register", "Probe", Probe()) is False
        assert set(machine.call("Supervisor.expvars")["services"]) == {"Probe", "Supervisor"}
        assert isinstance(machine.call("Supervisor.profiles"), list)


class TestMachinesCallMachines:
    """A handle that is sent arrives ready to call."""

    def test_by_a_handle(self, pair: tuple[Machine, Machine]) -> None:
        one, other = pair
        assert one.call(Probe.ask, other, "x") == "x"

    def test_itself(self, machine: Machine) -> None:
        assert machine.call(Probe.ask, machine, "x") == "x"

    def test_by_an_address(self, pair: tuple[Machine, Machine]) -> None:
        one, other = pair
        assert one.call(Probe.ask_by_address, other.address, "x") == "x"

    def test_each_is_told_who_calls(self, pair: tuple[Machine, Machine]) -> None:
        one, other = pair
        assert one.call(Probe.caller) == "driver"
        needs_process(one)  # inside one process a handle arrives as the driver's own
        assert one.call(Probe.ask_caller, other) in one.address

    def test_only_the_driver_owns_and_starts_machines(self, pair: tuple[Machine, Machine]) -> None:
        one, other = pair
        with pytest.raises(InvalidCall, match="a machine cannot start machines"):
            one.call(Probe.start_another)
        assert one.call(Probe.is_owned, other) is is_inside(one)

    def test_a_handle_comes_back_as_what_it_was(self, pair: tuple[Machine, Machine]) -> None:
        one, other = pair
        assert one.call(Probe.same, other) is other
