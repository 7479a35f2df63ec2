"""What a session does for a person who wants into a machine's program, or at its files; verbs of `control`."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, Final

from bigmachine.agent.conversations import INTERRUPT
from bigmachine.errors import BigmachineError
from bigmachine.machine import State
from bigmachine.rpc import deadline
from bigmachine.session.answers import argument
from bigmachine.session.control import Channel, Refusal, machines_of

if TYPE_CHECKING:
    from bigmachine.machine import Machine
    from bigmachine.rpc import Stream
    from bigmachine.session.session import Session

#: For agents to say who waits.
_LOOKING: Final = 5.0
#: Files travel in pieces, each after its length; 0 ends a file, and BROKEN stands before a line with an error.
LENGTH: Final = struct.Struct(">I")
BROKEN: Final = 0xFFFF_FFFF
PIECE: Final = 256 * 1024


async def halts(session: Session, request: Mapping[str, Any], channel: Channel) -> None:
    """Tell which programs wait in `breakpoint()`, and where."""
    machines = machines_of(session, argument(request, "machines", list, []))
    running = [machine for machine in machines if machine.state is State.RUNNING and machine.owned]
    with deadline(_LOOKING):
        calls = [machine.submit("Supervisor.halts") for machine in running]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    await channel.accept(
        halts=[
            {"machine": machine.name, "number": halt.number, "where": halt.where, "since": halt.since}
            for machine, answer in zip(running, answers, strict=True)
            if not isinstance(answer, BaseException)
            for halt in answer
        ]
    )


async def converse(session: Session, request: Mapping[str, Any], channel: Channel) -> None:
    """Talk to a machine's program, as `Supervisor.converse` has it; bytes both ways after the first answer."""
    machine = _one(session, request)
    kind = argument(request, "kind", str, "shell")
    number = argument(request, "number", int, 0) or None
    typed = _typed(channel)
    held = session._prompt.give_up(machine) if kind == "pdb" else None
    if held is not None:
        # It was open at the driver's terminal, and is asked to say anew where it is.
        said, words = held
        words.put_nowait(INTERRUPT + b"\n")
        passing = asyncio.ensure_future(_pass_on(typed, words))
    else:
        code = argument(request, "code", str, "")
        said = await machine.submit("Supervisor.converse", kind, typed, number, code)
        passing = None
    try:
        await _listen(said, channel, machine)
    finally:
        said.close()
        if passing is not None:
            passing.cancel()


async def _listen(said: Stream[bytes], channel: Channel, machine: Machine) -> None:
    first = await anext(aiter(said), b"")  # what is wrong with the request comes in its place
    await channel.accept(machine=machine.name)
    await channel.write(first)
    async for data in said:
        await channel.write(data)


async def _typed(channel: Channel) -> AsyncGenerator[bytes, None]:
    with contextlib.suppress(ConnectionError):
        while data := await channel.read():
            yield data


async def _pass_on(typed: AsyncGenerator[bytes, None], words: asyncio.Queue[bytes]) -> None:
    async for data in typed:
        words.put_nowait(data)
    words.put_nowait(b"")


async def get(session: Session, request: Mapping[str, Any], channel: Channel) -> None:
    """Give a file of a machine's host."""
    machine = _one(session, request)
    path = argument(request, "path", str, "")
    info = await machine.submit("Supervisor.stat_file", path)
    stream = await machine.submit("Supervisor.read_file", info.path)
    try:
        await channel.accept(path=info.path, size=info.size, mode=info.mode)
        try:
            while data := await stream.next_piece():
                await channel.write(LENGTH.pack(len(data)))
                await channel.write(data)
        except BigmachineError:
            await channel.write(LENGTH.pack(BROKEN))
            raise
        await channel.write(LENGTH.pack(0))
    finally:
        stream.close()


async def put(session: Session, request: Mapping[str, Any], channel: Channel) -> None:
    """Write a file on a machine's host, whole or not at all."""
    machine = _one(session, request)
    path, name = argument(request, "path", str, ""), argument(request, "name", str, "")
    mode = argument(request, "mode", int, 0o600)
    await channel.accept()
    info = await machine.submit("Supervisor.write_file", path, _pieces(channel), mode, name)
    await channel.send({"ok": True, "path": info.path, "size": info.size})


async def _pieces(channel: Channel) -> AsyncGenerator[bytes, None]:
    while True:
        (length,) = LENGTH.unpack(await _exactly(channel, LENGTH.size))
        if length > 4 * PIECE:
            raise Refusal("invalid", f"a piece of {length} bytes")
        if not length:
            return
        yield await _exactly(channel, length)


async def _exactly(channel: Channel, count: int) -> bytes:
    parts = []
    while count:
        data = await channel.read(count)
        if not data:
            raise Refusal("failed", "whoever sent the file has gone away before its end")
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


def _one(session: Session, request: Mapping[str, Any]) -> Machine:
    name = argument(request, "machine", str, "")
    if not name:
        raise Refusal("invalid", "no machine is named")
    return machines_of(session, [name])[0]


__all__ = ["BROKEN", "LENGTH", "PIECE", "converse", "get", "halts", "put"]
