"""The service "Supervisor" inside the machine's own process: what only the program itself can do.

Everything else that the Go original's supervisor does is answered by the agent, from outside.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

from bigmachine.errors import Cause

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bigmachine.rpc import ServiceTable


class Supervisor:
    """Installs services on this machine."""

    def __init__(
        self,
        table: ServiceTable,
        session: object,
        loop: asyncio.AbstractEventLoop,
        send: Callable[[Mapping[str, object]], None],
        fail: Callable[[Cause, str, BaseException], None],
    ) -> None:
        self._table = table
        self._session = session
        self._loop = loop
        self._send = send
        self._fail = fail
        self._ready: dict[str, asyncio.Future[None]] = {}
        self._born = time.time()

    async def ping(self, data: object = None) -> object:
        """Give `data` back; from the program itself."""
        return data

    async def register(self, name: str, service: object) -> bool:
        """Install a service: run its `init`, if it has one, then let it be called.

        A name is installed once. For a second one of the same name nothing happens but to wait for the first; the
        answer is then False (Go: `Supervisor.Register`).

        Raises:
            InvalidCall: if the name cannot be one.
            what `init` raises: the machine then stops, with that as its reason.
        """
        if (first := self._ready.get(name)) is not None:
            await asyncio.shield(first)
            return False
        if self._table.get(name) is not None:
            return False
        ready = self._ready[name] = self._loop.create_future()
        try:
            await self._init(name, service)
            self._table.register(name, service)
        except BaseException:
            ready.cancel()
            del self._ready[name]
            raise
        ready.set_result(None)
        return True

    async def _init(self, name: str, service: object) -> None:
        init = getattr(service, "init", None)
        if not callable(init):
            return
        self._send({"k": "phase", "phase": "initialising services"})
        try:
            if inspect.iscoroutinefunction(init):
                await init(self._session)
            else:
                await asyncio.to_thread(init, self._session)
        except BaseException as error:
            headline = traceback.format_exception_only(error)[-1].strip()
            self._fail(Cause.INIT_FAILED, f"the init of service {name!r} raised {headline}", error)
            raise

    async def expvars(self) -> dict[str, object]:
        """Give what the program's process counts about itself."""
        return {
            "services": self._table.names(),
            "uptime": time.time() - self._born,
            "threads": threading.active_count(),
            "modules": len(sys.modules),
            "gc_collections": [generation["collections"] for generation in gc.get_stats()],
        }


__all__ = ["Supervisor"]
