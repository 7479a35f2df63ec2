"""What every machine does first, done once by the zygote for all of them, with nothing at stake.

Much of what happens in a process for the first time stays: methods that are compiled when they are used (`frozen`), the
layout of a class's instances, caches of types, of attributes, of expressions. Here it stays in memory that all machines
share: 1.4 ms and 0.3 MiB less for each of them, for 3 ms of the zygote (2 cores, Python 3.11).

A zygote must not have run anything, so this leaves nothing behind that runs: an event loop of asyncio's own (not
uvloop's, which goes on to own descriptors and signals) is opened and closed again, there is no thread, no connection
to anybody, and no identity: the one here is nobody's. What comes in is what an agent would say, and a driver's call.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Final, Protocol

from bigmachine.agent.launch import LaunchSpec
from bigmachine.agent.processes.control import Decoder, encode
from bigmachine.agent.processes.loop_channel import LoopChannel
from bigmachine.errors import NetworkError
from bigmachine.image import Entry
from bigmachine.program.serving import authorize
from bigmachine.program.supervisor import Supervisor
from bigmachine.rpc import Codec, Link, Server, ServiceTable
from bigmachine.rpc.memory import MemoryDialer
from bigmachine.trust import Identity, Peer, Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from bigmachine.agent.processes.control import Message
    from bigmachine.rpc import Reactor

_NOBODY: Final = "nobody"
#: It takes 3 ms; a computer that is very busy may take longer, and one that takes so long goes without.
_PATIENCE: Final = 1.0


class SessionMaker(Protocol):
    """Makes a machine's session: `Session.on_machine`."""

    def __call__(self, identity: Identity, reactor: Reactor, codec: Codec, /, *, name: str) -> object: ...


class _Service:
    """Stands for what a program installs."""

    def ask(self) -> None:
        """Nothing."""


def rehearse(make_session: SessionMaker, receive_with: Callable[[str, None], object]) -> None:
    """Go through what a machine does from the boot message to its first service; a failure is of no consequence.

    `receive_with`: of `machine`, by which a session is forgotten.
    """
    loop = asyncio.new_event_loop()
    try:
        with contextlib.suppress(Exception):
            loop.run_until_complete(asyncio.wait_for(_rehearse(loop, _told(), make_session), _PATIENCE))
    finally:
        receive_with(_NOBODY, None)
        loop.close()


def _told() -> LaunchSpec:
    """Read a boot message."""
    identity = Identity(_NOBODY, Role.MACHINE, _NOBODY, b"", b"", b"")
    spec = LaunchSpec(_NOBODY, _NOBODY, identity, [""], {}, "/", Entry("none"), [])
    decoder = Decoder(os.close)
    decoder.feed(encode({"k": "boot", "identity": identity.to_dict(), "spec": spec.to_text()}))
    (message,) = decoder.messages()
    told = message.body["identity"]
    assert isinstance(told, dict)
    Identity.from_dict(told)
    return LaunchSpec.from_text(message.text("spec"))


async def _rehearse(loop: asyncio.AbstractEventLoop, spec: LaunchSpec, make_session: SessionMaker) -> None:
    heard: list[Message] = []
    with contextlib.ExitStack() as opened:
        agent, channel = (LoopChannel(end, loop, heard.append, lambda: None) for end in socket.socketpair())
        opened.callback(agent.close)
        opened.callback(channel.close)
        await _serve(channel, spec, make_session)


async def _serve(channel: LoopChannel, spec: LaunchSpec, make_session: SessionMaker) -> None:
    table = ServiceTable(is_open=False)
    server = Server(table, authorize=authorize, codec=Codec(machine=spec.name, limit=spec.limit), threads=spec.threads)
    session = make_session(spec.identity, server.reactor, server.codec, name="")
    server.session = session
    supervisor = Supervisor(table, session, channel.send, lambda *_: None, server.statistics)
    table.register("Supervisor", supervisor)
    channel.send({"k": "serving"})
    driver = Peer(_NOBODY, Role.DRIVER, _NOBODY)
    link = Link(server.reactor, MemoryDialer(server, driver, spec.name), codec=Codec(machine=spec.name))
    try:
        await link.submit("Supervisor.register", ("Service", _Service(), True), {}, _PATIENCE, key=os.urandom(16))
    finally:
        link.close(NetworkError("it was a rehearsal"))
        await server.close()
        await asyncio.sleep(0)  # what is closed says so to its other end


__all__ = ["SessionMaker", "rehearse"]
