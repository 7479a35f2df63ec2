"""The other end of a floor or of a peer: a process that is reached by TLS 1.3, both sides with a certificate.

The certificates and contexts are those of the library (its `trust`), so that a floor differs from the library by the
protocol alone: blocking sockets of Python's `ssl`, TCP_NODELAY, no frames, no dispatch.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import measure

from bigmachine.trust import Authority, Identity, Role, client_context, server_context

#: Whom a caller says that it calls.
NAME = "floor"


class Served:
    """A process that runs a script's `serve`; its `port`, and the `context` with which to connect to it."""

    def __init__(self, script: str, **orders: object) -> None:
        authority = Authority("benchmark")
        identity = authority.issue(Role.MACHINE, NAME).to_dict()
        orders = {"identity": identity, "core": measure.MACHINE, **orders}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(script)), "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(orders).encode() + b"\n")
        self._process.stdin.flush()
        self.port = int(self._process.stdout.readline())
        self.context = client_context(authority.issue(Role.DRIVER, "driver"))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Child(Served):
    """One that is reached by blocking sockets: the first is `socket`, `others` all but it."""

    def __init__(self, script: str, connections: int = 1) -> None:
        super().__init__(script, connections=connections)
        self.socket, *self.others = [_connected(self.port, self.context) for _ in range(connections)]

    def close(self) -> None:
        for connection in (self.socket, *self.others):
            connection.close()
        super().close()


def _connected(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname=NAME)


def serve(handler: Callable[[ssl.SSLSocket], None]) -> None:
    """Be the process: take the connections and handle each, in a thread of its own if there are several."""
    orders = json.loads(sys.stdin.readline())
    measure.pin(orders["core"])
    context = server_context(Identity.from_dict(orders["identity"]))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        accepted = [_accepted(listener, context) for _ in range(orders["connections"])]
    further = [threading.Thread(target=_handle, args=(handler, connection)) for connection in accepted[1:]]
    for thread in further:
        thread.start()
    _handle(handler, accepted[0])
    for thread in further:
        thread.join()


def _accepted(listener: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain, _ = listener.accept()
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_side=True)


def _handle(handler: Callable[[ssl.SSLSocket], None], connection: ssl.SSLSocket) -> None:
    with connection:
        handler(connection)
