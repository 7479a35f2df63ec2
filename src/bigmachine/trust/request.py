"""A key made where it will be used, and the request to certify it: what a bare host swaps its bootstrap identity for.

The standard library makes no keys, and `cryptography` is larger than all the rest that an agent needs. But a library
that does it is in the process already, below `ssl`: OpenSSL's libcrypto, called here by `ctypes`. Only an interpreter
that has it built in (python-build-standalone) hides it; there `cryptography` has to be installed.

All functions are those of OpenSSL 1.1.1 and later, with the numbers of its headers; its manual pages have their names.
"""

from __future__ import annotations

import ctypes
from dataclasses import field
from typing import TYPE_CHECKING, Final, Self

from bigmachine.errors import AuthenticationError
from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from bigmachine.trust.identity import Peer

_EC_KEY: Final = 408  # EVP_PKEY_EC
_P256: Final = 415  # NID_X9_62_prime256v1
_SET_CURVE: Final = 0x1001  # EVP_PKEY_CTRL_EC_PARAMGEN_CURVE_NID
_MAKING_KEYS: Final = 2 | 4  # EVP_PKEY_OP_PARAMGEN | EVP_PKEY_OP_KEYGEN
_ALTERNATIVE_NAMES: Final = 85  # NID_subject_alt_name
_GET_CONTENT: Final = 3  # BIO_CTRL_INFO


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
    library = _libcrypto()
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
    return _libcrypto() is not None


def _libcrypto() -> ctypes.CDLL | None:
    """Find the library that `ssl` uses, of whatever name and place: symbols are looked up through `_ssl` itself."""
    import _ssl

    path = getattr(_ssl, "__file__", None)
    if path is None:
        return None
    library = ctypes.CDLL(path)
    return library if hasattr(library, "EVP_PKEY_keygen") else None


def _by_openssl(library: ctypes.CDLL, peer: Peer) -> CertificateRequest:
    with _OpenSsl(library) as openssl:
        key = openssl.make_key()
        request = openssl.make_request(key, f"critical,DNS:{peer.id},URI:{peer.uri}")
        return CertificateRequest(
            openssl.pem("PEM_write_bio_X509_REQ", request),
            openssl.pem("PEM_write_bio_PKCS8PrivateKey", key, None, None, 0, None, None),
        )


class _OpenSsl:
    """Calls to libcrypto, each of them checked; as a context, it frees what they made."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._made: list[tuple[str, ctypes.c_void_p]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for free, pointer in reversed(self._made):
            function = self._library[free]
            function.restype = None
            function(pointer)

    def make_key(self) -> ctypes.c_void_p:
        context = self._make("EVP_PKEY_CTX_new_id", _EC_KEY, None, free="EVP_PKEY_CTX_free")
        self._do("EVP_PKEY_keygen_init", context)
        self._do("EVP_PKEY_CTX_ctrl", context, _EC_KEY, _MAKING_KEYS, _SET_CURVE, _P256, None)
        key = ctypes.c_void_p()
        self._do("EVP_PKEY_keygen", context, ctypes.byref(key))
        self._made.append(("EVP_PKEY_free", key))
        return key

    def make_request(self, key: ctypes.c_void_p, names: str) -> ctypes.c_void_p:
        request = self._make("X509_REQ_new", free="X509_REQ_free")
        self._do("X509_REQ_set_version", request, ctypes.c_long(0))
        self._do("X509_REQ_set_pubkey", request, key)
        extension = self._make(
            "X509V3_EXT_conf_nid", None, None, _ALTERNATIVE_NAMES, names.encode("ascii"), free="X509_EXTENSION_free"
        )
        extensions = self._make("OPENSSL_sk_new_null", free="OPENSSL_sk_free")
        self._do("OPENSSL_sk_push", extensions, extension)
        self._do("X509_REQ_add_extensions", request, extensions)
        self._do("X509_REQ_sign", request, key, self._pointer("EVP_sha256"))
        return request

    def pem(self, write: str, *what: object) -> bytes:
        memory = self._make("BIO_new", self._pointer("BIO_s_mem"), free="BIO_free")
        self._do(write, memory, *what)
        text = ctypes.c_char_p()
        function = self._library["BIO_ctrl"]
        function.restype = ctypes.c_long
        length = function(memory, _GET_CONTENT, ctypes.c_long(0), ctypes.byref(text))
        return ctypes.string_at(text, length)

    def _make(self, name: str, *arguments: object, free: str) -> ctypes.c_void_p:
        pointer = self._pointer(name, *arguments)
        self._made.append((free, pointer))
        return pointer

    def _pointer(self, name: str, *arguments: object) -> ctypes.c_void_p:
        function = self._library[name]
        function.restype = ctypes.c_void_p
        address = function(*arguments)
        if not address:
            raise AuthenticationError(f"OpenSSL made no key for this host: {name} failed")
        return ctypes.c_void_p(address)

    def _do(self, name: str, *arguments: object) -> None:
        function = self._library[name]
        function.restype = ctypes.c_int
        if function(*arguments) <= 0:
            raise AuthenticationError(f"OpenSSL made no key for this host: {name} failed")


__all__ = ["CertificateRequest", "certificate_request", "has_libcrypto"]
