# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What type checkers accept, and what they take the results for; checked by mypy and pyright, never run."""

from __future__ import annotations

import argparse
import concurrent.futures
import io
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar, assert_type

import bigmachine
from bigmachine import Call, CallInfo, DeathCertificate, Machine, Session, State, Stream

T = TypeVar("T")


@dataclass
class Point:
    x: float
    y: float


class Service:
    """Methods of every kind."""

    def init(self, session: Session) -> None: ...

    def add(self, a: int, b: int = 0) -> int:
        return a + b

    def name(self, point: Point, *, prefix: str) -> str:
        return f"{prefix}{point}"

    def nothing(self) -> None: ...

    def many(self, *numbers: int) -> list[int]:
        return list(numbers)

    async def later(self, text: str) -> bytes:
        return text.encode()

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    async def follow(self, n: int) -> AsyncIterator[str]:
        for i in range(n):
            yield str(i)

    def ask(self, other: Machine, question: str) -> str:
        return other.service(Service).name(Point(0, 0), prefix=question)


class Store(Generic[T]):
    def get(self, key: str) -> T:
        raise KeyError(key)


class IntStore(Store[int]): ...


def starting(args: argparse.Namespace) -> None:
    with bigmachine.start() as session:
        assert_type(session, Session)
    with bigmachine.start("local", name="mine") as session:
        assert_type(session.start(services={"a": Service()}), list[Machine])
        assert_type(session.start(3, services=[Service()], environ={"A": "b"}, args=["-v"]), list[Machine])
        assert_type(session.dial("127.0.0.1:1/h-m1"), Machine)
        assert_type(session.machines(), list[Machine])
        session.shutdown(timeout=1)
    with bigmachine.driver.start(args) as session:
        assert_type(session, Session)
    bigmachine.driver.add_flags(argparse.ArgumentParser())
    assert_type(bigmachine.is_driver(), bool)
    bigmachine.init()


def calling(machine: Machine) -> None:
    assert_type(machine.call(Service.add, 1), int)
    assert_type(machine.call(Service.add, 1, b=2), int)
    assert_type(machine.call(Service.name, Point(1, 2), prefix=">"), str)
    machine.call(Service.nothing)
    assert_type(machine.call(Service.many, 1, 2, 3), list[int])
    assert_type(machine.call(Service.later, "x"), bytes)
    assert_type(machine.call(Service.count, 3), Stream[int])
    assert_type(machine.call(Service.follow, 3), Stream[str])
    assert_type(machine.call(Service.ask, machine, "who?"), str)
    assert_type(machine.call(IntStore.get, "a"), int)


def submitting(machine: Machine) -> None:
    assert_type(machine.submit(Service.add, 1, 2), Call[int])
    assert_type(machine.submit(Service.add, 1, 2).result(), int)
    assert_type(machine.submit(Service.nothing), Call[None])
    assert_type(machine.submit(Service.later, "x"), Call[bytes])
    assert_type(machine.submit(Service.count, 3), Call[Stream[int]])
    assert_type(machine.submit(Service.follow, 3), Call[Stream[str]])
    calls: list[concurrent.futures.Future[int]] = [machine.submit(Service.add, n) for n in range(3)]
    assert_type([call.result() for call in concurrent.futures.as_completed(calls)], list[int])


async def awaiting(machine: Machine) -> None:
    assert_type(await machine.submit(Service.add, 1), int)
    assert_type(await machine.submit(Service.later, "x"), bytes)
    assert_type([item async for item in await machine.submit(Service.follow, 3)], list[str])
    assert_type([item async for item in await machine.submit(Service.count, 3)], list[int])
    assert_type(list(machine.call(Service.count, 3)), list[int])


def retrying(machine: Machine) -> None:
    assert_type(machine.retry_call(Service.add, 1, 2), int)
    assert_type(machine.retry_call(Service.later, "x"), bytes)


def through_a_proxy(machine: Machine) -> None:
    service = machine.service(Service)
    assert_type(service, Service)
    assert_type(service.add(1, b=2), int)
    assert_type(machine.service(Service, "other").name(Point(1, 2), prefix=""), str)


async def through_a_proxy_in_an_event_loop(machine: Machine) -> None:
    service = machine.service(Service)
    assert_type(await service.later("x"), bytes)
    assert_type([item async for item in service.follow(3)], list[str])


def by_name(machine: Machine) -> None:
    # Nobody can know what a string names.
    number: int = machine.call("Service.add", 1, 2)
    call: Call[int] = machine.submit("Service.add", 1, 2)
    machine.retry_call("Service.add", number, call.result())


def looking(machine: Machine) -> None:
    assert_type(machine.state, State)
    assert_type(machine.state < State.RUNNING, bool)
    assert_type(machine.wait(State.RUNNING, timeout=1), State)
    assert_type(machine.error, BaseException | None)
    assert_type(machine.address, str)
    assert_type(machine.owned, bool)
    assert_type(machine.maxprocs, int)
    assert_type(machine.keepalive_reply_times(), list[float])
    assert_type(machine.next_keepalive, float | None)
    machine.shutdown(timeout=1)
    machine.cancel()


def inside_a_method() -> None:
    info = bigmachine.current_call()
    assert_type(info, CallInfo)
    assert_type(info.remaining(), float | None)
    assert_type(info.cancelled(), bool)
    assert_type(info.caller, str)
    assert_type(info.session, Session)
    with bigmachine.deadline(3):
        pass


def failing(machine: Machine, services: Mapping[str, object]) -> None:
    try:
        machine.call(Service.nothing)
    except bigmachine.MachineStopped as error:
        assert_type(error.certificate, DeathCertificate)
        assert_type(error.certificate.last_lines, tuple[str, ...])
    except bigmachine.BigmachineError as error:
        assert_type(error.temporary, bool)
    except TimeoutError:
        pass


def a_file_as_an_argument(machine: Machine) -> None:
    class Files:
        def size(self, file: io.BufferedIOBase) -> int:
            return len(file.read())

    with open(__file__, "rb") as file:
        assert_type(machine.call(Files.size, file), int)
