"""Ask all machines the same at once, and hand out the answers as they come, in bounded time.

The calls are made on the session's event loop; what is done with the answers happens in the thread that asks, so that
neither the machines' keepalives nor other calls wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from bigmachine.errors import BigmachineError, InvalidCall, MachineStopped
from bigmachine.frozen import frozen
from bigmachine.machine import Machine, State
from bigmachine.rpc import deadline

if TYPE_CHECKING:
    from bigmachine.rpc import Reactor

T = TypeVar("T")


@frozen
class Answer(Generic[T]):
    """What came of asking one machine: `value`, or `error`."""

    machine: Machine
    value: T | None = None
    error: BaseException | None = None


def ask_all(
    reactor: Reactor, machines: Iterable[Machine], ask: Callable[[Machine], Awaitable[T]], limit: float
) -> Iterator[Answer[T]]:
    """Let `ask` ask every machine, and give the answers as they come; after `limit` seconds, errors for the rest.

    Raises:
        BigmachineError: on the event loop's own thread, which would wait for itself; or if the session has ended.
    """
    if reactor.is_here:
        raise BigmachineError("this waits for machines, and would stop the event loop that carries their answers")
    waiting = list(machines)
    answers: queue.SimpleQueue[Answer[T]] = queue.SimpleQueue()
    tasks: list[asyncio.Task[None]] = []
    end = time.monotonic() + limit
    try:
        reactor.post(partial(_begin, reactor, waiting, ask, limit, answers, tasks))
    except RuntimeError as error:
        raise BigmachineError("the session was shut down") from error
    left = dict.fromkeys(waiting)
    try:
        while left:
            try:
                answer = answers.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            left.pop(answer.machine, None)
            yield answer
        for machine in left:
            yield Answer(machine, error=TimeoutError(f"no answer within {limit:g} s"))
    finally:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and its tasks with it
            reactor.post(_cancel, tasks)


def _begin(
    reactor: Reactor,
    machines: Sequence[Machine],
    ask: Callable[[Machine], Awaitable[T]],
    limit: float,
    answers: queue.SimpleQueue[Answer[T]],
    tasks: list[asyncio.Task[None]],
) -> None:
    tasks += [reactor.spawn(_ask(machine, ask, limit, answers), f"look at {machine.name}") for machine in machines]


def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


async def _ask(
    machine: Machine, ask: Callable[[Machine], Awaitable[T]], limit: float, answers: queue.SimpleQueue[Answer[T]]
) -> None:
    try:
        with deadline(limit):
            answers.put(Answer(machine, await ask(machine)))
    except Exception as error:  # noqa: BLE001 (whatever it is, the others' answers count)
        answers.put(Answer(machine, error=error))


def why_not(machine: Machine, error: BaseException) -> str:
    """Say in one line why a machine has nothing to tell."""
    if isinstance(error, MachineStopped):
        return f"it stopped ({error.certificate.cause})"
    doing = f" (it is {machine.state.name}: {machine.phase.value})" if machine.state < State.RUNNING else ""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"{text}{doing}"


def chosen(machines: Sequence[Machine], wanted: Iterable[Machine | str] | Machine | str | None) -> list[Machine]:
    """Find the machines that are meant, by handle, name, or address; all if `wanted` is None.

    Raises:
        InvalidCall: if there is none of this name.
    """
    if wanted is None:
        return list(machines)
    known = {key: machine for machine in machines for key in (machine.machine_id, machine.name, machine.address)}
    found = []
    for each in [wanted] if isinstance(wanted, Machine | str) else wanted:
        machine = each if isinstance(each, Machine) else known.get(each)
        if machine is None:
            there = ", ".join(machine.name for machine in machines) or "none"
            raise InvalidCall(f"no machine {each!r}: there is {there}")
        if machine not in found:
            found.append(machine)
    return found


__all__ = ["Answer", "ask_all", "chosen", "why_not"]
