"""Other libraries at the same work: RPyC over the same TLS as ours, execnet over its pipes (it has no TLS).

Neither takes a NumPy array without changing it to bytes, so bytes are what they send. Run as a script, this file is
RPyC's server.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import measure
import tls
from measure import Stat

RPYC = "RPyC with TLS"
EXECNET = "execnet, no TLS"
GO = "Go original"

_CONFIG = {"allow_pickle": False, "sync_request_timeout": 60}


class Peer(Protocol):
    """A library that is measured beside ours."""

    def echo(self) -> object: ...

    def in_flight(self, callers: int, total: int) -> float: ...

    def up(self, data: bytes) -> object: ...

    def down(self, size: int) -> object: ...

    def close(self) -> None: ...


class Rpyc:
    """RPyC, over a connection of ours: TLS 1.3, both certificates, TCP_NODELAY."""

    def __init__(self) -> None:
        from rpyc.core.stream import SocketStream
        from rpyc.utils.factory import connect_stream

        self._child = tls.Child("peers.py")
        self._connection = connect_stream(SocketStream(self._child.socket), config=_CONFIG)
        root = self._connection.root
        # Bound once: each look-up of a method would be a round trip of its own.
        self._echo, self.up, self.down = root.echo, root.take, root.give

    def echo(self) -> object:
        return self._echo(1)

    def in_flight(self, callers: int, total: int) -> float:
        """Send a batch, wait for all of it, again: it has no event loop to keep calls in flight with."""
        import rpyc

        echo = rpyc.async_(self._echo)
        begin = time.perf_counter()
        for _ in range(total // callers):
            for result in [echo(1) for _ in range(callers)]:
                result.wait()
        return total // callers * callers / (time.perf_counter() - begin)

    def close(self) -> None:
        self._connection.close()
        self._child.close()


def _serve_rpyc(connection: ssl.SSLSocket) -> None:
    import rpyc
    from rpyc.core.stream import SocketStream
    from rpyc.utils.factory import connect_stream

    class Service(rpyc.Service):  # type: ignore[misc]  # it has no types
        """What `Rpyc` calls."""

        def exposed_echo(self, value: int) -> int:
            return value

        def exposed_take(self, data: bytes) -> int:
            return len(data)

        def exposed_give(self, size: int) -> bytes:
            return bytes(size)

    connect_stream(SocketStream(connection), Service, _CONFIG).serve_all()


class Execnet:
    """Execnet: a child process, messages by its pipes, answered in order."""

    def __init__(self) -> None:
        import execnet

        self._group = execnet.Group()
        self._channel = self._group.makegateway("popen").remote_exec(_EXECNET_SIDE % measure.MACHINE)

    def echo(self) -> object:
        self._channel.send(1)
        return self._channel.receive()

    def in_flight(self, callers: int, total: int) -> float:
        begin = time.perf_counter()
        for _ in range(total // callers):
            for _ in range(callers):
                self._channel.send(1)
            for _ in range(callers):
                self._channel.receive()
        return total // callers * callers / (time.perf_counter() - begin)

    def up(self, data: bytes) -> object:
        self._channel.send(data)
        return self._channel.receive()

    def down(self, size: int) -> object:
        self._channel.send(-size)
        return self._channel.receive()

    def close(self) -> None:
        self._group.terminate(timeout=2)


_EXECNET_SIDE = """
import os
for task in os.listdir("/proc/self/task"):
    os.sched_setaffinity(int(task), {%d})
for item in channel:
    channel.send(len(item) if isinstance(item, bytes) else bytes(-item) if item < 0 else item)
"""


class Peers:
    """Those that are installed; `missing` says why the others are not measured."""

    def __init__(self, wanted: bool) -> None:
        self.missing: dict[str, str] = {}
        self.there: dict[str, Peer] = {}
        kinds: dict[str, Callable[[], Peer]] = {RPYC: Rpyc, EXECNET: Execnet}
        for name, kind in kinds.items():
            try:
                if wanted:
                    self.there[name] = kind()
            except ImportError as exc:
                self.missing[name] = f"not installed ({exc.name})"

    def subjects(self, work: Callable[[Peer], Sequence[float]], what: str = "") -> dict[str, Callable[[], Any]]:
        """Give the same work with each of them, for `take_turns`; `what` tells several kinds of work apart."""
        return {name + what: (lambda peer=peer: work(peer)) for name, peer in self.there.items()}

    def beside(self, stats: dict[str, Stat], what: str = "") -> dict[str, Stat | str]:
        """Pick what came out for each of them."""
        return {name: stats[name + what] for name in self.there} | self.missing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for peer in self.there.values():
            peer.close()


if __name__ == "__main__":
    tls.serve(_serve_rpyc)
