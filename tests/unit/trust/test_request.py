"""A key made on a host, and the driver's certificate for it."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from bigmachine.errors import AuthenticationError
from bigmachine.trust import Authority, Identity, Peer, Role, client_context, server_context
from bigmachine.trust.certificates import make_request
from bigmachine.trust.request import CertificateRequest, certificate_request
from tests.unit.trust.handshakes import converse

SESSION = "s0123456"
AUTHORITY = Authority(SESSION)
PEER = Peer(SESSION, Role.AGENT, "h1a2b3c")


def by_cryptography(peer: Peer) -> CertificateRequest:
    return CertificateRequest(*make_request(peer.id, peer.uri))


@pytest.mark.parametrize("ask", [certificate_request, by_cryptography])
def test_a_certified_request_is_an_identity_that_others_believe(ask: object) -> None:
    assert callable(ask)
    asked: CertificateRequest = ask(PEER)
    certificate = AUTHORITY.sign(asked.request, Role.AGENT, PEER.id)
    agent = Identity(SESSION, Role.AGENT, PEER.id, certificate, asked.key, AUTHORITY.certificate)
    driver = AUTHORITY.issue(Role.DRIVER, "driver")
    assert converse(server_context(agent), client_context(driver), PEER.id).client == PEER


def test_the_longest_names_fit() -> None:
    long = Peer("s" * 63, Role.AGENT, "h" * 63)
    Authority("s" * 63).sign(certificate_request(long).request, Role.AGENT, long.id)


def test_each_request_has_a_key_of_its_own_that_its_repr_does_not_show() -> None:
    first, second = certificate_request(PEER), certificate_request(PEER)
    assert first.key != second.key
    assert "PRIVATE" not in repr(first)


@pytest.mark.parametrize(
    ("role", "name", "session"),
    [(Role.AGENT, "h999999", SESSION), (Role.MACHINE, PEER.id, SESSION), (Role.AGENT, PEER.id, "another")],
)
def test_a_request_for_another_name_is_refused(role: Role, name: str, session: str) -> None:
    asked = certificate_request(Peer(session, role, name))
    with pytest.raises(AuthenticationError, match="asks for the names"):
        AUTHORITY.sign(asked.request, Role.AGENT, PEER.id)


def test_a_request_whose_key_is_not_the_senders_is_refused() -> None:
    mine, theirs = (
        x509.load_pem_x509_csr(certificate_request(PEER).request).public_bytes(Encoding.DER) for _ in range(2)
    )
    forged = x509.load_der_x509_csr(mine.replace(_point(mine), _point(theirs))).public_bytes(Encoding.PEM)
    with pytest.raises(AuthenticationError, match="signature"):
        AUTHORITY.sign(forged, Role.AGENT, PEER.id)


def _point(der: bytes) -> bytes:
    start = der.index(b"\x03\x42\x00\x04") + 4
    return der[start : start + 64]


def test_what_names_nobody_or_is_no_request_or_has_another_kind_of_key_is_refused() -> None:
    empty = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    nameless = empty.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.PEM)
    names = x509.SubjectAlternativeName([x509.DNSName(PEER.id), x509.UniformResourceIdentifier(PEER.uri)])
    larger = empty.add_extension(names, critical=True).sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256())
    for request, why in ((nameless, "names nobody"), (b"no", "PEM"), (larger.public_bytes(Encoding.PEM), "P-256")):
        with pytest.raises(AuthenticationError, match=why):
            AUTHORITY.sign(request, Role.AGENT, PEER.id)


def test_a_bootstrap_identity_lasts_a_quarter_of_an_hour_unless_told_otherwise() -> None:
    authority = Authority(SESSION, clock=lambda: 1e9)
    for identity, seconds in (
        (authority.issue(Role.BOOTSTRAP, "h1"), 900),
        (authority.issue(Role.BOOTSTRAP, "h1", 60), 60),
        (authority.issue(Role.AGENT, "h1"), 30 * 24 * 3600),
    ):
        leaf = x509.load_pem_x509_certificate(identity.certificate)
        assert leaf.not_valid_after_utc.timestamp() == 1e9 + seconds
