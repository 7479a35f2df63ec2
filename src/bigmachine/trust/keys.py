"""Keys on the curve P-256: made by the OpenSSL that is in the process, or else by `cryptography`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec


class Key(Protocol):
    """A private key, which signs."""

    def point(self) -> bytes:
        """Give the public key as certificates have it: its point, uncompressed (SEC 1, section 2.3.3)."""

    def private(self) -> bytes:
        """Give the private key: PKCS #8 (RFC 5958 and 5915), PEM."""

    def sign(self, data: bytes) -> bytes:
        """Sign the SHA-256 of `data` by ECDSA: DER."""


def make_key() -> Key:
    """Make a new key.

    Raises:
        AuthenticationError: if this host's OpenSSL makes none.
        ImportError: if this Python has OpenSSL built in, and `cryptography` is not there.
    """
    from bigmachine.trust.openssl import OpenSslKey, libcrypto

    library = libcrypto()
    return CryptographyKey() if library is None else OpenSslKey(library)


class CryptographyKey:
    """A key of the package `cryptography`."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        self._key = ec.generate_private_key(ec.SECP256R1())

    def point(self) -> bytes:
        return point_of(self._key.public_key())

    def private(self) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, data: bytes) -> bytes:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))


def point_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """Give a public key of `cryptography` as its point, uncompressed."""
    numbers = key.public_numbers()
    return b"\x04" + numbers.x.to_bytes(32) + numbers.y.to_bytes(32)
