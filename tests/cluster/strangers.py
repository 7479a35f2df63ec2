"""Whoever connects to a session's port without being asked: with sockets and TLS of the standard library."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import tempfile
from collections.abc import Iterator

from bigmachine.trust import Identity

PATIENCE = 2.0


@contextlib.contextmanager
def connected(place: tuple[str, int], timeout: float = PATIENCE) -> Iterator[socket.socket]:
    """Connect to a port; whatever is read or written there later is bounded in time."""
    with socket.create_connection(place, timeout) as sock:
        yield sock


def hello(name: str) -> bytes:
    """Make the first message of a TLS client that calls `name`."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = careless_context().wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def careless_context(identity: Identity | None = None, alpn: str = "bigmachine/1") -> ssl.SSLContext:
    """Make the context of a client that believes everybody, with or without a certificate of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    if identity is not None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(identity.certificate + identity.key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def talk(
    place: tuple[str, int], name: str, data: bytes, identity: Identity | None = None, alpn: str = "bigmachine/1"
) -> bytes | OSError:
    """Shake hands, send `data` at once, which is before the server has seen a certificate, and read to the end."""
    with connected(place) as sock:
        try:
            with careless_context(identity, alpn).wrap_socket(sock, server_hostname=name) as tls:
                tls.sendall(data)
                return read_all(tls)
        except TimeoutError:
            raise
        except OSError as error:
            return error


def read_all(sock: socket.socket) -> bytes:
    """Read to the end of the connection."""
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


def ends(sock: socket.socket) -> bool:
    """Wait until the other side has closed, in whatever way; False if it does not in time."""
    try:
        read_all(sock)
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def reset(sock: socket.socket) -> None:
    """Close in the rudest way there is."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


GARBAGE = {
    "zeros": b"\0" * 5000,
    "random": bytes(byte ^ 0xA5 for byte in os.urandom(5000)),
    "http": b"POST /bigrpc/Target.echo HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\n\r\n[1]",
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a record that lies": b"\x16\x03\x01\x02\x00\x01\xff\xff\xff" + b"a" * 508,
}
