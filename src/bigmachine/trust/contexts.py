"""TLS as this project speaks it: version 1.3, and both sides prove who they are.

The rules, with no switch to turn them off:

* Both sides show a certificate of the session's authority; no other authority, and no system store, is believed.
* Whoever dials names the id it wants; the certificate that answers must carry that id. So a new machine at the port of
  an old one is refused by the TLS library before a byte of a call is sent.
* Who is at the other end is told by `peer_of`, from the verified certificate, never from anything the peer says later.

The contexts are made from `PROTOCOL_TLS_*` rather than by `ssl.create_default_context`, which would obey SSLKEYLOGFILE
and write the session's secrets into a file. In TLS 1.3 a client's handshake ends before the server has seen the
client's certificate: a client learns that it was refused from its first read (an alert, `ssl.SSLError`).
"""

from __future__ import annotations

import contextlib
import os
import ssl
from typing import TYPE_CHECKING, Protocol

from bigmachine.errors import AuthenticationError
from bigmachine.trust.identity import Identity, Peer, Role

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

#: The protocol that calls travel by; the other two are for people, curl and other languages.
ALPN = "bigmachine/1"
#: What stage 0 speaks (`agent.stage0`).
STAGE0_ALPN = "bigmachine-stage0/1"
SERVER_ALPN = (ALPN, "h2", "http/1.1")
#: Offered beside `ALPN` for a connection that one thread waits on at a time. No server chooses it: it is a hint, which
#: can be seen before the handshake, that the connection had better be served by a thread as well.
WAITING_ALPN = "bigmachine-waiting/1"


class Secured(Protocol):
    """The end of a TLS connection: `ssl.SSLSocket`, `ssl.SSLObject`, or what another event loop has in their place."""

    def getpeercert(self) -> Mapping[str, object] | None:
        """Return the peer's verified certificate, decoded; nothing or an empty one if it was not verified."""


class _NamingContext(ssl.SSLContext):
    """Does not dial without saying whom: `ssl` itself would then skip the check of the name, and say nothing.

    Only `wrap_bio`, by which event loops make connections, has this gap; `wrap_socket` raises by itself.
    """

    #: Whose it is; and its fellow for `waiting_context`, once there is one.
    identity: Identity | None = None
    waiting: ssl.SSLContext | None = None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        if not server_hostname:
            raise ValueError("no server_hostname: pass the id of the machine or agent that is called")
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


class Refused(ssl.SSLError):
    """A peer failed the handshake with this server; `alert` is what OpenSSL would have it told, ready to be sent."""

    def __init__(self, error: ssl.SSLError, alert: bytes) -> None:
        super().__init__(*error.args)
        self.alert = alert


class _ServersEnd(ssl.SSLObject):
    """Keeps the alert of a failed handshake, which event loops drop together with the connection."""

    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            raise Refused(error, self.outgoing.read()) from error


class _ServerContext(ssl.SSLContext):
    """Makes such ends."""

    sslobject_class = _ServersEnd

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        end = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(end, _ServersEnd)
        end.outgoing = outgoing
        return end


def client_context(identity: Identity) -> ssl.SSLContext:
    """Make the context by which `identity` dials; pass the id that is called as `server_hostname`.

    Making one takes about 0.7 ms, so keep it for all connections of the identity.

    Raises:
        AuthenticationError: if the identity's PEM cannot be used.
    """
    context = _NamingContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and name by default
    _restrict(context)
    _equip(context, identity)
    context.check_hostname = True
    context.set_alpn_protocols([ALPN])
    context.identity = identity
    return context


def waiting_context(context: ssl.SSLContext) -> ssl.SSLContext:
    """Return the context by which the identity of `context` dials for threads that wait; made once for each.

    `context` itself, if it is not from `client_context`.

    Raises:
        AuthenticationError: if the identity's PEM cannot be used.
    """
    if not isinstance(context, _NamingContext) or context.identity is None:
        return context
    if context.waiting is None:
        made = client_context(context.identity)
        made.set_alpn_protocols([ALPN, WAITING_ALPN])
        context.waiting = made
    return context.waiting


