"""Serve: what the program's main becomes when it reaches `bigmachine.start()` in a machine's process.

The event loop runs in the thread that called `start`, under the user's own call, and never returns. Where `start` is
called in a coroutine, as in `asyncio.run(main())`, that thread has a running loop already, which cannot run another
one inside: then the machine's loop runs in a thread of its own, and the program's stands still. The agent passes
accepted connections on the control socket; each gets its TLS handshake here, with the machine's own key. The end of
the control socket is the end of the agent, and so of this process.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import socket
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

from bigmachine.agent.processes.loop_channel import LoopChannel
from bigmachine.agent.processes.reserve import Reserve
from bigmachine.errors import AuthenticationError, Cause, InvalidCall
from bigmachine.program import boot, failure
from bigmachine.program.dump import Heap, plain, take_heap
from bigmachine.program.journal import Journal
from bigmachine.program.main import end_by, exit_status, finish
from bigmachine.program.records import silence_copies, take_levels
from bigmachine.program.supervisor import Supervisor
from bigmachine.rpc import Codec, Server, ServiceTable, new_event_loop, serve_socket, serve_waiting, turn_away
from bigmachine.trust import Peer, Role, server_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from bigmachine.agent.processes.control import Message
    from bigmachine.program.boot import Boot

#: After a failure has been reported: time for the answer of the call that failed to leave.
_LAST_ANSWER: Final = 0.1
#: An agent answers in less than a millisecond; one that is held up holds no init up for longer than this.
_HEARD: Final = 5.0


class SessionFactory(Protocol):
    """Makes the session that services see. Called once, on the event loop, before anybody can call; must not wait."""

    def __call__(self, machine: Boot, server: Server, /) -> object: ...


def serve(make_session: SessionFactory) -> NoReturn:
    """Serve this machine until its end, which is the end of the process.

    Raises:
        InvalidCall: in a driver.
    """
    machine = boot.current()
    if machine is None:
        raise InvalidCall("only a machine's process serves; a driver starts machines by bigmachine.start()")
    machine.is_served = True
    # The main began where and with what it began in the driver; now it is as far as the driver.
    os.chdir(machine.spec.cwd)
    sys.argv[1:] = machine.spec.argv[1:]
    silence_copies()
    take_levels(machine.spec.levels)
    if asyncio._get_running_loop() is not None:
        threading.Thread(target=_serve_here, args=(machine, make_session), name="bigmachine-main", daemon=True).start()
        _stand_still()
    _serve_here(machine, make_session)


def _stand_still() -> NoReturn:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # `asyncio.run` would cancel a task of the program
    try:
        while True:
            threading.Event().wait()
    except KeyboardInterrupt:
        end_by(signal.SIGINT)


def _serve_here(machine: Boot, make_session: SessionFactory) -> NoReturn:
    """Run the event loop in this thread until the end of the process."""
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    serving = _Serving(machine, loop)
    try:
        loop.run_until_complete(serving.run(make_session))
    except KeyboardInterrupt:
        end_by(signal.SIGINT)
    except SystemExit as error:
        finish(exit_status(error), serving.let_go)
    except BaseException as error:  # noqa: BLE001 (the edge of the process)
        serving.fail(Cause.BOOT_FAILED, f"{type(error).__name__}: {error}", error)
    finish(1, serving.let_go)


class _Serving:
    """The serving machine."""

    def __init__(self, machine: Boot, loop: asyncio.AbstractEventLoop) -> None:
        self._machine = machine
        self._loop = loop
        self._status: asyncio.Future[int] = loop.create_future()
        self._server: Server | None = None
        self._supervisor: Supervisor | None = None
        self._context: ssl.SSLContext | None = None
        self._channel: LoopChannel | None = None
        self._reserve = Reserve()
        self._phased = asyncio.Event()

    async def run(self, make_session: SessionFactory) -> None:
        machine = self._machine
        table = ServiceTable(is_open=False)
        spec = machine.spec
        codec = Codec(by_value=spec.interactive, machine=spec.name, limit=spec.limit)
        server = self._server = Server(table, authorize=authorize, codec=codec, threads=spec.threads)
        server.session = make_session(machine, server)
        journal = Journal(self._send_files, machine.journal)
        for key in journal.former():
            server.ledger.remember(key)
        server.on_key = journal.note
        self._supervisor = Supervisor(table, server.session, self.send, self.fail, server.statistics, self._heard)
        table.register("Supervisor", self._supervisor)
        self._context = server_context(machine.identity, machine.blank)
        waiting = machine.channel.take_over()
        self._channel = LoopChannel(
            machine.channel.socket, self._loop, self._on_message, self._on_end, machine.channel.decoder, self._reserve
        )
        if machine.debugging is not None:
            machine.debugging.tell = self._tell
            machine.debugging.loop = self._loop
            machine.debugging.pool = server.pool
            machine.debugging.names = self._names
        self.send({"k": "serving"})
        for message in waiting:
            self._on_message(message)
        finish(await self._status, self.let_go)

    def send(self, body: Mapping[str, object]) -> None:
        """Tell the agent something; on the loop's thread."""
        if self._channel is not None:
            self._channel.send(body)
        else:
            self._machine.channel.send(body)

    def fail(self, cause: Cause, detail: str, error: BaseException) -> None:
        """Tell the agent why this machine cannot go on, and end it soon."""
        self.send(failure.failed(cause, detail, error, failure.describe_call(error)))
        self._loop.call_later(_LAST_ANSWER, self._end, 1)

    def let_go(self) -> None:
        """Give up the services, at the end."""
        if self._server is not None:
            for name in self._server.table.names():
                self._server.table.remove(name)

    async def _heard(self) -> None:
        # Set for good by the first answer: only the first init follows output that is not shown.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HEARD):
                await self._phased.wait()

    def _end(self, status: int) -> None:
        if not self._status.done():
            self._status.set_result(status)

    def _on_message(self, message: Message) -> None:
        if message.kind == "conn":
            self._connect(message.fds)
        elif message.kind == "probe":
            self.send({"k": "alive", "n": message.number("n")})
        elif message.kind == "dump" and self._server is not None:
            self._server.reactor.spawn(self._dump(message.number("headroom")), "dump")
        elif message.kind == "drain" and self._supervisor is not None and self._server is not None:
            self._server.reactor.spawn(self._supervisor.drain(), "drain")
        elif message.kind == "phased":
            self._phased.set()
        elif message.kind == "shutdown":
            self._end(0)

    def _tell(self, body: Mapping[str, object], fds: Sequence[int]) -> None:
        """Tell the agent something, from any thread; on the loop's own at once, for it may be about to stand still."""
        kept = [os.dup(fd) for fd in fds]
        send = partial(self._send_files, body, kept)
        if asyncio._get_running_loop() is self._loop:
            send()
        else:
            self._loop.call_soon_threadsafe(send)

    def _send_files(self, body: Mapping[str, object], fds: Sequence[int]) -> None:
        assert self._channel is not None
        self._channel.send(body, fds)

    def _names(self) -> dict[str, object]:
        """Give what a shell on this machine knows."""
        assert self._server is not None
        table = self._server.table
        services = {name: table.get(name) for name in table.names() if name != "Supervisor"}
        return {
            "machine": self._machine.spec.name,
            "session": self._server.session,
            "services": services,
            **{name: service for name, service in services.items() if name.isidentifier()},
        }

    async def _dump(self, headroom: int) -> None:
        """Tell the agent what is in this process's memory, which runs short."""
        variables = plain(await self._supervisor.expvars()) if self._supervisor is not None else None
        taken: asyncio.Future[Heap] = self._loop.create_future()
        take_heap(headroom, lambda heap: self._loop.call_soon_threadsafe(taken.set_result, heap))
        heap = await taken
        profile = base64.b64encode(heap.profile).decode()
        self.send({"k": "dumped", "heap": heap.text, "profile": profile, "vars": variables})

    def _on_end(self) -> None:
        os._exit(1)  # the agent is gone: nobody is left to tell, and nothing may stay

    def _connect(self, fds: Sequence[int]) -> None:
        assert self._server is not None
        assert self._context is not None
        sock = socket.socket(fileno=fds[0]) if fds else None
        if sock is None or not self._reserve.take():
            turn_away(sock, self._server.reactor.complaints)
            self._reserve.take()
            return
        sock.setblocking(False)
        if serve_waiting(sock, self._context, self._server):
            return
        self._server.reactor.spawn(serve_socket(sock, self._context, self._server), "handshake")


_DRIVER = Role.DRIVER  # asked for each call; a member's look-up in its class takes longer than all the rest


def authorize(peer: Peer, method: str) -> None:
    """Let the driver, machines and clients of the session call services; only the driver brings new ones.

    Raises:
        AuthenticationError: if this peer may not call this method.
    """
    if peer.role is _DRIVER:
        return
    if peer.role not in (Role.MACHINE, Role.CLIENT):
        raise AuthenticationError(f"{peer} may not call {method}: an agent calls no services")
    if method == "Supervisor.register":
        raise AuthenticationError(f"{peer} may not call {method}: only the driver installs services")


__all__ = ["SessionFactory", "authorize", "serve"]
