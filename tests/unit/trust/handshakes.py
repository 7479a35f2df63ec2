"""Two ends that talk real TLS over a socket pair, each from its own thread, and what each of them made of it."""

from __future__ import annotations

import socket
import ssl
import threading
from dataclasses import dataclass

from bigmachine.trust import Peer, peer_of

_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Outcome:
    """Whom each side met, or why it met nobody."""

    server: Peer | Exception
    client: Peer | Exception


def converse(server: ssl.SSLContext, client: ssl.SSLContext, called: str) -> Outcome:
    """Let the client call `called` at the server, and read: in TLS 1.3 it learns only so that it was refused."""
    near, far = socket.socketpair()
    met: list[Peer | Exception] = []
    with near, far:
        near.settimeout(_PATIENCE_S)
        far.settimeout(_PATIENCE_S)
        answering = threading.Thread(target=lambda: met.append(_answer(server, far)))
        answering.start()
        caller = _call(client, near, called)
        near.close()
        answering.join(_PATIENCE_S)
    (answerer,) = met
    return Outcome(answerer, caller)


def _answer(context: ssl.SSLContext, sock: socket.socket) -> Peer | Exception:
    with context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False) as tls:
        try:
            tls.do_handshake()
            peer = peer_of(tls)
            tls.sendall(b"!")
        except Exception as error:  # noqa: BLE001 (the outcome)
            return error
        return peer


def _call(context: ssl.SSLContext, sock: socket.socket, called: str) -> Peer | Exception:
    with context.wrap_socket(sock, do_handshake_on_connect=False, server_hostname=called) as tls:
        try:
            tls.do_handshake()
            if tls.recv(1) != b"!":
                return ConnectionError("closed without an answer")
            return peer_of(tls)
        except Exception as error:  # noqa: BLE001 (the outcome)
            return error
