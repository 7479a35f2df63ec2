"""Calls to OpenSSL's libcrypto, which is in every process that has `ssl`.

The standard library makes no keys and signs nothing, and `cryptography` brings another OpenSSL, 8 MB of memory and
12 ms of computing (2 cores, Python 3.11, cryptography 50). So the functions are called by `ctypes`, in the library that
`ssl` itself uses. Only an interpreter that has it built in (python-build-standalone) hides it.

All functions are those of OpenSSL 1.1.1 and later, with the numbers of its headers; its manual pages have their names.
"""

from __future__ import annotations

import ctypes
import weakref
from functools import cache
from typing import Final, Self

from bigmachine.errors import AuthenticationError

_EC_KEY: Final = 408  # EVP_PKEY_EC
_P256: Final = 415  # NID_X9_62_prime256v1
_SET_CURVE: Final = 0x1001  # EVP_PKEY_CTRL_EC_PARAMGEN_CURVE_NID
_MAKING_KEYS: Final = 2 | 4  # EVP_PKEY_OP_PARAMGEN | EVP_PKEY_OP_KEYGEN
_GET_CONTENT: Final = 3  # BIO_CTRL_INFO
#: A signature on P-256 takes 72 bytes at most, in DER.
_SIGNATURE: Final = 80
#: A point on P-256, uncompressed (SEC 1, section 2.3.3): what a public key ends with.
_POINT: Final = 65


@cache
def libcrypto() -> ctypes.CDLL | None:
    """Find the library that `ssl` uses, of whatever name and place: symbols are looked up through `_ssl` itself."""
    import _ssl

    path = getattr(_ssl, "__file__", None)
    if path is None:
        return None
    library = ctypes.CDLL(path)
    return library if hasattr(library, "EVP_PKEY_keygen") else None


class OpenSsl:
    """Calls to libcrypto, each of them checked; as a context, it frees what they made."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._made: list[tuple[str, ctypes.c_void_p]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._made:
            free(self._library, *self._made.pop())

    def make_key(self) -> ctypes.c_void_p:
        """Make a key on the curve P-256; it is freed by `free(..., "EVP_PKEY_free", ...)`."""
        context = self.make("EVP_PKEY_CTX_new_id", _EC_KEY, None, freed_by="EVP_PKEY_CTX_free")
        self.do("EVP_PKEY_keygen_init", context)
        self.do("EVP_PKEY_CTX_ctrl", context, _EC_KEY, _MAKING_KEYS, _SET_CURVE, _P256, None)
        key = ctypes.c_void_p()
        self.do("EVP_PKEY_keygen", context, ctypes.byref(key))
        return key

    def keep(self, thing: ctypes.c_void_p, freed_by: str) -> ctypes.c_void_p:
        """Free it at the end of this context."""
        self._made.append((freed_by, thing))
        return thing

    def pem(self, write: str, *what: object) -> bytes:
        """Have one of the functions that write PEM write it."""
        memory = self.make("BIO_new", self.pointer("BIO_s_mem"), freed_by="BIO_free")
        self.do(write, memory, *what)
        text = ctypes.c_char_p()
        function = self._library["BIO_ctrl"]
        function.restype = ctypes.c_long
        length = function(memory, _GET_CONTENT, ctypes.c_long(0), ctypes.byref(text))
        return ctypes.string_at(text, length)

    def make(self, name: str, *arguments: object, freed_by: str) -> ctypes.c_void_p:
        """Call a function that makes something, and keep that until the end of this context."""
        return self.keep(self.pointer(name, *arguments), freed_by)

    def pointer(self, name: str, *arguments: object) -> ctypes.c_void_p:
        """Call a function that returns a pointer."""
        function = self._library[name]
        function.restype = ctypes.c_void_p
        address = function(*arguments)
        if not address:
            raise AuthenticationError(f"OpenSSL failed in {name}: has this process any memory left?")
        return ctypes.c_void_p(address)

    def do(self, name: str, *arguments: object) -> int:
        """Call a function that returns a number above 0."""
        function = self._library[name]
        function.restype = ctypes.c_int
        number: int = function(*arguments)
        if number <= 0:
            raise AuthenticationError(f"OpenSSL failed in {name}: does this host's OpenSSL refuse the curve P-256?")
        return number


def free(library: ctypes.CDLL, name: str, thing: ctypes.c_void_p) -> None:
    """Give back what libcrypto has made."""
    function = library[name]
    function.restype = None
    function(thing)


class OpenSslKey:
    """A private key on the curve P-256, in libcrypto's memory. Safe from any thread.

    Raises:
        AuthenticationError: if it cannot be made.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        with OpenSsl(library) as openssl:
            self._key = openssl.make_key()
        self._end = weakref.finalize(self, free, library, "EVP_PKEY_free", self._key)
        self._end.atexit = False  # its memory ends with the process

    def point(self) -> bytes:
        """Give the public key: its point, uncompressed."""
        if not hasattr(self._library, "EVP_PKEY_get1_encoded_public_key"):  # OpenSSL 1.1.1
            return self._encoded()[-_POINT:]
        place = ctypes.c_void_p()
        size = self._library.EVP_PKEY_get1_encoded_public_key(self._key, ctypes.byref(place))
        try:
            return ctypes.string_at(place, size)
        finally:
            self._library.CRYPTO_free(place, None, 0)

    def _encoded(self) -> bytes:
        """Give the public key as certificates have it: DER."""
        with OpenSsl(self._library) as openssl:
            size = openssl.do("i2d_PUBKEY", self._key, None)
            memory = ctypes.create_string_buffer(size)
            openssl.do("i2d_PUBKEY", self._key, ctypes.byref(ctypes.pointer(memory)))
        return memory.raw

    def private(self) -> bytes:
        """Give the private key: PKCS #8, PEM."""
        with OpenSsl(self._library) as openssl:
            return openssl.pem("PEM_write_bio_PKCS8PrivateKey", self._key, None, None, 0, None, None)

    def sign(self, data: bytes) -> bytes:
        """Sign the SHA-256 of `data` by ECDSA: DER."""
        signature = ctypes.create_string_buffer(_SIGNATURE)
        size = ctypes.c_size_t(_SIGNATURE)
        with OpenSsl(self._library) as openssl:
            context = openssl.make("EVP_MD_CTX_new", freed_by="EVP_MD_CTX_free")
            openssl.do("EVP_DigestSignInit", context, None, openssl.pointer("EVP_sha256"), None, self._key)
            length = ctypes.c_size_t(len(data))
            openssl.do("EVP_DigestSign", context, signature, ctypes.byref(size), ctypes.c_char_p(data), length)
        return signature.raw[: size.value]
