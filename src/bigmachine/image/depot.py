"""Packs by way of a depot: a place that the driver and its hosts both reach, such as a bucket, and that keeps them.

Instead of a pack the driver then sends a *reference*, a frame that says where the pack is and what its hash is. Who
takes it in fetches the pack, and believes it only if the hash is right. Small frames go as they are. A pack that is not
to be had is the driver's business: it sends everything itself on the next attempt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from bigmachine.errors import ImageError, NetworkError
from bigmachine.image.packs import PACK_LIMIT, PIECE_KIND, frame, verify

#: The kind of a frame that refers to another one.
REFERENCE: Final = b"U"
#: Bytes below which a frame goes by itself: asking for it would take longer.
WORTHWHILE: Final = 64 << 10
#: Seconds without a byte.
_PATIENCE: Final = 20.0
#: A compressed pack may be a little larger than what is in it.
_MOST: Final = PACK_LIMIT + (1 << 20)


class Depot(Protocol):
    """Keeps what it is given under the hash of it."""

    def url(self, sha256: str, content: Callable[[], bytes]) -> str:
        """Give a URL from which hosts get that; "" if that cannot be. `content` is asked for if it is not there yet."""


def referred(frames: Iterable[bytes], depot: Depot) -> Iterator[bytes]:
    """Put packs into a depot, and give references to them in their place."""
    for each in frames:
        is_small = len(each) < WORTHWHILE or each[PIECE_KIND] == REFERENCE
        yield each if is_small else _reference(each, depot)


def _reference(data: bytes, depot: Depot) -> bytes:
    """Put a frame into a depot, and give a reference to it; or the frame itself, if that does not work."""
    sha256 = hashlib.sha256(data).hexdigest()
    url = depot.url(sha256, lambda: data)
    return frame(REFERENCE, json.dumps({"url": url, "sha256": sha256, "size": len(data)}).encode()) if url else data


def fetched(frames: Iterable[bytes]) -> Iterator[bytes]:
    """Give frames as they are, and what others refer to.

    Raises:
        NetworkError: if something is not to be had, or is something else: sent by the driver it will be right.
        ImageError: if a reference is none.
    """
    for each in frames:
        if each[PIECE_KIND] != REFERENCE:
            yield each
            continue
        _, body = verify(each, (REFERENCE,))
        told = json.loads(bytes(body))
        size = int(told["size"])
        content = _get(str(told["url"]), size)
        if len(content) != size or hashlib.sha256(content).hexdigest() != told["sha256"]:
            raise NetworkError("transfer: what came from the depot is not what was put there: somebody else changed it")
        yield content


def _get(url: str, size: int) -> bytes:
    import http.client
    import urllib.error
    import urllib.parse
    import urllib.request

    if not url.startswith(("https://", "http://")) or not 0 < size <= _MOST:
        raise ImageError("transfer: a reference to a depot is none")
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE) as answer:  # noqa: S310 (its scheme is looked at above)
            content: bytes = answer.read(size + 1)
            return content
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is an answer, too, with a connection
        # Not the whole URL: whoever has it may read what is there.
        host = urllib.parse.urlsplit(url).netloc
        raise NetworkError(f"transfer: the depot at {host} does not give a pack: {error}") from error


__all__ = ["REFERENCE", "WORTHWHILE", "Depot", "fetched", "referred"]
