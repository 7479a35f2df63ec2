"""The handshake by which OpenSSL is warmed up: it is a whole one, and its identity is nobody's."""

from __future__ import annotations

import ssl

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from bigmachine.trust import Authority, Role, client_context, server_context, warm_up
from bigmachine.trust.identity import Identity
from bigmachine.trust.nobody import handshake, nobody


def test_it_is_a_whole_handshake_as_machines_have_it() -> None:
    called = handshake()
    assert called.version() == "TLSv1.3"
    assert called.selected_alpn_protocol() == "bigmachine/1"
    assert called.getpeercert(), "the caller proved who it is, too"
    warm_up()


def test_its_key_is_known_to_everybody() -> None:
    key = load_pem_private_key(nobody().key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.private_numbers().private_value == 1


def test_nobody_is_believed_by_no_session_and_believes_none() -> None:
    authority = Authority("5e5510ab")
    machine, driver = authority.issue(Role.MACHINE, "hab12cd-m1"), authority.issue(Role.DRIVER, "driver")
    for client, server in ((nobody(), machine), (driver, nobody())):
        with pytest.raises(ssl.SSLCertVerificationError):
            _shake_hands(client, server)


def _shake_hands(client: Identity, server: Identity) -> None:
    to, fro = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client_context(client).wrap_bio(fro, to, server_hostname=server.id)
    called = server_context(server).wrap_bio(to, fro, server_side=True)
    for end in (caller, called) * 3:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
