"""One host of an SSH system, from the log-in to an agent that answers, and to its end.

Stage 0 is started over the login and hangs on its stream: when that ends, however it does, so does all that runs on
the host. The data port is reached directly where that works, and through the login where it does not: which of the two
is found out by trying.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Final

from bigmachine.agent.bare.client import BareHost, Raised, bring_up
from bigmachine.agent.bare.delivery import NoPython, Stage0Orders, bare_shell_script, stage0_input
from bigmachine.agent.bootstrap import Clocks
from bigmachine.errors import BigmachineError, ProvisionError
from bigmachine.frozen import frozen
from bigmachine.systems.ssh import client
from bigmachine.systems.ssh.failures import translate
from bigmachine.systems.ssh.log import HostLog
from bigmachine.systems.ssh.login import CONNECT_TIMEOUT, log_in
from bigmachine.trust import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncssh

    from bigmachine.system import Keepalive, Ticket
    from bigmachine.systems.ssh.hosts import SshHost
    from bigmachine.trust import Identity

_log = logging.getLogger("bigmachine")
#: For stage 0 to start: a Python on a slow host.
_STARTING: Final = 30.0
#: A host without Python takes one in over the login; each piece of it has this long.
_PIECE: Final = 60.0
#: A direct connection has this many times the time of a question over the login, and at least the second of the two.
_ROUND_TRIPS, _LEAST = 4.0, 0.25
_LAST_LINES: Final = 20
#: Between the end of the stream and the end of the agent's process.
_END: Final = 5.0


@frozen
class Way:
    """How the driver reaches the agent: the address that others use, too, and a Unix socket if that is none for it."""

    address: str
    port: int
    path: str = ""

    def dial(self) -> socket.socket:
        """Connect; blocks, within bounds.

        Raises:
            OSError: if it does not work.
        """
        if not self.path:
            return socket.create_connection((self.address, self.port), CONNECT_TIMEOUT)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_TIMEOUT)
            sock.connect(self.path)
        except BaseException:
            sock.close()
            raise
        return sock


class Place:
    """A host with an agent. `sockets` gives a directory for Unix sockets; coroutines run on the SSH loop."""

    def __init__(self, host: SshHost, agent_id: str, sockets: Callable[[], str]) -> None:
        self.host = host
        self.agent_id = agent_id
        self.machines = 0
        self.way: Way | None = None
        self.raised: Raised | None = None
        self.steps: list[tuple[str, float]] = []
        self.sent = 0
        self._tell: Callable[[str, str], None] = lambda _host, _stage: None
        self._sockets = sockets
        self._path = ""
        self._connection: asyncssh.SSHClientConnection | None = None
        self._process: asyncssh.SSHClientProcess[bytes] | None = None
        self._listener: asyncssh.SSHListener | None = None
        self.log = HostLog()
        self._listening: asyncio.Task[None] | None = None
        self._dialled: list[socket.socket] = []

    @property
    def is_alive(self) -> bool:
        """Whether the login, and so the agent, is there as far as we know."""
        process = self._process
        return process is not None and not process.channel.is_closing() and process.exit_status is None

    async def open(self, ticket: Ticket, keepalive: Keepalive, config: str | None, logins: asyncio.Semaphore) -> None:
        """Log in and make the host run an agent.

        Raises:
            AuthenticationError: one of the two could not prove who it is.
            ImageError: the host can run neither its own Python nor ours.
            ProvisionError, NetworkError: anything else; the text names host, stage and remedy.
        """
        stage = "logging in"
        self._tell = ticket.tell
        try:
            self._reach(stage)
            identity = await asyncio.to_thread(ticket.issue, Role.BOOTSTRAP, self.agent_id)
            self._connection = await log_in(self.host, config, logins)
            stage = self._reach("starting stage 0")
            began = time.monotonic()
            port = await self._start(identity, keepalive)
            self.way = await self._way(port, time.monotonic() - began)
            stage = self._reach("bringing up its agent")
            driver = await asyncio.to_thread(ticket.issue, Role.DRIVER, "driver")
            self.raised = await asyncio.to_thread(self._raise, driver, identity, keepalive)
        except BaseException as error:
            await self.close(_END)
            if isinstance(error, BigmachineError) or not isinstance(error, Exception):
                raise
            raise translate(error, self.host, stage) from error
        finally:
            self._tell(str(self.host), "")

    def _reach(self, stage: str) -> str:
        self.steps.append((stage, time.time()))
        self._tell(str(self.host), stage)
        return stage

    def _raise(self, driver: Identity, identity: Identity, keepalive: Keepalive) -> Raised:
        clocks = Clocks(lease=keepalive.lease, hang=keepalive.hang, first_contact=keepalive.first_contact)
        with BareHost(self._dial, driver, self.agent_id, host=f"ssh host {self.host}") as host:
            raised = bring_up(host, identity, clocks, tethered=True, note=self._note)
            self.sent += raised.sent
            return raised

    def _note(self, stage: str, sent: int) -> None:
        if sent:
            self._tell(str(self.host), f"{stage} its agent {sent / 1e6:.1f} MB")

    def _dial(self) -> socket.socket:
        """Connect to the agent's port; the end of this place is the end of that connection, whoever waits for it."""
        assert self.way is not None
        sock = self.way.dial()
        self._dialled.append(sock.dup())
        return sock

    # stage 0

    async def _start(self, identity: Identity, keepalive: Keepalive) -> int:
        """Start stage 0 over the login; gives its port."""
        connection = self._connection
        assert connection is not None
        everywhere = "::" if ":" in self._address() else "0.0.0.0"  # noqa: S104 (whoever has no certificate is refused)
        given = stage0_input(Stage0Orders(identity, (everywhere, 0), first_contact=keepalive.first_contact))
        async with asyncio.timeout(_STARTING):
            process = await connection.create_process(bare_shell_script(len(given)), encoding=None)
        self._process = process
        self._listening = asyncio.create_task(self._listen(process))
        process.stdin.write(given)
        line = await self._line(process, _STARTING)
        without = NoPython.parse(line)
        if without is not None:
            with contextlib.suppress(BrokenPipeError):  # it has given up, and its next line says why
                await self._lend(process, without)
                process.stdin.write(given)
            line = await self._line(process, _STARTING)
        try:
            told = json.loads(line)
            if "error" in told:
                raise ProvisionError(f"ssh host {self.host}: {told['error']}")
            return int(told["port"])
        except (ValueError, TypeError, KeyError) as error:
            raise self._silent(
                f"it said {line[:200]!r} instead of its port; does its shell print something?"
            ) from error

    async def _lend(self, process: asyncssh.SSHClientProcess[bytes], without: NoPython) -> None:
        """Send a Python over the login, to a host that has none."""
        from bigmachine.agent.bare.fitting import interpreter_for

        name = f"ssh host {self.host}"
        bundle, platform = await asyncio.to_thread(interpreter_for, name, without.system, without.machine, without.libc)
        if bundle.id not in without.kept:
            bundle = await asyncio.to_thread(bundle.whole)
        _log.info("%s has no Python: it gets %s, %d MiB", name, platform.python, bundle.size >> 20)
        for piece in without.answer(bundle):
            process.stdin.write(piece)
            async with asyncio.timeout(_PIECE):
                await process.stdin.drain()
            self.sent += len(piece)
            self._tell(str(self.host), f"sending Python {self.sent / 1e6:.1f} MB")

    async def _line(self, process: asyncssh.SSHClientProcess[bytes], seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                line = await process.stdout.readline()
        except TimeoutError as error:
            raise self._silent(f"it did not start within {seconds:.0f} s") from error
        if not line.endswith(b"\n"):
            async with asyncio.timeout(_END):
                await process.wait_closed()
            raise self._silent(f"it ended with status {process.exit_status}")
        return line

    def _silent(self, why: str) -> ProvisionError:
        return ProvisionError(f"ssh host {self.host} (starting stage 0): {why}{self._said()}", temporary=True)

    def agentless(self, error: BigmachineError) -> ProvisionError:
        """Say that stage 0 gave way to an agent that cannot be called, with what that said and what may help."""
        text = f"ssh host {self.host} (starting its agent): {error}"
        if self.raised is not None:
            kept = f"{self.raised.facts.cache}/v1"
            text += f". If nothing below says why, {kept}/kits or {kept}/interpreters may be damaged: remove them there"
        return ProvisionError(f"{text}{self._said()}", temporary=True)

    def _said(self) -> str:
        return "".join(f"\n    {line}" for line in self.log.last(_LAST_LINES))

    async def _listen(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        """Keep what stage 0 and the agent say of their troubles."""
        try:
            with contextlib.suppress(Exception):  # the stream broke: whoever waits for something else is told
                while line := await process.stderr.readline():
                    text = line.decode("utf-8", "replace").rstrip()
                    self.log.add(text)
                    _log.debug("ssh host %s: %s", self.host, text)
        finally:
            self.log.end()

    # the data port

    async def _way(self, port: int, round_trip: float) -> Way:
        connection = self._connection
        assert connection is not None
        address = self._address()
        patience = max(_LEAST, min(2.0, _ROUND_TRIPS * round_trip))
        if address and await client.reachable(address, port, patience):
            return Way(address, port)
        self._path = os.path.join(self._sockets(), self.agent_id)
        self._listener = await client.forward(connection, self._path, port, self.host)
        _log.info("ssh host %s: port %d is reached through the login", self.host, port)
        return Way(address or str(connection.get_extra_info("host")), port, self._path)

    def _address(self) -> str:
        """Return the address that we are connected to; none if other hosts lie between."""
        assert self._connection is not None
        peer = self._connection.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    # its end

    async def close(self, patience: float) -> None:
        """End the agent and all that it runs by ending its stream; hang up within `patience` seconds."""
        process, connection = self._process, self._connection
        try:
            async with asyncio.timeout(patience):
                if process is not None:
                    with contextlib.suppress(OSError):  # it is gone
                        process.stdin.write_eof()
                    await process.wait_closed()
                if connection is not None:
                    connection.close()
                    await connection.wait_closed()
        except (TimeoutError, OSError):
            _log.info("ssh host %s does not answer, and is left to end by itself", self.host)
        finally:
            if connection is not None:
                connection.abort()
            self._drop()

    def _drop(self) -> None:
        """Let go of all that is here."""
        if self._listener is not None:
            self._listener.close()
        if self._listening is not None:
            self._listening.cancel()
        for sock in self._dialled:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self._dialled.clear()
        if self._path:
            with contextlib.suppress(OSError):
                os.unlink(self._path)


__all__ = ["Place", "Way"]
