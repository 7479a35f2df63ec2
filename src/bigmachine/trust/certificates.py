"""X.509 as this project writes it: what stands in an authority's certificate and in a leaf's.

Only `Authority` imports this module, when one is made (and `request`, where there is no other way): it loads
`cryptography`, which agents and programs never need.
The names below are the least that writing a certificate takes: 23 ms in a process that has asyncio and ssl already
(2 cores, Python 3.11, cryptography 50, warm cache, n=7, +-0.5), of which 20 are `x509`, which brings `ec` and `hashes`
along. Leaving out `serialization` (3 ms) gains nothing, as writing PEM loads it anyway. DER written by hand would need
`ec` and `hashes` only, 5 ms: not worth own code in this room, and a driver can do it while its agent's process starts.
"""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_BACKDATED_S = 60.0  # a host whose clock is a little behind must not find its own certificate not valid yet
_NEVER = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)  # RFC 5280, section 4.1.2.5


class Issuer:
    """A certificate authority's key, and what it signs. Times are seconds since the epoch."""

    def __init__(self, name: str, now: float) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        public = self._key.public_key()
        key_id = x509.SubjectKeyIdentifier.from_public_key(public)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)
        certificate = (
            self._builder(public, self._name, now, _NEVER)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(key_id, critical=False)  # VERIFY_X509_STRICT wants it (RFC 5280, section 4.2.1.2)
            .sign(self._key, hashes.SHA256())
        )
        #: The authority's own certificate (PEM).
        self.certificate = certificate.public_bytes(Encoding.PEM)

    def leaf(self, dns: str, uri: str, *, serves: bool, now: float, until: float) -> tuple[bytes, bytes]:
        """Make a key and a certificate for it with these two names; return certificate and key (PEM)."""
        key = ec.generate_private_key(ec.SECP256R1())
        return (
            self.certify(key.public_key(), dns, uri, serves=serves, now=now, until=until),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )

    def certify(
        self, key: ec.EllipticCurvePublicKey, dns: str, uri: str, *, serves: bool, now: float, until: float
    ) -> bytes:
        """Make a certificate (PEM) for a key, with these two names."""
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if serves else [])]
        names = x509.SubjectAlternativeName([x509.DNSName(dns), x509.UniformResourceIdentifier(uri)])
        certificate = (
            # No subject: the alternative names are the only ones, and critical for that reason (RFC 5280, 4.2.1.6).
            self._builder(key, x509.Name([]), now, _utc(until))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(names, critical=True)
            .add_extension(self._key_id, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM)

    def _builder(
        self, key: ec.EllipticCurvePublicKey, subject: x509.Name, now: float, until: dt.datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .issuer_name(self._name)
            .subject_name(subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_utc(now - _BACKDATED_S))
            .not_valid_after(until)
        )


def make_request(dns: str, uri: str) -> tuple[bytes, bytes]:
    """Make a key and a certificate signing request for it with these two names; return request and key (PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName(dns), x509.UniformResourceIdentifier(uri)])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(names, critical=True)
        .sign(key, hashes.SHA256())
    )
    return (
        request.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def requested_key(request: bytes, dns: str, uri: str) -> ec.EllipticCurvePublicKey:
    """Give the key that a certificate signing request (PEM) for exactly these two names proves to have.

    Raises:
        ValueError: if it is for others, or is none.
    """
    asked = x509.load_pem_x509_csr(request)
    if not asked.is_signature_valid:
        raise ValueError("its signature is not that of its key")
    try:
        names = list(asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound as error:
        raise ValueError("it names nobody") from error
    wanted = [x509.DNSName(dns), x509.UniformResourceIdentifier(uri)]
    if len(names) != len(wanted) or any(name not in names for name in wanted):
        raise ValueError(f"it asks for the names {[name.value for name in names]}")
    key = asked.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("its key is none on the curve P-256")  # noqa: TRY004 (what came from outside is wrong)
    return key


def _utc(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Say that a key signs certificates (the authority's) or handshakes (a leaf's), never both."""
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
