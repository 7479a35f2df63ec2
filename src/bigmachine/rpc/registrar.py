"""Taking in a service on a machine: under its name, once, and with its `init` run before anyone may call it."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any

from bigmachine.errors import InvalidCall
from bigmachine.rpc.services import ServiceTable

_log = logging.getLogger("bigmachine")


class Registrar:
    """Registers services in a table and runs their `init(session)`."""

    def __init__(self, table: ServiceTable, session: object) -> None:
        self._table = table
        self._session = session
        self._coming: set[str] = set()

    async def register(self, name: str, service: object) -> bool:
        """Add a service after its `init` has run; False if the name exists already: the first is kept.

        A plain `init` runs in a thread, an `async def` one on the event loop. It runs once: a service whose `init`
        raised is not there, and is not tried again.

        Raises: what `init` raises; InvalidCall if the name cannot be called.
        """
        if name in self._coming or self._table.get(name) is not None:
            _log.warning("service %s is defined already; the first one is kept", name)
            return False
        ServiceTable().register(name, service)  # a bad name is refused before `init` has done anything
        self._coming.add(name)
        init: Any = getattr(service, "init", None)
        if init is not None:
            if not callable(init):
                raise InvalidCall(f"service {name!r}: its `init` is not a method")
            if inspect.iscoroutinefunction(init):
                await init(self._session)
            else:
                result = await asyncio.to_thread(init, self._session)
                if inspect.isawaitable(result):
                    await result
        self._table.register(name, service)
        return True
