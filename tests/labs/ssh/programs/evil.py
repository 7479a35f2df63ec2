"""Send a host what it must not take, as the first word says, and say with which error that ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import zstandard

import bigmachine
import bigmachine.image.scan.scan
from bigmachine.errors import BigmachineError
from bigmachine.image import packs, plan
from bigmachine.image.manifest import File, Layer, layer_id
from bigmachine.image.packs import LISTING, PACK, close_pack, frame, open_pack, verify

CONTENT = "0" * 64


class Nothing:
    """No service at all."""


def damaged(data: bytes) -> bytes:
    """Turn one bit of a frame."""
    return data[:-1] + bytes([data[-1] ^ 1])


def other(data: bytes) -> bytes:
    """Put other content into a pack that is in order otherwise."""
    head, content = open_pack(verify(data)[1])
    return frame(PACK, close_pack(head, bytes([content[0] ^ 1]) + bytes(content[1:])))


def bomb(_data: bytes) -> bytes:
    """Unpack to more than any pack may."""
    return frame(PACK, zstandard.compress(bytes(packs.PACK_LIMIT + 1)))


PACKS: dict[str, Callable[[bytes], bytes]] = {"damaged": damaged, "other": other, "bomb": bomb}
LISTED = {
    "up": File("site/../../evil", CONTENT, 4),
    "absolute": File("/tmp/evil", CONTENT, 4),
    "link": File("site/evil", "", 0, link="../../../../../etc/passwd"),
}


def layer(word: str) -> Layer:
    files = (LISTED[word],)
    return Layer(layer_id(files), "dist", "evil", "1", files)


def spoil(word: str) -> None:
    """Have what is sent be what the word says."""
    honest_frames, honest_scan = packs.frames, bigmachine.image.scan.scan.scan
    manifests = []

    def scan(*args: Any, **kwargs: Any) -> Any:
        found = honest_scan(*args, **kwargs)
        if word in LISTED:
            manifests.append(found.manifest)
            found.manifest = replace(found.manifest, layers=(*found.manifest.layers, layer(word)))
        return found

    def frames(found: Any, *args: Any) -> Iterator[bytes]:
        if word in LISTED:
            evil = layer(word)
            yield frame(LISTING, plan.pack({"layer": evil.id, "files": plan.rows(evil.files)}))
            found.manifest = manifests[-1]
        for data in honest_frames(found, *args):
            yield PACKS[word](data) if word in PACKS and verify(data)[0] == PACK else data

    packs.frames = frames  # type: ignore[assignment] # it hands on what it is given
    bigmachine.image.scan.scan.scan = scan


def main() -> None:
    spoil(sys.argv[1])
    with bigmachine.driver.start() as session:
        try:
            (machine,) = session.start(1, services=[Nothing()])
            machine.wait(bigmachine.State.RUNNING, timeout=60)
            print("RUNNING")
        except BigmachineError as error:
            print(f"FAILED {type(error).__name__} {error}")


if __name__ == "__main__":
    main()
