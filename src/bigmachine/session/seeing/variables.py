"""The numbers of all machines, and how they are put together."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bigmachine.errors import BigmachineError
from bigmachine.machine import Machine, State
from bigmachine.observe import facts
from bigmachine.observe.vars import Reading, merged
from bigmachine.rpc import Call, deadline
from bigmachine.session.seeing import own
from bigmachine.session.seeing.asking import ask_all

if TYPE_CHECKING:
    from bigmachine.rpc import Reactor

#: A machine that takes longer is told with what it said last.
_PATIENCE: Final = 2.0
#: How old a machine's numbers are.
AGE: Final = "vars.age_seconds"

Readings = dict[str, Reading]


@dataclass(slots=True)
class _Last:
    """What was said last: from inside (the program) and from outside (its agent), and when."""

    inside: Readings
    outside: Readings
    heard: float


class Variables:
    """Remembers what machines said last. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, _Last] = {}

    def read(self, reactor: Reactor, machines: Sequence[Machine]) -> dict[str, Readings]:
        """Ask all machines at once; for those that do not answer within two seconds, give what they said last.

        `vars.age_seconds` says how old that is; of a machine that never answered there is what is known of it here.
        """
        told: dict[str, Readings] = {}
        for answer in ask_all(reactor, machines, _ask, _PATIENCE + 0.5):
            machine = answer.machine
            inside, outside = answer.value or (None, None)
            with self._lock:
                last = self._last.setdefault(machine.machine_id, _Last({}, {}, 0.0))
                if inside is not None:
                    last.inside, last.heard = inside, time.monotonic()
                if outside is not None:
                    last.outside = outside
                age = time.monotonic() - last.heard if last.heard else math.nan
                told[machine.name] = {
                    **last.outside,
                    **_seen_from_here(machine),
                    **last.inside,
                    AGE: Reading("gauge", 0.0 if inside is not None else age, help="how old the program's part is"),
                }
        with self._lock:
            for gone in self._last.keys() - {machine.machine_id for machine in machines}:
                del self._last[gone]
        return told


def of_driver(reactor: Reactor, entered: Mapping[str, int]) -> Readings:
    """Give the numbers of this process and its host; `entered`: how many of its machines have come to which phase."""
    from bigmachine.observe import vars  # noqa: A004 (the field's word)

    told = {**facts.of_host(os.getpid()), **facts.of_process(own.born())}
    told["process.connections"] = Reading("gauge", len(reactor.connections), help="to machines and their agents")
    for phase, count in entered.items():
        name = facts.labelled("session.events", event=phase)
        told[name] = Reading("counter", count, help="machines that have come to this phase of their lives")
    return {**told, **facts.of_prometheus(), **vars.read()}


async def _ask(machine: Machine) -> tuple[Readings | None, Readings | None]:
    """Ask the program and its agent; None from who does not answer."""
    is_up = machine.state is State.RUNNING
    asked = [machine.submit("Supervisor.observe", "vars")] if is_up else []
    asked.append(machine.submit("Supervisor.host_vars"))
    with deadline(_PATIENCE):
        told = await asyncio.gather(*map(_quietly, asked))
    return (told[0] if is_up else None), told[-1]


async def _quietly(call: Call[Readings]) -> Readings | None:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await call
    except (BigmachineError, TimeoutError):
        call.cancel()
        return None


def _seen_from_here(machine: Machine) -> Readings:
    """Tell what the driver itself knows of a machine: its keepalives, and this process's calls to it."""
    told = facts.of_calls(machine.call_statistics(), "client")
    told["machine.running"] = Reading("gauge", int(machine.state is State.RUNNING), help="1 while it runs")
    if replies := machine.keepalive_reply_times():
        told["keepalive.reply_seconds"] = Reading("gauge", replies[0], help="how long the last one took")
        told["keepalive.reply_max_seconds"] = Reading("gauge", max(replies), help="the longest of the last ten")
    if (lease := machine.next_keepalive) is not None:
        told["keepalive.lease_seconds"] = Reading("gauge", lease, help="until it ends itself, unless it hears of us")
    return told


def plain(machines: Mapping[str, Mapping[str, Reading]]) -> dict[str, dict[str, object]]:
    """Give them as JSON has them, in Go's shape: machine -> name -> value, and under "_sum" all together."""
    told = {name: {key: value.plain() for key, value in readings.items()} for name, readings in machines.items()}
    together = merged(machines.values())
    together.pop(AGE, None)
    return {**told, "_sum": {key: reading.plain() for key, reading in together.items()}}


__all__ = ["AGE", "Readings", "Variables", "of_driver", "plain"]
