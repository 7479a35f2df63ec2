"""Which layer a frame of an image belongs to, told from its beginning. Pure."""

from __future__ import annotations

import re
from typing import Final

#: How every frame begins that belongs to a layer: a pack's head after its length, a listing at once.
_HEAD: Final = re.compile(rb'.{0,4}\{"layer":"([0-9a-f]{64})"', re.DOTALL)
_ENOUGH: Final = 128


def layer_of(body: bytes | memoryview) -> str:
    """Name the layer that a frame with this body belongs to; "" if it is of none."""
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(body) as reader:
            found = _HEAD.match(reader.read(_ENOUGH))
    except zstandard.ZstdError:
        return ""
    return found[1].decode() if found is not None else ""


__all__ = ["layer_of"]
