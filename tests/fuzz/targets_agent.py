"""What comes to an agent: messages of its children, a stranger's first bytes, a driver's requests to stage 0."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import ssl
import struct
import tempfile
import threading
from pathlib import Path
from typing import Any, cast

from bigmachine.agent.bare import stage0
from bigmachine.agent.hello import MAX_HELLO, NEED_MORE, server_name
from bigmachine.agent.processes.control import Decoder, Message, encode
from tests.fuzz.source import Source


def control(data: bytes) -> None:
    """Each file goes to one message or is closed; what is no message is a ValueError."""
    given = Source(data)
    closed: list[int] = []
    taken: list[int] = []
    numbers = itertools.count(100)
    made: list[int] = []
    decoder = Decoder(closed.append)
    try:
        while not given.is_empty:
            how = given.number() % 8
            if how == 0:
                piece = b"[" * (64 * given.number()) + b"\n"  # deeper than an interpreter can go
            elif how < 4:
                piece = given.blob()
            else:
                body = given.value()
                try:
                    piece = encode(body if isinstance(body, dict) else {"k": str(body)}, given.number() % 5)
                except TypeError:  # bytes, and the like
                    piece = b"{}\n"
            batch = [next(numbers) for _ in range(given.number() % 4)] if given.number() % 2 else None
            made += batch or ()
            decoder.feed(piece, batch)
            for message in decoder.messages():
                assert isinstance(message, Message)
                assert isinstance(message.kind, str)
                taken += message.fds
    except ValueError:
        pass
    decoder.close()
    assert sorted(closed + taken) == made


def hello(data: bytes) -> None:
    """There are three answers; one that is given stays the same whatever follows."""
    answer = server_name(data)
    assert answer is None or answer is NEED_MORE or answer
    if len(data) >= MAX_HELLO:
        assert answer is not NEED_MORE
    for end in {len(data) // 3, len(data) // 2, max(0, len(data) - 1)}:
        earlier = server_name(data[:end])
        assert earlier is NEED_MORE or earlier == answer, (earlier, answer)


class _Link:
    """A connection that has the fuzzer's bytes to give."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.sent = b""

    def recv(self, count: int) -> bytes:
        if count < 0:
            raise ValueError("negative buffersize in recv")
        piece, self._data = self._data[:count], self._data[count:]
        return piece

    def sendall(self, data: bytes) -> None:
        self.sent += data


class _Stage0(stage0.Stage0):
    def __init__(self, cache: str) -> None:
        self.called, self.cache = 0.0, cache
        self.lock = threading.Lock()
        self.parts: list[str] = []

    def exec(self, request: dict[str, Any], link: ssl.SSLSocket) -> dict[str, Any]:
        return {}  # a fuzzer must not choose programs


_folders: list[tempfile.TemporaryDirectory[str]] = []


def stage_zero(data: bytes) -> None:
    """Whatever a driver asks for, it gets an answer or is hung up on, and nothing comes to lie beside the cache."""
    if not _folders:
        _folders.append(tempfile.TemporaryDirectory(prefix="fuzz-"))
    top = Path(_folders[0].name)
    cache = top / "cache"
    (cache / "v1").mkdir(parents=True, exist_ok=True)
    given = Source(data)
    stream = b""
    while not given.is_empty:
        how = given.number() % 8
        if how == 0:
            stream += given.blob()
            continue
        if how == 1:
            deep = b"[" * (64 * given.number())
            stream += struct.pack(">I", len(deep)) + deep
            continue
        body = given.blob()
        request: dict[str, Any] = {"verb": given.one_of(("info", "have", "put", "exec", "other"))}
        name = "kits/" + "0" * 64 if given.number() % 2 else given.text()
        request |= {"id": name, "size": given.one_of((len(body), given.integer(), -1, 0.5, None)), "unpacked": 1 << 20}
        request |= {"sha256": hashlib.sha256(body).hexdigest(), "ids": given.value(), "modules": given.value()}
        request[given.one_of(("other", "verb", "id", "ids", "modules", "unpacked"))] = given.value()
        try:
            text = json.dumps(request).encode()
        except TypeError:
            continue
        stream += struct.pack(">I", len(text)) + text + body
    link = cast(ssl.SSLSocket, _Link(stream))
    server = _Stage0(str(cache))
    try:
        while server.answer(link):
            pass
    except Exception:  # noqa: BLE001
        pass  # as `meet` has it: the connection ends
    assert os.listdir(top) == ["cache"]
    assert os.listdir(cache) == ["v1"]
    assert not [name for name in os.listdir(cache / "v1") if ".part-" in name]


def seeds_agent() -> dict[str, list[bytes]]:
    """Bytes to begin with, for each target."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="hab12cd-m1")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    mixed = [bytes((seed * step + step) % 256 for step in range(200)) for seed in (1, 7, 31, 77, 130, 201)]
    line = encode({"k": "spawn", "id": "m1"}, 2)
    return {
        "control": [b"\1" + bytes([len(line)]) + line + b"\1\2", b"\0\xff", *mixed],
        "hello": [outgoing.read(), b"GET / HTTP/1.1\r\n\r\n"],
        "stage0": [b"\1\xff", *mixed],
    }
