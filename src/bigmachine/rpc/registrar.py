"""Taking in a service on a machine: under its name, once, and with its `init` run before anyone may call it.

A machine is open once the last of the services that it was started with is there. Whoever has its address before, from
another machine, waits for that (`running`) instead of being told that a service is missing.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from bigmachine.errors import InvalidCall
from bigmachine.rpc.services import ServiceTable

_log = logging.getLogger("bigmachine")
#: Runs `function(*args)` in a thread, with the context variables of whoever asks.
InThread = Callable[..., Awaitable[Any]]


class Registrar:
    """Registers services in a table and runs their `init(session)`; on the event loop."""

    def __init__(self, table: ServiceTable, session: object, in_thread: InThread = asyncio.to_thread) -> None:
        self._table = table
        self._session = session
        self._in_thread = in_thread
        self._coming: dict[str, asyncio.Future[None]] = {}
        self._opened = asyncio.Event()

    async def register(self, name: str, service: object, is_last: bool = True) -> bool:
        """Add a service after its `init` has run; False if the name exists already: the first is kept.

        A plain `init` runs in a thread, an `async def` one on the event loop. It runs once: for a second service of
        the name nothing happens but to wait for the first, and to fail as that did. `is_last`: the machine is open.

        Raises: what `init` raises; InvalidCall if the name cannot be called.
        """
        ServiceTable().register(name, service)  # a bad name is refused before `init` has done anything
        first = self._coming.get(name)
        is_new = first is None and self._table.get(name) is None
        if is_new:
            await self._take_in(name, service)
        else:
            _log.warning("service %s is defined already; the first one is kept", name)
            if first is not None:
                await asyncio.shield(first)
        if is_last:
            self._opened.set()
            self._table.open()
        return is_new

    async def running(self) -> None:
        """Return once the machine has all the services that it was started with."""
        await self._opened.wait()

    async def _take_in(self, name: str, service: object) -> None:
        ready = self._coming[name] = asyncio.get_running_loop().create_future()
        try:
            await self._init(name, service)
            self._table.register(name, service)
        except BaseException as exc:
            # A cancelled `init` has no outcome of its own.
            own = isinstance(exc, Exception)
            ready.set_exception(exc if own else InvalidCall(f"the init of service {name!r} was given up"))
            ready.exception()  # seen: nobody else need be waiting
            raise
        ready.set_result(None)

    async def _init(self, name: str, service: object) -> None:
        init: Any = getattr(service, "init", None)
        if init is None:
            return
        if not callable(init):
            raise InvalidCall(f"service {name!r}: its `init` is not a method")
        if inspect.iscoroutinefunction(init):
            await init(self._session)
        else:
            result = await self._in_thread(_run, init, self._session)
            if inspect.isawaitable(result):
                await result


def _run(init: Callable[[object], object], session: object) -> object:
    try:
        return init(session)
    except StopIteration as exc:
        # As in a generator (PEP 479): it would end the machinery that waits for it, and never arrive.
        raise RuntimeError("init raised StopIteration") from exc
