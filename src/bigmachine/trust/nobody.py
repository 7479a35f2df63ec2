"""A handshake of nobody with nobody, by which OpenSSL learns once for all processes that are forked off afterwards.

What it does for the first time takes 3 ms and 0.3 MiB in each process: it looks algorithms up, builds what reads PEM,
keys and certificates, and what signs, and keeps all that. None of it is secret or random: what a fork draws at random
is new (OpenSSL 1.1.1 and later take new seeds there).

The identity for it is a constant, for making one takes longer than all the rest. Its key is the number one, so it is
no secret; and it proves nothing, because every session believes only its own authority.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Final

from bigmachine.trust.contexts import client_context, server_context
from bigmachine.trust.identity import Identity, Role

_NAME: Final = "nobody"
_PEM: Final = "-----BEGIN {0}-----\n{1}\n-----END {0}-----\n"
_CERTIFICATE: Final = """\
MIIBaDCCAQ6gAwIBAgIBATAKBggqhkjOPQQDAjARMQ8wDQYDVQQDDAZub2JvZHkw
IBcNMDAwMTAxMDAwMDAwWhgPOTk5OTEyMzEyMzU5NTlaMBExDzANBgNVBAMMBm5v
Ym9keTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABGsX0fLhLEJH+Lzm5WOkQPJ3
A32BLeszoPShOUXYmMKWT+NC4v4af5uO5+tKfA+eFivOM1drMV7Oy7ZAaDe/UfWj
VTBTMA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgKEMBEGA1UdEQQKMAiC
Bm5vYm9keTAdBgNVHQ4EFgQUtGejmZ6176Zx3gAy8Iqcnl79oOEwCgYIKoZIzj0E
AwIDSAAwRQIgV3zVsqojCtr/t1qHDfuGYUXYmVE6ImzlNrzhkrdVUvQCIQDDLacz
R1K88ohqq/3JAn3JEyRv7fzxGneAc59e6s6RQg=="""
_KEY: Final = """\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgAAAAAAAAAAAAAAAA
AAAAAAAAAAAAAAAAAAAAAAAAAAGhRANCAARrF9Hy4SxCR/i85uVjpEDydwN9gS3r
M6D0oTlF2JjClk/jQuL+Gn+bjufrSnwPnhYrzjNXazFezsu2QGg3v1H1"""


def nobody() -> Identity:
    """Give the identity that everybody can have: an authority on the curve P-256, which certifies itself."""
    certificate, key = _PEM.format("CERTIFICATE", _CERTIFICATE), _PEM.format("PRIVATE KEY", _KEY)
    return Identity(_NAME, Role.MACHINE, _NAME, certificate.encode(), key.encode(), certificate.encode())


def warm_up() -> None:
    """Go through a handshake within this process; a failure is of no consequence."""
    with contextlib.suppress(Exception):
        handshake()


def handshake() -> ssl.SSLObject:
    """Have nobody call nobody, and both prove it; gives the end that was called.

    Raises:
        ssl.SSLError: if that fails.
    """
    identity = nobody()
    to, fro = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client_context(identity).wrap_bio(fro, to, server_hostname=_NAME)
    called = server_context(identity).wrap_bio(to, fro, server_side=True)
    for end in (caller, called, caller, called):
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    caller.write(b"?")
    called.read(1)
    called.getpeercert()
    return called


__all__ = ["handshake", "nobody", "warm_up"]
