"""What stands in certificates, to the last extension: each of them is what a host's TLS decides by."""

from __future__ import annotations

import datetime as dt
import pickle
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, SignatureAlgorithmOID

from bigmachine.trust import Authority, Role
from bigmachine.trust.certificates import Issuer

NOW = 1_800_000_000.0
YEAR = 365 * 86_400.0


def extensions(certificate: x509.Certificate) -> list[tuple[object, bool]]:
    """Give what it says beyond its names and times, and whether who does not understand it has to refuse."""
    return [(extension.value, extension.critical) for extension in certificate.extensions]


def usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def key_id(authority: x509.Certificate) -> bytes:
    """Give what tells an authority's key from others."""
    return x509.SubjectKeyIdentifier.from_public_key(authority.public_key()).digest


@pytest.mark.parametrize("name", ["bigmachine session 0", "ü" * 32, "x" * 64])
def test_an_authoritys_certificate(name: str) -> None:
    made = x509.load_pem_x509_certificate(Issuer(name, NOW).certificate)
    assert made.version is x509.Version.v3
    assert made.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA256
    assert made.subject == made.issuer == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    assert made.not_valid_before_utc == dt.datetime.fromtimestamp(NOW - 60, dt.UTC)
    assert made.not_valid_after_utc == dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
    assert extensions(made) == [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (usage(signs_certificates=True), True),
        (x509.SubjectKeyIdentifier(key_id(made)), False),
    ]
    made.verify_directly_issued_by(made)


@pytest.mark.parametrize("serves", [True, False])
@pytest.mark.parametrize("years", [1, 30, 100])  # from 2050 on times are written in another way
@pytest.mark.parametrize("ident", ["m1", "m" * 63])
def test_a_leafs_certificate_and_key(serves: bool, years: int, ident: str) -> None:
    uri = f"bigmachine://session/machine/{ident}"
    issuer = Issuer("bigmachine session", NOW)
    authority = x509.load_pem_x509_certificate(issuer.certificate)
    certificate, key = issuer.leaf(ident, uri, serves=serves, now=NOW, until=NOW + years * YEAR)
    made = x509.load_pem_x509_certificate(certificate)
    assert made.version is x509.Version.v3
    assert made.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA256
    assert (made.subject, made.issuer) == (x509.Name([]), authority.subject)
    assert made.not_valid_before_utc == dt.datetime.fromtimestamp(NOW - 60, dt.UTC)
    assert made.not_valid_after_utc == dt.datetime.fromtimestamp(NOW + years * YEAR, dt.UTC)
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if serves else [])]
    assert extensions(made) == [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage(purposes), False),
        (x509.SubjectAlternativeName([x509.DNSName(ident), x509.UniformResourceIdentifier(uri)]), True),
        (x509.AuthorityKeyIdentifier(key_id(authority), None, None), False),
    ]
    made.verify_directly_issued_by(authority)
    private = serialization.load_pem_private_key(key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(private.curve, ec.SECP256R1)
    assert private.public_key() == made.public_key()
    assert key.startswith(b"-----BEGIN PRIVATE KEY-----\n")  # PKCS #8, which every OpenSSL reads


def test_what_it_signs_is_numbered_at_random() -> None:
    issuer = Issuer("s", NOW)
    made = [issuer.leaf("m", "bigmachine://s/machine/m", serves=True, now=NOW, until=NOW + 1) for _ in range(50)]
    numbers = {x509.load_pem_x509_certificate(certificate).serial_number for certificate, _ in made}
    assert len(numbers) == len({key for _, key in made}) == 50
    assert all(0 < number < 2**159 for number in numbers)


def test_only_who_makes_an_authority_loads_cryptography() -> None:
    """It takes 10 MiB and longer than all else that an agent imports; whoever got an identity ready-made has no use."""
    code = """if True:
        import pickle, sys
        import bigmachine.trust as trust
        identity = pickle.loads(sys.stdin.buffer.read())
        trust.server_context(identity), trust.client_context(identity)
        before = "cryptography" in sys.modules
        trust.Authority("s")
        print(before, "cryptography" in sys.modules)
    """
    identity = pickle.dumps(Authority("s").issue(Role.MACHINE, "m"))
    done = subprocess.run([sys.executable, "-c", code], input=identity, check=True, capture_output=True)
    assert done.stdout.split() == [b"False", b"True"]
