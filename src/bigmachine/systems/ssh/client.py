"""The SSH client's side of one host: a connection that verifies host keys, commands on it, and ways to its ports.

`asyncssh` does the protocol, with the user's own configuration (`~/.ssh/config`, agent, known hosts, jump hosts). It
runs on an event loop of its own, in a thread: its ciphers must not hold up calls. Everything here is a coroutine of
that loop; `Loop.run` is the door for other threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bigmachine.errors import ProvisionError
from bigmachine.systems.ssh.failures import translate
from bigmachine.systems.ssh.hosts import SshHost

if TYPE_CHECKING:
    import asyncssh

T = TypeVar("T")

#: Log-ins at once. A server drops unauthenticated connections above its MaxStartups, 10 by default, and several names
#: of the list may be one server, or lie behind one.
LOGINS: Final = 8
#: A connection that is dropped while it logs in is tried again after so many seconds.
_AGAIN: Final = (0.2, 0.6, 1.5)
CONNECT_TIMEOUT: Final = 15.0
LOGIN_TIMEOUT: Final = 20.0
#: A connection that carries nothing is kept from being forgotten by what lies in between.
_KEEPALIVE: Final = 30.0


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bigmachine-ssh", daemon=True)
        self._thread.start()
        self.logins = asyncio.Semaphore(LOGINS)

    def run(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        """Run a coroutine there and wait for its result, `timeout` seconds at most.

        Raises:
            TimeoutError: if it takes longer; it is cancelled.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise

    def cancel(self, task: asyncio.Task[object]) -> None:
        """Cancel a task that runs there."""
        self._loop.call_soon_threadsafe(task.cancel)

    def stop(self) -> None:
        """End it; what still runs there is dropped."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2.0)
        if not self._thread.is_alive():
            self._loop.close()


async def connect(host: SshHost, config: str | None, logins: asyncio.Semaphore) -> asyncssh.SSHClientConnection:
    """Log in.

    The host's key is always verified against the known ones; there is no way to switch that off.

    Raises:
        AuthenticationError: the host's key is not the known one, or it does not take ours.
        ProvisionError: anything else; the text names the host and the remedy.
    """
    import asyncssh

    options: dict[str, Any] = {}
    if host.port is not None:
        options["port"] = host.port
    if host.user is not None:
        options["username"] = host.user
    if config is not None:
        options["config"] = [config]
    for pause in (*_AGAIN, None):
        try:
            async with logins, asyncio.timeout(CONNECT_TIMEOUT + LOGIN_TIMEOUT):
                return await asyncssh.connect(
                    host.name,
                    connect_timeout=CONNECT_TIMEOUT,
                    login_timeout=LOGIN_TIMEOUT,
                    keepalive_interval=_KEEPALIVE,
                    **options,
                )
        except (asyncssh.ConnectionLost, ConnectionResetError) as error:  # as by MaxStartups
            if pause is None:
                raise translate(error, host, "logging in") from error
            await asyncio.sleep(pause)
        except (asyncssh.Error, OSError, ValueError) as error:
            raise translate(error, host, "logging in") from error
    raise ProvisionError(f"ssh host {host}: could not log in")  # not reached: the last pause is None


async def forward(
    connection: asyncssh.SSHClientConnection, path: str, port: int, host: SshHost
) -> asyncssh.SSHListener:
    """Make the host's local port `port` reachable by a Unix socket at `path`, which only we can open.

    Raises:
        ProvisionError: if the server does not forward, or the socket cannot be made.
    """
    import asyncssh

    try:
        return await connection.forward_local_path(path, "127.0.0.1", port)
    except (asyncssh.Error, OSError) as error:
        raise translate(error, host, "forwarding its port") from error


async def close(connection: asyncssh.SSHClientConnection, patience: float) -> None:
    """Close a connection; by force if it takes longer than `patience` seconds."""
    connection.close()
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(patience):
            await connection.wait_closed()
            return
    connection.abort()


async def reachable(address: str, port: int, patience: float) -> bool:
    """Tell whether a TCP port answers within `patience` seconds."""
    try:
        async with asyncio.timeout(patience):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


__all__ = ["CONNECT_TIMEOUT", "LOGIN_TIMEOUT", "Loop", "close", "connect", "forward", "reachable"]
