# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What type checkers refuse: each ignored error has to be one, for mypy and for pyright; never run."""

from __future__ import annotations

import bigmachine
from bigmachine import Call, Machine, Session, Stream
from tests.typing.accepted import Point, Service


def arguments(machine: Machine) -> None:
    machine.call(Service.add, "1")  # type: ignore[call-overload]
    machine.call(Service.add)  # type: ignore[call-overload]
    machine.call(Service.add, 1, 2, 3)  # type: ignore[call-overload]
    machine.call(Service.add, 1, b="2")  # type: ignore[arg-type]
    machine.call(Service.name, Point(1, 2))  # type: ignore[call-overload]
    machine.call(Service.many, 1, "2")  # type: ignore[call-overload]
    machine.call(Service.later, 3)  # type: ignore[call-overload]
    machine.call(Service.count, "3")  # type: ignore[call-overload]
    machine.call(Service.follow, "3")  # type: ignore[call-overload]
    machine.submit(Service.add, "1")  # type: ignore[call-overload]
    machine.submit(Service.later, 3)  # type: ignore[call-overload]
    machine.retry_call(Service.add, "1")  # type: ignore[call-overload]
    machine.service(Service).add("1")  # type: ignore[arg-type]


def results(machine: Machine) -> None:
    text: str = machine.call(Service.add, 1)  # type: ignore[assignment]
    call: Call[str] = machine.submit(Service.add, 1)  # type: ignore[call-overload]
    stream: Stream[str] = machine.call(Service.count, 1)  # type: ignore[call-overload]
    numbers: list[int] = machine.call(Service.count, 1)  # type: ignore[assignment]
    waited: str = machine.retry_call(Service.add, 1)  # type: ignore[assignment]
    print(text, call, stream, numbers, waited)


async def awaited(machine: Machine) -> None:
    text: str = await machine.submit(Service.later, "x")  # type: ignore[call-overload]
    await machine.call(Service.later, "x")  # type: ignore[misc]
    print(text)


def names(machine: Machine) -> None:
    machine.call(Service.missing)  # type: ignore[attr-defined]
    machine.service(Service).missing()  # type: ignore[attr-defined]
    machine.call(3)  # type: ignore[call-overload]
    machine.state = bigmachine.State.STOPPED  # type: ignore[misc]


def sessions(session: Session) -> None:
    session.start(1)  # type: ignore[call-arg]
    session.start("1", services=[Service()])  # type: ignore[arg-type]
    session.start(1, [Service()])  # type: ignore[call-arg]
    session.start(services=[Service()], environ={"A": 1})  # type: ignore[dict-item]
    bigmachine.start(3)  # type: ignore[arg-type]
