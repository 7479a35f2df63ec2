"""What comes to a host of a program: its head, and the frames of its layers."""

from __future__ import annotations

import json

import zstandard

from bigmachine.errors import ImageError
from bigmachine.image import packs, plan
from bigmachine.image.manifest import File, Layer, Manifest, Platform
from tests.fuzz.source import Source


def _compressed(given: Source, said: bytes) -> bytes:
    data = zstandard.compress(said, 1)
    if given.number() % 8 == 0:
        at = given.number(2) % len(data)
        data = data[:at] + given.take(1) + data[at + 1 :]
    return data


def _json(given: Source) -> bytes:
    how = given.number() % 4
    if how == 0:
        return b"[" * (64 * given.number())  # deeper than an interpreter can go
    if how == 1:
        return given.blob() + given.blob()
    try:
        return json.dumps(given.value()).encode()
    except TypeError:
        return b"{}"


def head(data: bytes) -> None:
    """What is no head is an ImageError; what is one lies inside of its layers."""
    given = Source(data)
    how = given.number() % 3
    if how == 0:
        said = given.rest()
    elif how == 1:
        said = _compressed(given, _json(given))
    else:
        manifest = {
            "v": 1,
            "platform": given.one_of((["3.11.2", "cpython-311", "Linux", "x86_64", "glibc 2.36"], given.value())),
            "layers": [
                [given.one_of(("0" * 64, given.text())), "tree", given.text(), "", False, False, given.text()]
                for _ in range(given.number() % 3)
            ],
            "sys_path": given.one_of(([], given.value())),
            "pth": given.one_of(([], given.value())),
        }
        trees = given.one_of(
            ({}, {"0" * 64: [[given.text(), "0" * 64, given.integer(), 0, given.text()]]}, given.value())
        )
        try:
            said = _compressed(given, json.dumps({"manifest": manifest, "trees": trees}).encode())
        except TypeError:
            return
    try:
        decoded = plan.decode_head(said)
    except ImageError:
        return
    assert isinstance(decoded, Manifest)
    for layer in decoded.layers:
        for file in layer.files:
            assert not file.path.startswith("/")
            assert ".." not in file.path.split("/")


def listing(data: bytes) -> None:
    """A link of a listing that is accepted does not lead out of the layer."""
    given = Source(data)
    path, link = given.text(), given.text()
    try:
        plan.check_path(path, link, given.number() % 3)
    except ImageError:
        return
    at = path.split("/")[:-1]
    for step in link.split("/") if link else ():
        if step == "..":
            at.pop()  # an IndexError: it leads out
        elif step not in ("", "."):
            at.append(step)


def frame(data: bytes) -> None:
    """What is no frame, or no pack, is an ImageError."""
    given = Source(data)
    if given.number() % 4 == 0:
        said = given.rest()
    else:
        text = _json(given)
        size = given.one_of((len(text), given.number(4)))
        body = _compressed(given, size.to_bytes(4, "big") + text + given.blob())
        said = packs.frame(given.one_of((packs.PACK, packs.BYTECODE, packs.LISTING, b"X")), body)
    try:
        kind, verified = packs.verify(said)
    except ImageError:
        return
    try:
        if kind == packs.LISTING:
            plan.files(plan.unpack(bytes(verified))["files"])
        else:
            told, content = packs.open_pack(bytes(verified))
            assert isinstance(told, dict)
            assert len(content) <= packs.PACK_SIZE + (16 << 20)
    except (ImageError, ValueError, KeyError, TypeError):
        return


def seeds_image() -> dict[str, list[bytes]]:
    """Bytes to begin with, for each target."""
    platform = Platform("3.11.2", "cpython-311", "Linux", "x86_64")
    layer = Layer("0" * 64, "tree", "app", files=(File("a.py", "0" * 64, 1),), mount="roots/0-app")
    known = plan.encode_head(Manifest(platform, (layer,)))
    pack = packs.frame(packs.PACK, packs.close_pack({"layer": "0" * 64, "parts": [[0, 0, 1]]}, b"x"))
    deep = b"\1\0\xff\1"
    mixed = [bytes((seed * step + step) % 256 for step in range(200)) for seed in (2, 7, 31, 77, 130, 201)]
    return {
        "head": [b"\0" + known, deep, *mixed],
        "listing": [b"\0\3a/b\0\7../../c\0", *mixed],
        "frame": [b"\0" + pack, *mixed],
    }
