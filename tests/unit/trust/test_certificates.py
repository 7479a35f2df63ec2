"""Certificates are those that `cryptography`'s `x509` would write: the same bytes, but for the signature."""

from __future__ import annotations

import datetime as dt
import hashlib
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bigmachine.trust import keys
from bigmachine.trust.certificates import Issuer
from bigmachine.trust.keys import CryptographyKey
from bigmachine.trust.openssl import OpenSslKey, libcrypto

NOW = 1_800_000_000.0
YEAR = 365 * 86_400.0


@pytest.fixture(params=["openssl", "cryptography"], autouse=True)
def _keys(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both makers of keys serve alike."""
    library = libcrypto()
    if request.param == "cryptography":
        monkeypatch.setattr(keys, "make_key", CryptographyKey)
    elif library is None:
        pytest.skip("this Python has OpenSSL built in")
    else:
        monkeypatch.setattr(keys, "make_key", lambda: OpenSslKey(library))


def reference(
    made: x509.Certificate, issuer: str, subject: x509.Name, until: dt.datetime, *extensions: tuple[object, bool]
) -> bytes:
    """Write with `x509` what `made` ought to be; only its number and its key are taken from there."""
    builder = (
        x509.CertificateBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .subject_name(subject)
        .public_key(made.public_key())
        .serial_number(made.serial_number)
        .not_valid_before(dt.datetime.fromtimestamp(NOW - 60, dt.UTC))
        .not_valid_after(until)
    )
    for value, is_critical in extensions:
        assert isinstance(value, x509.ExtensionType)
        builder = builder.add_extension(value, critical=is_critical)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).tbs_certificate_bytes


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


def point(certificate: x509.Certificate) -> bytes:
    form = serialization.PublicFormat.UncompressedPoint
    return certificate.public_key().public_bytes(serialization.Encoding.X962, form)


def authority_id(authority: x509.Certificate) -> bytes:
    return hashlib.sha256(point(authority)).digest()[:20]


@pytest.mark.parametrize("name", ["bigmachine session 0", "ü" * 32, "x" * 64])
def test_an_authoritys_certificate(name: str) -> None:
    made = x509.load_pem_x509_certificate(Issuer(name, NOW).certificate)
    assert made.tbs_certificate_bytes == reference(
        made,
        name,
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC),
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (usage(signs_certificates=True), True),
        (x509.SubjectKeyIdentifier(authority_id(made)), False),
    )
    made.verify_directly_issued_by(made)


@pytest.mark.parametrize("serves", [True, False])
@pytest.mark.parametrize("years", [1, 30, 100])  # from 2050 on times are written in another way
@pytest.mark.parametrize("ident", ["m1", "m" * 63])  # long names have lengths of two bytes
def test_a_leafs_certificate_and_key(serves: bool, years: int, ident: str) -> None:
    uri = f"bigmachine://session/machine/{ident}"
    issuer = Issuer("bigmachine session", NOW)
    authority = x509.load_pem_x509_certificate(issuer.certificate)
    certificate, key = issuer.leaf(ident, uri, serves=serves, now=NOW, until=NOW + years * YEAR)
    made = x509.load_pem_x509_certificate(certificate)
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if serves else [])]
    assert made.tbs_certificate_bytes == reference(
        made,
        "bigmachine session",
        x509.Name([]),
        dt.datetime.fromtimestamp(NOW + years * YEAR, dt.UTC),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage(purposes), False),
        (x509.SubjectAlternativeName([x509.DNSName(ident), x509.UniformResourceIdentifier(uri)]), True),
        (x509.AuthorityKeyIdentifier(authority_id(authority), None, None), False),
    )
    made.verify_directly_issued_by(authority)
    private = serialization.load_pem_private_key(key, None)
    form = serialization.PrivateFormat.PKCS8
    assert private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()) == key
    assert private.public_key() == made.public_key()


def test_what_it_signs_is_numbered_at_random() -> None:
    issuer = Issuer("s", NOW)
    made = [issuer.leaf("m", "bigmachine://s/machine/m", serves=True, now=NOW, until=NOW + 1)[0] for _ in range(50)]
    numbers = {x509.load_pem_x509_certificate(certificate).serial_number for certificate in made}
    assert len(numbers) == 50
    assert all(0 < number < 2**159 for number in numbers)


def test_short_numbers_keep_their_zeros() -> None:
    """One coordinate in 256 begins with a zero byte."""
    key = next(key for key in (keys.make_key() for _ in range(20_000)) if _has_zero(key.point()))
    private = serialization.load_pem_private_key(key.private(), None)
    form = serialization.PublicFormat.UncompressedPoint
    assert key.point() == private.public_key().public_bytes(serialization.Encoding.X962, form)


def _has_zero(point: bytes) -> bool:
    return point[1] == 0 or point[33] == 0


def test_a_key_signs() -> None:
    key = keys.make_key()
    private = serialization.load_pem_private_key(key.private(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    for data in (b"", b"data", bytes(range(256)) * 100):
        private.public_key().verify(key.sign(data), data, ec.ECDSA(hashes.SHA256()))


def test_keys_differ() -> None:
    assert len({keys.make_key().point() for _ in range(50)}) == 50


@pytest.mark.skipif(libcrypto() is None, reason="this Python has OpenSSL built in")
def test_cryptography_is_not_loaded_for_a_session() -> None:
    """It takes longer than all the rest of what an authority does, and 8 MB."""
    code = (
        "import sys, bigmachine.trust as trust; "
        "trust.Authority('s').issue(trust.Role.MACHINE, 'm'); "
        "print('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
