"""One machine inside this process, from its services to its end; and the way to it."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from typing import Any, Protocol

from bigmachine.agent import LaunchSpec
from bigmachine.errors import AuthenticationError, Cause, NetworkError
from bigmachine.rpc import Codec, Reactor, Server, ServiceTable
from bigmachine.rpc.connection import Connection, Receiver
from bigmachine.rpc.memory import MemoryDialer
from bigmachine.rpc.registrar import Registrar
from bigmachine.rpc.statistics import Statistics
from bigmachine.system import MakeDialer, Ticket
from bigmachine.trust import Peer, Role

#: After a failed init: time for the answer of the call that brought the service, which has the exception itself.
_LAST_ANSWER = 0.1


class Ender(Protocol):
    """Ends a machine: the system that has it."""

    def __call__(
        self, machine: InprocessMachine, cause: Cause, detail: str, error: BaseException | None, /
    ) -> None: ...


class InprocessMachine:
    """One machine of an `InprocessSystem`, seen from inside: a test can look at its services."""

    def __init__(self, spec: LaunchSpec, address: str, ticket: Ticket, inside: MakeDialer, end: Ender) -> None:
        self.machine_id = spec.machine_id
        self.address = address
        self.spec = spec
        self.started = time.time()
        self._services = ServiceTable(is_open=False)
        self._end = end
        self._reactor = ticket.reactor
        self._lease: asyncio.TimerHandle | None = None
        self._guest = ticket.guest(spec.machine_id, inside)
        self.server = Server(
            self._services,
            session=self._guest,
            authorize=_authorize,
            codec=Codec(machine=spec.name, limit=spec.limit),
            reactor=ticket.reactor,
            threads=spec.threads,
        )
        self._services.register(
            "Supervisor",
            _ProgramSupervisor(self._services, self._guest, self._in_thread, self._fail, self.server.statistics),
        )

    def service(self, name: str) -> object | None:
        """Return the service object of that name, or None."""
        return self._services.get(name)

    # on the reactor's thread

    def renew(self, lease: float) -> None:
        """Let it live for so many seconds more."""
        if self._lease is not None:
            self._lease.cancel()
        self._lease = self._reactor.loop.call_later(lease, self._expire, lease)

    def _expire(self, lease: float) -> None:
        self._end(self, Cause.LEASE_EXPIRED, f"nobody renewed its lease of {lease:g} s", None)

    def _fail(self, service: str, error: BaseException) -> None:
        text = f"the init of service {service!r} raised {type(error).__name__}: {error}"
        self._reactor.loop.call_later(_LAST_ANSWER, self._end, self, Cause.INIT_FAILED, text, error)

    async def _in_thread(self, function: Callable[..., object], *args: object) -> object:
        job = _Job(self._reactor, function, args)
        self.server.pool.submit(job)
        return await job.outcome

    def close(self) -> None:
        """Break every connection, and let the threads end that are idle or once they are."""
        if self._lease is not None:
            self._lease.cancel()
        for channel in list(self.server.channels):
            for connection in (channel.main, channel.bulk):
                if connection is not None:
                    connection.abort()
        self.server.pool.close()
        self._guest.leave()

    def __repr__(self) -> str:
        return f"<InprocessMachine {self.address}>"


class _Job:
    """A function in one of the machine's own threads: those of the event loop's executor would outlive the session."""

    def __init__(self, reactor: Reactor, function: Callable[..., object], args: tuple[object, ...]) -> None:
        self.outcome: asyncio.Future[object] = reactor.loop.create_future()
        self._reactor = reactor
        self._function = function
        self._args = args
        self._context = contextvars.copy_context()

    def run(self) -> None:
        result: object = None
        error: BaseException | None = None
        try:
            result = self._context.run(self._function, *self._args)
        except BaseException as exc:  # noqa: BLE001 (the edge of the thread: it goes to who waits)
            error = exc if isinstance(exc, Exception) else RuntimeError(f"{type(exc).__name__}: {exc}")
        try:
            self._reactor.post(self._finish, result, error)
        except RuntimeError:
            return  # the loop has ended, and so has whoever waited

    def _finish(self, result: object, error: BaseException | None) -> None:
        if self.outcome.done():
            return
        if error is None:
            self.outcome.set_result(result)
        else:
            self.outcome.set_exception(error)


class _ProgramSupervisor:
    """What only the program itself can do, as `program.Supervisor` does it in a machine's process."""

    def __init__(
        self,
        table: ServiceTable,
        session: object,
        in_thread: Callable[..., Any],
        fail: Callable[[str, BaseException], None],
        statistics: Statistics,
    ) -> None:
        self._table = table
        self._statistics = statistics
        self._registrar = Registrar(table, session, in_thread)
        self._fail = fail
        self._born = time.time()

    async def ping(self, data: object = None) -> object:
        return data

    async def register(self, name: str, service: object, is_last: bool = True) -> bool:
        ServiceTable().register(name, service)  # a bad name is the caller's mistake; all that follows is the service's
        try:
            return await self._registrar.register(name, service, is_last)
        except Exception as error:
            self._fail(name, error)
            raise

    async def running(self) -> None:
        await self._registrar.running()

    async def observe(self, what: str, **options: Any) -> object:
        from bigmachine.observe import inside  # only once somebody asks

        return await inside.observe(what, options, self._statistics, self._born)

    async def expvars(self) -> dict[str, object]:
        from bigmachine.observe import inside

        return inside.counts(self._statistics, self._table.names(), self._born)


def _authorize(peer: Peer, method: str) -> None:
    """Let only the driver install services, as in a machine's process.

    Raises: AuthenticationError.
    """
    if method == "Supervisor.register" and peer.role is not Role.DRIVER:
        raise AuthenticationError(f"{peer} may not call {method}: only the driver installs services")


class Way(MemoryDialer):
    """The way to whoever answers under an id at the time of dialling."""

    def __init__(self, find: Callable[[str], Server | None], ident: str, caller: Peer) -> None:
        super().__init__(None, caller, ident)
        self._find = find
        self._ident = ident

    async def dial(self, reactor: Reactor, receiver: Receiver) -> Connection:
        self.server = self._find(self._ident)
        if self.server is None:
            raise NetworkError(f"no machine {self._ident} is in this process (any more)")
        return await super().dial(reactor, receiver)
