"""Who may talk to whom: the session's certificate authority, the identities it issues, and TLS made from them.

A fresh authority a session, its key only in the driver's memory; every process has its own key and certificate; both
sides of every connection check chain, name and role. Importing this room costs nothing until a name is asked for:
`ssl` is loaded for the first context (20 ms, in which a driver's agent is starting already), and `cryptography` when an
`Authority` is made, which agents and programs never do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigmachine.lazy import lazily

if TYPE_CHECKING:
    from bigmachine.trust.authority import Authority
    from bigmachine.trust.contexts import (
        WAITING_ALPN,
        Refused,
        blank_server_context,
        check_peer,
        client_context,
        peer_of,
        server_context,
        stage0_context,
        waiting_context,
    )
    from bigmachine.trust.credentials import Credentials, write_credentials
    from bigmachine.trust.identity import Identity, Peer, Role
    from bigmachine.trust.nobody import warm_up

_HOME = {
    "WAITING_ALPN": "contexts",
    "Authority": "authority",
    "Credentials": "credentials",
    "Identity": "identity",
    "Peer": "identity",
    "Refused": "contexts",
    "Role": "identity",
    "blank_server_context": "contexts",
    "check_peer": "contexts",
    "client_context": "contexts",
    "peer_of": "contexts",
    "server_context": "contexts",
    "stage0_context": "contexts",
    "waiting_context": "contexts",
    "warm_up": "nobody",
    "write_credentials": "credentials",
}

__getattr__ = lazily(__name__, _HOME)

__all__ = [
    "WAITING_ALPN",
    "Authority",
    "Credentials",
    "Identity",
    "Peer",
    "Refused",
    "Role",
    "blank_server_context",
    "check_peer",
    "client_context",
    "peer_of",
    "server_context",
    "stage0_context",
    "waiting_context",
    "warm_up",
    "write_credentials",
]
