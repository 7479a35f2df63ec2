"""Who may talk to whom: the session's certificate authority, the identities it issues, and TLS made from them.

A fresh authority a session, its key only in the driver's memory; every process has its own key and certificate; both
sides of every connection check chain, name and role. Importing this room costs what `ssl` costs: `cryptography` is
loaded when an `Authority` is made, which agents and programs never do.
"""

from bigmachine.trust.authority import Authority
from bigmachine.trust.contexts import Refused, check_peer, client_context, peer_of, server_context, stage0_context
from bigmachine.trust.credentials import Credentials, write_credentials
from bigmachine.trust.identity import Identity, Peer, Role

__all__ = [
    "Authority",
    "Credentials",
    "Identity",
    "Peer",
    "Refused",
    "Role",
    "check_peer",
    "client_context",
    "peer_of",
    "server_context",
    "stage0_context",
    "write_credentials",
]
