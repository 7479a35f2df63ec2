"""Faults are decided once for each call, by the seed and the order of the calls, and happen when the call is sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from bigmachine.errors import NetworkError
from bigmachine.rpc import Call, Reactor
from bigmachine.rpc.connection import Connection, Receiver
from bigmachine.rpc.memory import MemoryDialer
from bigmachine.rpc.wire import LARGE
from bigmachine.testing.faults import Fault, FaultInjector
from tests.unit.rpc.ends import DRIVER, Ends, memory, until

LARGE_ONE = bytes(4 * LARGE)


class Service:
    def __init__(self) -> None:
        self.seen: list[object] = []

    def size(self, value: bytes, ident: object = None) -> int:
        self.seen.append(ident)
        return len(value)


class Unhurried(MemoryDialer):
    """Takes its time, as a network does: a lane for large calls is not there at once."""

    async def dial(self, reactor: Reactor, receiver: Receiver) -> Connection:
        await asyncio.sleep(0.005)
        return await super().dial(reactor, receiver)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def ends(service: Service) -> Iterator[Ends]:
    with memory({"S": service}, dialer=lambda server: Unhurried(server, DRIVER, "m1")) as it:
        it.call("S.size", b"")
        service.seen.clear()
        yield it


def injector(seed: int, **rates: float) -> FaultInjector:
    return FaultInjector(seed, {Fault(name): rate for name, rate in rates.items()}, (0.0, 0.001), None)


@pytest.mark.parametrize("argument", [b"small", LARGE_ONE], ids=["small", "large, and no lane for it"])
@pytest.mark.parametrize("fault", ["cut", "truncate"])
def test_a_cut_is_one_cut_and_the_call_has_a_network_error(
    ends: Ends, service: Service, fault: str, argument: bytes
) -> None:
    faults = FaultInjector(1, {Fault(fault): 1.0}, (0.0, 0.0), None)
    ends.link.tamper_with(faults)
    downs: list[object] = []
    ends.link.on_down = downs.append
    assert ends.link.bulk is None
    with pytest.raises(NetworkError, match="a test cut the connection"):
        ends.call("S.size", argument)
    assert faults.injected.faults == [("S.size", Fault(fault))]
    assert faults.injected.calls == 1
    until(lambda: len(downs) == 1)
    if fault == "truncate":
        assert service.seen == []


def test_a_call_that_comes_again_is_not_decided_again(ends: Ends) -> None:
    faults = injector(1, drop=1.0)
    call: Call[Any] = Call(5, "S.size", ends.link)
    assert faults(ends.link, call, b"") is True
    assert faults(ends.link, call, b"") is False
    assert faults(ends.link, Call(6, "S.size", ends.link), b"") is True
    assert faults.injected.calls == 2


@pytest.mark.parametrize("method", ["S.size", "@pkg:S.size"])
@pytest.mark.parametrize("called", ["S.size", "@pkg:S.size"])
def test_where_services_are_not_known_they_are_taken_to_bear_the_names_of_their_classes(
    ends: Ends, method: str, called: str
) -> None:
    faults = FaultInjector(1, {Fault.DROP: 1.0}, (0.0, 0.0), [method])
    assert faults(ends.link, Call(5, called, ends.link), b"") is True
    assert faults(ends.link, Call(6, "Other.size", ends.link), b"") is False
    assert faults.injected.faults == [("S.size", Fault.DROP)]


def outcomes(ends: Ends, seed: int, argument: bytes) -> list[Fault]:
    faults = injector(seed, delay=0.2, truncate=0.3, cut=0.2)
    ends.link.tamper_with(faults)
    for ident in range(20):
        with contextlib.suppress(NetworkError):
            ends.call("S.size", argument, ident)
    ends.link.tamper_with(None)
    assert faults.injected.calls == 20
    return [fault for _, fault in faults.injected.faults]


@pytest.mark.parametrize("argument", [b"small", LARGE_ONE], ids=["small", "large"])
def test_the_same_seed_has_the_same_faults(ends: Ends, argument: bytes) -> None:
    first = outcomes(ends, 7, argument)
    assert len(set(first)) == 3
    assert outcomes(ends, 7, argument) == first
    assert outcomes(ends, 8, argument) != first


def test_the_same_seed_has_the_same_faults_whatever_the_size_of_the_calls(ends: Ends) -> None:
    assert outcomes(ends, 3, b"small") == outcomes(ends, 3, bytes(1000))