def stage0_context(identity: Identity) -> ssl.SSLContext:
    """Make the context by which a driver dials stage 0 on a bare host; pass the host's id as `server_hostname`.

    As `client_context`, but for the protocol, and for TLS 1.2, which is the best that an old Python on the host has.

    Raises:
        AuthenticationError: if the identity's PEM cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _restrict(context)
    _equip(context, identity)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # for TLS 1.2: what its successor kept of it
    context.check_hostname = True
    context.set_alpn_protocols([STAGE0_ALPN])
    return context


def blank_server_context() -> ssl.SSLContext:
    """Make a server's context that nobody's identity is in, for `server_context` to complete.

    It holds no secret that is of use: a process may make it and fork, and each child completes its own. That spares
    a child a millisecond, half of it for memory that it shares instead.
    """
    context = _ServerContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    # A ticket would be one more secret to keep, and connections live as long as the session: nothing to resume. It
    # also spares the client two records that it would meet in its first read.
    context.num_tickets = 0
    # Nor is one believed. OpenSSL has drawn the key of tickets when the context was made, so all who were forked with
    # it have the same one, and each could write a ticket for another in which it is the driver.
    context.options |= ssl.OP_NO_TICKET
    context.set_alpn_protocols(list(SERVER_ALPN))
    return context


def server_context(identity: Identity, blank: ssl.SSLContext | None = None) -> ssl.SSLContext:
    """Make the context by which `identity` accepts connections: every caller must show a certificate.

    `blank`: from `blank_server_context`, to be used up; by default a new one.

    Raises:
        AuthenticationError: if the identity's PEM cannot be used, or its role cannot be called.
    """
    if not identity.role.serves:
        raise AuthenticationError(
            f"{identity.peer} cannot accept connections: everybody would refuse its certificate; "
            "issue one with the role agent or machine"
        )
    context = blank or blank_server_context()
    _equip(context, identity)
    return context


def peer_of(ssl_object: Secured) -> Peer:
    """Tell who is at the other end, by its verified certificate.

    Raises:
        AuthenticationError: if there is none (also before the handshake), or it does not name exactly one peer.
    """
    try:
        certificate = ssl_object.getpeercert()
    except ValueError as error:  # "handshake not done yet"
        raise AuthenticationError(f"the peer is not known: {error}") from error
    names = certificate.get("subjectAltName", ()) if certificate else ()
    if not isinstance(names, tuple) or not names:
        raise AuthenticationError("the peer showed no certificate that could be verified: is it part of the session?")
    # Exactly these two, as `Authority.issue` writes them: a name more would be one that nobody here has checked.
    uri = next((value for kind, value in names if kind == "URI"), "")
    try:
        peer = Peer.parse_uri(uri)
    except ValueError as error:
        raise AuthenticationError(f"a certificate with the names {names!r} is none of bigmachine's: {error}") from error
    if sorted(names) != [("DNS", peer.id), ("URI", peer.uri)]:
        raise AuthenticationError(f"a certificate with the names {names!r} does not name exactly one peer")
    return peer


def check_peer(
    ssl_object: Secured,
    session: str,
    roles: Collection[Role],
    id: str | None = None,  # noqa: A002 (the field's name)
) -> Peer:
    """Tell who is at the other end, if it belongs to `session` with one of `roles` (and is `id`, if one is given).

    Raises:
        AuthenticationError: if it is somebody else, or cannot be told.
    """
    peer = peer_of(ssl_object)
    if peer.session != session:
        raise AuthenticationError(f"{peer} called or answered in session {session}: is the address an old one?")
    if peer.role not in roles:
        allowed = " or ".join(sorted(role.value for role in roles))
        raise AuthenticationError(f"{peer} is not {allowed or 'anybody with a role that is allowed here'}")
    if id is not None and peer.id != id:
        raise AuthenticationError(f"{peer} answered where {id} was called: is the address an old one?")
    return peer


def _restrict(context: ssl.SSLContext) -> None:
    """Give a context the rules of both sides: version and verification."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.hostname_checks_common_name = False
    # Strict: the rules of RFC 5280 to the letter; our own authority keeps them, so only a forger is hit. No partial
    # chain: a leaf must never count as an authority, even if it were put into the store.
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.verify_flags &= ~ssl.VERIFY_X509_PARTIAL_CHAIN


def _equip(context: ssl.SSLContext, identity: Identity) -> None:
    """Give a context whom to believe, and the own certificate."""
    try:
        context.load_verify_locations(cadata=identity.authority.decode("ascii"))
        with _readable(identity) as path:
            context.load_cert_chain(path)
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise AuthenticationError(
            f"the certificate or key of {identity.peer} cannot be used ({error}): was it cut or changed on its way?"
        ) from error


# These take the whole identity rather than its bytes: a traceback that shows locals then shows only the name.


@contextlib.contextmanager
def _readable(identity: Identity) -> Iterator[str]:
    """Lend a path under which OpenSSL can read certificate and key; `ssl` takes keys only from files.

    Anonymous memory where the kernel has it and /proc is mounted (Linux), so that the key touches no file system.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("bigmachine-identity", os.MFD_CLOEXEC)
        try:
            path = f"/proc/self/fd/{descriptor}"
            # Not so in a chroot without /proc, nor in a process that made itself undumpable.
            if os.access(path, os.R_OK):
                _write(descriptor, identity)
                yield path
                return
        finally:
            os.close(descriptor)
    with _readable_file(identity) as path:
        yield path


@contextlib.contextmanager
def _readable_file(identity: Identity) -> Iterator[str]:
    """Lend a file of mode 0600 in a directory of mode 0700, both fresh, and remove them at once."""
    import tempfile  # 3 ms that only systems without memfd pay

    with tempfile.TemporaryDirectory(prefix="bigmachine-") as directory:
        path = f"{directory}/identity.pem"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _write(descriptor, identity)
        finally:
            os.close(descriptor)
        yield path


def _write(descriptor: int, identity: Identity) -> None:
    with open(descriptor, "wb", closefd=False) as file:
        file.write(identity.certificate + identity.key)
