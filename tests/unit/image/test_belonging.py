"""The layer of a frame is told from its beginning."""

from __future__ import annotations

import os

import pytest

from bigmachine.image.belonging import layer_of
from bigmachine.image.packs import close_pack
from bigmachine.image.plan import pack

IDENT = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "body",
    [
        close_pack({"layer": IDENT, "parts": [[0, 0, 4_000_000]]}, os.urandom(4_000_000)),
        close_pack({"layer": IDENT, "modules": [["a/__pycache__/b.cpython-311.pyc", 3]]}, b"abc"),
        pack(
            {"layer": IDENT, "name": "n", "version": "1", "files": [[f"{n}", IDENT, 1, 0, ""] for n in range(50_000)]}
        ),
    ],
    ids=["pack", "bytecode", "listing"],
)
def test_packs_byte_code_and_listings_are_of_a_layer(body: bytes) -> None:
    assert layer_of(memoryview(body)) == IDENT


@pytest.mark.parametrize("body", [b"", b"anything", pack({"files": []}), pack({"layer": "../x"}), close_pack({}, b"")])
def test_everything_else_is_of_none(body: bytes) -> None:
    assert layer_of(body) == ""
