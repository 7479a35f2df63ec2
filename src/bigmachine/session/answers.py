"""What a session tells to those who ask it on its socket (see `control`), and what it does for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bigmachine.errors import BigmachineError
from bigmachine.machine import Machine
from bigmachine.session.control import Channel, Refusal, aside, machines_of
from bigmachine.session.presence import cost_of
from bigmachine.session.tail import Tail, lines_of

if TYPE_CHECKING:
    from bigmachine.session.output.recent import Piece
    from bigmachine.session.session import Session

T = TypeVar("T")
#: Between two looks.
_SHORTEST: Final = 0.2
#: For a machine that is killed to be gone.
_KILLING: Final = 20.0


def argument(request: Mapping[str, Any], name: str, kind: type[T], default: T) -> T:
    """Give an argument of a request; one that is not there, or null, is `default`.

    Raises:
        Refusal: if it is of another type.
    """
    value = request.get(name)
    if value is None:
        return default
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Refusal("invalid", f"{name}={value!r}: it has to be of type {kind.__name__}")
    return value


async def brief(session: Session, _request: Mapping[str, Any], channel: Channel) -> None:
    """Tell what `ls` shows: the session's record as it is now."""
    assert session._presence is not None
    await channel.accept(session=session._presence.record().told())


async def status(session: Session, request: Mapping[str, Any], channel: Channel) -> None:
    """Tell how machines are, as text and as JSON."""
    from bigmachine.session.seeing.status import as_text, as_told, conditions, title

    machines = machines_of(session, argument(request, "machines", list, []))
    found = await aside(conditions, session, machines)
    await channel.accept(text=as_text(title(session), found), machines=[as_told(each) for each in found])


async def top(session: Session, request: Mapping[str, Any], channel: Channel) -> None:
    """Tell how all machines are, a line a second, until the end; `count`: so many times."""
    from bigmachine.session.seeing.watching import Table

    count = argument(request, "count", int, 0)
    period = max(_SHORTEST, argument(request, "period", float, 1.0))
    table = Table(session)
    try:
        await aside(table.begin)
        await channel.accept()
        told = 0
        while not count or told < count:
            if told:
                await asyncio.sleep(period)
            rows = await aside(table.rows)
            await channel.send({"now": time.time(), "machines": [*rows.values()], "cost": cost_of(session)})
            told += 1
    finally:
        table.end()


async def variables(session: Session, request: Mapping[str, Any], channel: Channel) -> None:
    """Tell the numbers of all machines, or of those that are named; with `driver`, this process's, too."""
    from bigmachine.session.seeing.variables import plain

    names = {machine.name for machine in machines_of(session, argument(request, "machines", list, []))}
    is_driver = argument(request, "driver", bool, False)
    told = await aside(session.vars, driver=is_driver)
    wanted = {name: readings for name, readings in told.items() if name in names or name == "driver"}
    await channel.accept(vars=plain(wanted))


async def timeline(session: Session, request: Mapping[str, Any], channel: Channel) -> None:
    """Tell how machines came up, all or those that are named."""
    names = argument(request, "machines", list, [])
    spans = session.timeline()
    _check_known(names, dict.fromkeys(span.machine for span in spans))
    wanted = [span for span in spans if not names or span.machine in names]
    await channel.accept(spans=[{**asdict(span), "seconds": span.seconds} for span in wanted])


async def profile(session: Session, request: Mapping[str, Any], channel: Channel) -> None:
    """Collect a profile, and send it as bytes, whose number is told before."""
    from bigmachine.session.seeing.formats import check_format, rendered

    machines = machines_of(session, argument(request, "machines", list, []))
    debug = argument(request, "debug", int, 0)
    written = check_format(argument(request, "format", str, "pprof"), debug)
    options = argument(request, "options", dict, {})

    def collect() -> tuple[bytes, dict[str, object]]:
        collected = session.collect_profile(
            argument(request, "kind", str, "cpu"),
            seconds=argument(request, "seconds", float, 0.0) or None,
            machines=machines,
            driver=argument(request, "driver", bool, False),
            **options,
        )
        told: dict[str, object] = {
            "kind": collected.kind,
            "format": written,
            "taken": collected.taken,
            "missing": collected.missing,
            "comments": list(collected.profile.comments),
        }
        return rendered(collected, written, debug), told

    data, told = await aside(collect)
    await channel.accept(bytes=len(data), **told)
    await channel.write(data)


async def dump(session: Session, request: Mapping[str, Any], channel: Channel) -> None:
    """Write the dump of the session, to a path on this computer."""
    path = argument(request, "path", str, "")
    if not path.startswith("/"):
        raise Refusal("invalid", f"path={path!r}: it has to begin at the root")
    await channel.accept(path=str(await aside(session.dump, path)))


async def kill(session: Session, request: Mapping[str, Any], channel: Channel) -> None:
    """End machines, those that are named or all; tell which have ended."""
    names = argument(request, "machines", list, [])
    if bool(names) == argument(request, "all", bool, False):
        raise Refusal("invalid", "say which machines are to end, or that all are")
    machines = machines_of(session, names)
    if names:
        foreign = [machine.name for machine in machines if not machine.owned]
        if foreign:
            raise Refusal("invalid", f"{', '.join(foreign)}: owned by another session, and not to be ended from here")
    owned = [machine for machine in machines if machine.owned]
    told = await asyncio.gather(*(_killed(machine) for machine in owned))
    await channel.accept(machines=told)


async def _killed(machine: Machine) -> dict[str, object]:
    try:
        await aside(machine.shutdown, _KILLING)
    except BigmachineError as error:
        return {"name": machine.name, "state": machine.state.name, "error": str(error)}
    why = "" if machine.error is None else str(machine.error).partition("\n")[0]
    return {"name": machine.name, "state": machine.state.name, "text": why}


async def logs(session: Session, request: Mapping[str, Any], channel: Channel) -> None:
    """Tell the last lines that machines wrote, an object each; with `follow`, also those that come, until the end.

    `last`: so many lines of those that came before; not said: all that are kept. `stream`: only that one.
    """
    names = argument(request, "machines", list, [])
    last = argument(request, "last", int, -1)
    tail = Tail(names, argument(request, "stream", str, ""))
    pieces, leave = session._display.recall(tail.note)
    try:
        _check_known(names, _written(session, pieces))
        lines = [line for piece in pieces if tail.wants(piece.machine, piece.stream) for line in lines_of(piece)]
        await channel.accept()
        for line in lines[max(0, len(lines) - last) :] if last >= 0 else lines:
            await channel.send(line)
        if argument(request, "follow", bool, False):
            channel.when_ending = tail.finish
            while lines := await tail.next():
                for line in lines:
                    await channel.send(line)
    finally:
        leave()


def _written(session: Session, pieces: Iterable[Piece]) -> dict[str, None]:
    """Name the machines that there are, or were."""
    assert session._presence is not None
    known = dict.fromkeys(str(each["name"]) for each in session._presence.machines())
    return known | dict.fromkeys(piece.machine for piece in pieces)


def _check_known(names: Iterable[object], known: Mapping[str, None]) -> None:
    for name in names:
        if name not in known:
            raise Refusal("missing", f"no machine {name!r}: there is {', '.join(known) or 'none'}")


__all__ = ["argument", "brief", "dump", "kill", "logs", "profile", "status", "timeline", "top", "variables"]
