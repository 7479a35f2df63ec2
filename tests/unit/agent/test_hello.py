"""The ClientHello reader gives the name, asks for more, or says nobody; and never anything else."""

from __future__ import annotations

import random
import ssl

import pytest

from bigmachine.agent.hello import MAX_HELLO, NEED_MORE, server_name


def hello(name: str | None, *, alpn: bool = True) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(["bigmachine/1"])
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def in_records(data: bytes, size: int) -> bytes:
    """Cut the one handshake record of `data` into records of `size` bytes."""
    body = data[5:]
    return b"".join(
        b"\x16\x03\x01" + len(body[i : i + size]).to_bytes(2) + body[i : i + size] for i in range(0, len(body), size)
    )


def framed(body: bytes) -> bytes:
    message = b"\x01" + len(body).to_bytes(3) + body
    return b"\x16\x03\x01" + len(message).to_bytes(2) + message


def with_extensions(extensions: bytes) -> bytes:
    return framed(b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00" + extensions)


def name_extension(name: bytes, kind: int = 0) -> bytes:
    entry = bytes([kind]) + len(name).to_bytes(2) + name
    names = len(entry).to_bytes(2) + entry
    return b"\x00\x00" + len(names).to_bytes(2) + names


def vector(data: bytes) -> bytes:
    return len(data).to_bytes(2) + data


def test_the_name_of_openssls_hello_is_found() -> None:
    assert server_name(hello("h1a2b3c-m3")) == "h1a2b3c-m3"


def test_bytes_behind_the_hello_do_not_matter() -> None:
    assert server_name(hello("h1a2b3c-m3") + b"\x17early data") == "h1a2b3c-m3"


def test_a_hello_without_a_name_names_nobody() -> None:
    assert server_name(hello(None)) is None
    assert server_name(hello(None, alpn=False)) is None


def test_every_truncation_asks_for_more() -> None:
    whole = hello("h1a2b3c-m3")
    assert {server_name(whole[:n]) for n in range(len(whole))} == {NEED_MORE}


@pytest.mark.parametrize("size", [1, 3, 50, 200])
def test_a_hello_cut_over_records_is_put_together(size: int) -> None:
    whole = in_records(hello("h1a2b3c-m3"), size)
    assert server_name(whole) == "h1a2b3c-m3"
    assert {server_name(whole[:n]) for n in range(len(whole) - size)} == {NEED_MORE}


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x00",
        b"\xff" * 64,
        b"\x80.",
    ],
)
def test_what_is_not_tls_is_decided_at_its_first_byte(data: bytes) -> None:
    assert server_name(data) is None
    assert server_name(data[:1]) is None


def test_nothing_yet_asks_for_more() -> None:
    assert server_name(b"") is NEED_MORE


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x02\x00\x00\x05",  # not SSL 3 or later
        b"\x16\x03\x01\x00\x00",  # an empty record
        b"\x16\x03\x01\xff\xff",  # longer than a record may be
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",  # a ServerHello
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",  # a hello of 16 MiB
        framed(b""),
        framed(b"\x03\x03" + bytes(32) + b"\xff"),  # a session id longer than the message
        with_extensions(b"\x00\xff\x00"),  # extensions longer than the message
        with_extensions(vector(b"\x00\x00\x00\xff")),  # an extension longer than the extensions
        with_extensions(vector(b"\x00\x00\x00\x05\x00\x09\x00\x00\x01")),  # a list longer than its extension
        with_extensions(vector(name_extension(b"one") + name_extension(b"two"))),
    ],
)
def test_a_hello_that_contradicts_itself_names_nobody(data: bytes) -> None:
    assert server_name(data) is None


def test_a_hello_without_extensions_names_nobody() -> None:
    assert server_name(with_extensions(b"")) is None


@pytest.mark.parametrize("name", [b"", b"\xff\xfe", "h\u00e4".encode()])
def test_an_empty_or_foreign_name_names_nobody(name: bytes) -> None:
    assert server_name(with_extensions(vector(name_extension(name)))) is None


def test_other_kinds_of_names_are_passed_over() -> None:
    assert server_name(with_extensions(vector(name_extension(b"h1-m1", kind=7)))) is None
    assert server_name(with_extensions(vector(b"\x00\x17\x00\x00" + name_extension(b"h1-m1")))) == "h1-m1"


def test_names_compare_without_case() -> None:
    assert server_name(with_extensions(vector(name_extension(b"H1-M1")))) == "h1-m1"


def test_a_hello_that_never_ends_is_given_up_at_the_bound() -> None:
    endless = in_records(b"\x16\x03\x01\x00\x00" + b"\x01\x00\x3f\xff" + bytes(MAX_HELLO), 1)
    assert server_name(endless[: MAX_HELLO - 1]) is NEED_MORE
    assert server_name(endless[:MAX_HELLO]) is None


def test_noise_and_bent_hellos_get_one_of_the_three_answers() -> None:
    rng = random.Random(20_26)
    whole = hello("h1a2b3c-m3")
    for _ in range(3000):
        bent = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            bent[rng.randrange(len(bent))] = rng.randrange(256)
        answer = server_name(bytes(bent[: rng.randint(0, len(bent))]))
        assert answer is None or answer is NEED_MORE or isinstance(answer, str)
        noise = b"\x16\x03\x01" + rng.randbytes(rng.randint(0, 300))
        answer = server_name(noise)
        assert answer is None or answer is NEED_MORE or isinstance(answer, str)
