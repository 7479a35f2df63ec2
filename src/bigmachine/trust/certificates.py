"""X.509 as this project writes it: what stands in an authority's certificate and in a leaf's.

What `cryptography`'s `x509` loads takes 20 ms of computing (2 cores, Python 3.11, cryptography 50), in each driver and
before its agent can listen. The certificates of a session differ in five values only, so they are written here, and
every byte is tested against what `x509` makes of the same. What others have written is never read here: for their
requests `x509` is loaded. Keys and signatures are OpenSSL's, see `keys`.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets

from bigmachine.trust import der, keys

_BACKDATED_S = 60.0  # a host whose clock is a little behind must not find its own certificate not valid yet
_NEVER = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)  # RFC 5280, section 4.1.2.5
_VERSION_3 = der.inside(0, der.integer(2))
_ECDSA_WITH_SHA256 = der.sequence(der.identifier("1.2.840.10045.4.3.2"))
_KEY_ON_P256 = der.sequence(der.identifier("1.2.840.10045.2.1"), der.identifier("1.2.840.10045.3.1.7"))
_COMMON_NAME = der.identifier("2.5.4.3")
_CLIENT_AUTH = der.identifier("1.3.6.1.5.5.7.3.2")
_SERVER_AUTH = der.identifier("1.3.6.1.5.5.7.3.1")


def _extension(dotted: str, value: bytes, *, is_critical: bool) -> bytes:
    return der.sequence(der.identifier(dotted), der.TRUE if is_critical else b"", der.octets(value))


def _key_usage(bit: int) -> bytes:
    """Say the one thing that a key is for: 0, handshakes, or 5, certificates (RFC 5280, section 4.2.1.3)."""
    return _extension("2.5.29.15", der.bits(bytes((0x80 >> bit,)), unused=7 - bit), is_critical=True)


_SIGNS_CERTIFICATES = (
    _extension("2.5.29.19", der.sequence(der.TRUE, der.integer(0)), is_critical=True),  # for leaves only
    _key_usage(5),
)
_SIGNS_HANDSHAKES = (_extension("2.5.29.19", der.sequence(), is_critical=True), _key_usage(0))


class Issuer:
    """A certificate authority's key, and what it signs. Times are seconds since the epoch."""

    def __init__(self, name: str, now: float) -> None:
        self._key = keys.make_key()
        public = self._key.point()
        key_id = hashlib.sha256(public).digest()[:20]  # RFC 7093, section 2
        self._name = der.sequence(der.set_of_one(der.sequence(_COMMON_NAME, der.text(name))))
        self._key_id = _extension("2.5.29.35", der.sequence(der.instead(0, key_id)), is_critical=False)
        # VERIFY_X509_STRICT wants it (RFC 5280, section 4.2.1.2).
        own_id = _extension("2.5.29.14", der.octets(key_id), is_critical=False)
        #: The authority's own certificate (PEM).
        self.certificate = self._signed(public, self._name, now, _NEVER, *_SIGNS_CERTIFICATES, own_id)

    def leaf(self, dns: str, uri: str, *, serves: bool, now: float, until: float) -> tuple[bytes, bytes]:
        """Make a key and a certificate for it with these two names; return certificate and key (PEM)."""
        key = keys.make_key()
        return self.certify(key.point(), dns, uri, serves=serves, now=now, until=until), key.private()

    def certify(self, point: bytes, dns: str, uri: str, *, serves: bool, now: float, until: float) -> bytes:
        """Make a certificate (PEM) for the key on P-256 that has this point, with these two names, both ASCII."""
        purposes = der.sequence(_CLIENT_AUTH, _SERVER_AUTH if serves else b"")
        names = der.sequence(der.instead(2, dns.encode("ascii")), der.instead(6, uri.encode("ascii")))
        return self._signed(
            point,
            # No subject: the alternative names are the only ones, and critical for that reason (RFC 5280, 4.2.1.6).
            der.sequence(),
            now,
            _utc(until),
            *_SIGNS_HANDSHAKES,
            _extension("2.5.29.37", purposes, is_critical=False),
            _extension("2.5.29.17", names, is_critical=True),
            self._key_id,
        )

    def _signed(self, public: bytes, subject: bytes, now: float, until: dt.datetime, *extensions: bytes) -> bytes:
        told = der.sequence(
            _VERSION_3,
            der.integer(secrets.randbits(159)),  # not more than 20 bytes (RFC 5280, section 4.1.2.2)
            _ECDSA_WITH_SHA256,
            self._name,
            der.sequence(der.time(_utc(now - _BACKDATED_S)), der.time(until)),
            subject,
            der.sequence(_KEY_ON_P256, der.bits(public)),
            der.inside(3, der.sequence(*extensions)),
        )
        signature = self._key.sign(told)
        return der.pem("CERTIFICATE", der.sequence(told, _ECDSA_WITH_SHA256, der.bits(signature)))


def make_request(dns: str, uri: str) -> tuple[bytes, bytes]:
    """Make a key and a certificate signing request for it with these two names; return request and key (PEM)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName(dns), x509.UniformResourceIdentifier(uri)])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(names, critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return request.public_bytes(Encoding.PEM), private


def requested_key(request: bytes, dns: str, uri: str) -> bytes:
    """Give the point of the key that a certificate signing request (PEM) for exactly these two names proves to have.

    Raises:
        ValueError: if it is for others, or is none.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

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
    return keys.point_of(key)


def _utc(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
