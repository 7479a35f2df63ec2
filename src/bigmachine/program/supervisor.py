"""The service "Supervisor" inside the machine's own process: what only the program itself can do.

Everything else that the Go original's supervisor does is answered by the agent, from outside.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import traceback
from typing import TYPE_CHECKING, Any

from bigmachine.errors import Cause
from bigmachine.rpc import ServiceTable
from bigmachine.rpc.registrar import Registrar
from bigmachine.rpc.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping


_log = logging.getLogger("bigmachine")


class Supervisor:
    """Installs services on this machine. `send` tells the agent something, `fail` that this machine is over.

    `heard` waits until the agent has noted a phase: output of an `init` must not count as that of the phase before.
    """

    def __init__(
        self,
        table: ServiceTable,
        session: object,
        send: Callable[[Mapping[str, object]], None],
        fail: Callable[[Cause, str, BaseException], None],
        statistics: Statistics | None = None,
        heard: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._table = table
        self._registrar = Registrar(table, session)
        self._send = send
        self._heard = heard
        self._fail = fail
        self._statistics = statistics or Statistics()
        self._born = time.time()

    async def ping(self, data: object = None) -> object:
        """Give `data` back; from the program itself."""
        return data

    async def register(self, name: str, service: object, is_last: bool = True) -> bool:
        """Install a service: run its `init`, if it has one, then let it be called (Go: `Supervisor.Register`).

        False if the name exists already; the first is kept. `is_last`: the machine has what it was started with.

        Raises:
            InvalidCall: if the name cannot be called.
            what `init` raises: the machine then stops, with that as its reason.
        """
        ServiceTable().register(name, service)  # a bad name is the caller's mistake; all that follows is the service's
        if hasattr(service, "init"):
            self._send({"k": "phase", "phase": "initialising services", "ack": 1})
            if self._heard is not None:
                await self._heard()
        try:
            return await self._registrar.register(name, service, is_last)
        except BaseException as error:
            headline = traceback.format_exception_only(error)[-1].strip()
            self._fail(Cause.INIT_FAILED, f"the init of service {name!r} raised {headline}", error)
            raise

    async def running(self) -> None:
        """Return once the machine has all the services that it was started with: for those who only dialled."""
        await self._registrar.running()

    async def drain(self) -> None:
        """Have every service finish its work that can: the provider will take the host back, within two minutes or so.

        It calls their `drain()`, a plain one in a thread, all at the same time. One that raises is logged.
        """
        services = {name: self._table.get(name) for name in self._table.names()}
        able = {
            name: service for name, service in services.items() if name != "Supervisor" and hasattr(service, "drain")
        }
        await asyncio.gather(*(_drained(name, service) for name, service in able.items()))

    async def observe(self, what: str, **options: Any) -> object:
        """Look into the program from inside: "vars", "heap", "stacks", "cpu", "mutex"; see `observe.inside`.

        Raises:
            InvalidCall: if there is no such thing, or it does not take these options.
        """
        from bigmachine.observe import inside  # only once somebody asks

        return await inside.observe(what, options, self._statistics, self._born)

    async def expvars(self) -> dict[str, object]:
        """Give what the program's process counts about itself; "calls" has a `MethodSnapshot` a method."""
        from bigmachine.observe import inside

        return inside.counts(self._statistics, self._table.names(), self._born)


async def _drained(name: str, service: Any) -> None:
    try:
        if inspect.iscoroutinefunction(service.drain):
            await service.drain()
        else:
            await asyncio.to_thread(service.drain)
    except Exception:  # noqa: BLE001 (it may be anybody's)
        _log.exception("drain of service %r failed", name)


__all__ = ["Supervisor"]
