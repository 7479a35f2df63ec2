"""A key made where it will be used, and the request to certify it: what a bare host swaps its bootstrap identity for.

It is made by OpenSSL's libcrypto (`openssl`), for `cryptography` is larger than all the rest that an agent needs. Only
where that library is built into the interpreter, `cryptography` has to be installed.
"""

from __future__ import annotations

import ctypes
from dataclasses import field
from typing import TYPE_CHECKING, Final

from bigmachine.errors import AuthenticationError
from bigmachine.frozen import frozen
from bigmachine.trust.openssl import OpenSsl, libcrypto

if TYPE_CHECKING:
    from bigmachine.trust.identity import Peer

_ALTERNATIVE_NAMES: Final = 85  # NID_subject_alt_name


@frozen
class CertificateRequest:
    """A private key and the request to certify it, both PEM."""

    request: bytes
    key: bytes = field(repr=False)


def certificate_request(peer: Peer) -> CertificateRequest:
    """Make a key on the curve P-256 and a certificate signing request for it that names `peer`.

    Raises:
        AuthenticationError: if this interpreter has no way to make keys.
    """
    library = libcrypto()
    if library is not None:
        return _by_openssl(library, peer)
    try:
        from bigmachine.trust.certificates import make_request
    except ImportError as error:
        raise AuthenticationError(
            f"{peer} cannot make a key: this Python has OpenSSL built in, and the package cryptography is not there"
        ) from error
    request, key = make_request(peer.id, peer.uri)
    return CertificateRequest(request, key)


def has_libcrypto() -> bool:
    """Tell whether this interpreter makes keys without `cryptography`."""
    return libcrypto() is not None


def _by_openssl(library: ctypes.CDLL, peer: Peer) -> CertificateRequest:
    with OpenSsl(library) as openssl:
        key = openssl.keep(openssl.make_key(), "EVP_PKEY_free")
        request = _make_request(openssl, key, f"critical,DNS:{peer.id},URI:{peer.uri}")
        return CertificateRequest(
            openssl.pem("PEM_write_bio_X509_REQ", request),
            openssl.pem("PEM_write_bio_PKCS8PrivateKey", key, None, None, 0, None, None),
        )


def _make_request(openssl: OpenSsl, key: ctypes.c_void_p, names: str) -> ctypes.c_void_p:
    request = openssl.make("X509_REQ_new", freed_by="X509_REQ_free")
    openssl.do("X509_REQ_set_version", request, ctypes.c_long(0))
    openssl.do("X509_REQ_set_pubkey", request, key)
    extension = openssl.make(
        "X509V3_EXT_conf_nid", None, None, _ALTERNATIVE_NAMES, names.encode("ascii"), freed_by="X509_EXTENSION_free"
    )
    extensions = openssl.make("OPENSSL_sk_new_null", freed_by="OPENSSL_sk_free")
    openssl.do("OPENSSL_sk_push", extensions, extension)
    openssl.do("X509_REQ_add_extensions", request, extensions)
    openssl.do("X509_REQ_sign", request, key, openssl.pointer("EVP_sha256"))
    return request


__all__ = ["CertificateRequest", "certificate_request", "has_libcrypto"]
