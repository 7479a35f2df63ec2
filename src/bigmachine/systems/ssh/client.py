"""Where the SSH client runs, and the ways to a host's ports.

`asyncssh` runs on an event loop of its own, in a thread: its ciphers must not hold up calls. Everything of this package
that is a coroutine is one of that loop; `Loop.run` is the door for other threads.
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
#: For a server to open a channel.
_CHANNEL: Final = 15.0


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

    def stop(self, patience: float) -> None:
        """End it; what still runs there is cancelled, and has `patience` seconds to end."""
        with contextlib.suppress(TimeoutError):
            self.run(_cancel_all(), patience)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2.0)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def forward(
    connection: asyncssh.SSHClientConnection, path: str, port: int, host: SshHost
) -> asyncssh.SSHListener:
    """Make the host's local port `port` reachable by a Unix socket at `path`, which only we can open.

    Raises:
        ProvisionError: if the server does not forward, or the socket cannot be made.
    """
    import asyncssh

    try:
        async with asyncio.timeout(_CHANNEL):
            # Whether the server forwards at all would else be seen only by whoever connects to the socket.
            _, writer = await connection.open_connection("127.0.0.1", port)
            writer.close()
            return await connection.forward_local_path_to_port(path, "127.0.0.1", port)
    except asyncssh.ChannelOpenError as error:
        raise ProvisionError(
            f"ssh host {host} (forwarding its port): port {port} does not answer from here, and the server forwards "
            f"none ({error.reason}): open the host's ports to this one, or set AllowTcpForwarding for its sshd"
        ) from error
    except (asyncssh.Error, OSError) as error:
        raise translate(error, host, "forwarding its port") from error


async def reachable(address: str, port: int, patience: float) -> bool:
    """Tell whether a TCP port answers within `patience` seconds."""
    try:
        async with asyncio.timeout(patience):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


__all__ = ["LOGINS", "Loop", "forward", "reachable"]
