"""The page of text with the state of all machines [Go: status.go]."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from bigmachine.errors import BigmachineError
from bigmachine.frozen import frozen
from bigmachine.machine import Machine, State
from bigmachine.rpc import deadline
from bigmachine.session.seeing.asking import ask_all, why_not

if TYPE_CHECKING:
    from bigmachine.observe import DiskInfo, LoadInfo, MemInfo
    from bigmachine.session import Session

#: Go's limit for one machine; all are asked at once.
PATIENCE: Final = 10.0
#: For the program itself to tell, after its agent has.
_BUSY: Final = 2.0
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


@frozen
class Condition:
    """How one machine was: `told` by it; or nothing, and then `why`, if it runs."""

    machine: Machine
    told: _Told | None = None
    why: str = ""


def conditions(session: Session, machines: Iterable[Machine] | None = None) -> list[Condition]:
    """Ask machines (None: all) how they are, in at most ten seconds; sorted by address."""
    found = {machine: Condition(machine) for machine in (session.machines() if machines is None else machines)}
    running = [machine for machine in found if machine.state is State.RUNNING]
    for answer in ask_all(session._reactor, running, _ask, PATIENCE):
        machine = answer.machine
        why = "" if answer.value is not None else why_not(machine, answer.error or TimeoutError())
        found[machine] = Condition(machine, answer.value, why)
    return sorted(found.values(), key=lambda condition: condition.machine.address)


def status(session: Session, machines: Iterable[Machine] | None = None) -> str:
    """Say how machines (None: all) are, for people to read."""
    return as_text(title(session), conditions(session, machines))


def as_text(head: str, found: Sequence[Condition]) -> str:
    """Write it as a page of text."""
    texts = []
    for condition in found:
        machine = condition.machine
        if condition.told is not None:
            texts.append("".join(f"{line}\n" for line in _lines(machine, *condition.told)))
        elif condition.why:
            texts.append(f"{machine.address} ({machine.name}) : {condition.why}\n")
        else:
            texts.append(f"{machine.address} : machine state {machine.state.name} ({machine.phase.value})\n")
    running = sum(1 for condition in found if condition.told is not None or condition.why)
    return f"{head}: {len(found)} machines, {running} running\n\n" + "\n".join(texts)


def as_told(condition: Condition) -> dict[str, object]:
    """Give it as JSON has it; sizes in bytes, times in seconds."""
    machine = condition.machine
    told: dict[str, object] = {
        "name": machine.name,
        "address": machine.address,
        "host": machine.hostname,
        "state": machine.state.name,
        "phase": machine.phase.value,
        "owned": machine.owned,
        "keepalive": {"next": machine.next_keepalive, "replies": machine.keepalive_reply_times()},
        "why": condition.why,
    }
    if condition.told is not None:
        memory, disk, load, inside = condition.told
        told |= {"memory": asdict(memory), "disk": asdict(disk), "load": asdict(load)}
        names = {"uptime": "process.uptime_seconds", "cpu": "process.cpu_seconds", "threads": "process.threads"}
        told["runtime"] = {key: getattr(inside.get(name), "value", None) for key, name in names.items()}
    return told


_Told = tuple["MemInfo", "DiskInfo", "LoadInfo", "dict[str, object]"]


async def _ask(machine: Machine) -> _Told:
    names = ("mem_info", "disk_info", "load_info")
    with deadline(PATIENCE):
        calls = [machine.submit(f"Supervisor.{name}") for name in names]
        # The program's own is the true uptime; one that is busy or stuck has none to tell.
        inside = machine.submit("Supervisor.observe", "vars")
        memory, disk, load = [await call for call in calls]
    try:
        async with asyncio.timeout(_BUSY):
            readings = await inside
    except (BigmachineError, TimeoutError):
        inside.cancel()
        readings = {}
    return memory, disk, load, readings


def _lines(machine: Machine, memory: MemInfo, disk: DiskInfo, load: LoadInfo, inside: dict[str, object]) -> list[str]:
    lines = [f"{machine.address} ({machine.name}, {machine.hostname or 'host unknown'})"]
    if machine.owned:
        left = machine.next_keepalive
        at = "" if left is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() + left))
        replies = " ".join(f"{1e3 * reply:.1f}ms" for reply in machine.keepalive_reply_times())
        lines += [
            "    keepalive:",
            f"        next:        {'none yet' if left is None else f'{at} (in {left:.1f}s)'}",
            f"        reply times: {replies or 'none yet'}",
        ]
    limit = memory.total if memory.limit is None else min(memory.total, memory.limit)
    lines += [
        "    memory:",
        f"        total:       {size(memory.total)}",
        f"        limit:       {size(limit)}{'' if limit < memory.total else ' (no container limits it)'}",
        f"        used:        {size(memory.used)}",
        f"        (percent):   {memory.percent:.1f}%",
        f"        available:   {size(memory.available)}",
        f"        program:     {'unknown' if memory.rss is None else size(memory.rss)}",
        "    runtime:",
        f"        uptime:      {_reading(inside, 'process.uptime_seconds', 's')}",
        f"        cpu:         {_reading(inside, 'process.cpu_seconds', 's')}",
        f"        threads:     {_reading(inside, 'process.threads', '')}",
        "    disk:",
        f"        total:       {size(disk.total)}",
        f"        available:   {size(disk.free)}",
        f"        used:        {size(disk.used)}",
        f"        (percent):   {disk.percent:.1f}%",
        "    load:",
        f"        load:        {load.load1:.1f} {load.load5:.1f} {load.load15:.1f}",
        f"        processors:  {load.cpus:g}",
    ]
    return lines


def _reading(inside: dict[str, object], name: str, unit: str) -> str:
    value = getattr(inside.get(name), "value", None)
    if value is None:
        return "unknown: the program did not answer in time"
    return f"{value:.3f}{unit}" if unit else f"{value:g}"


def size(count: float) -> str:
    """Write bytes as people read them."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            return f"{count:.0f}{unit}" if unit == "B" else f"{count:.1f}{unit}"
        count /= 1024
    raise AssertionError("the last unit takes everything")


def title(session: Session) -> str:
    """Say which session it is: its name, or the program's; and its system."""
    name = session.name or os.path.basename(sys.argv[0]) or "session"
    return name if session.system is None else f"{name} on {session.system.name}"
