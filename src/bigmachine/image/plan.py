"""What a driver and a host say to each other before an image is sent: what it consists of, and what is lacking. Pure.

One round trip of names. The driver sends the manifest without the files of its layers, but with those of small trees,
which are what changes between two starts; the host answers with the layers that it lacks and, for trees, with the
contents. Large trees are listed in a second round trip, and only if they have changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from bigmachine.errors import ImageError
from bigmachine.frozen import frozen
from bigmachine.image.manifest import File, Manifest, layer_id

#: Trees with up to so many files are listed at once.
SMALL: Final = 150
#: What one message may unpack to, and how many files a layer may have: a mistaken peer must not fill the memory.
LIMIT: Final = 256 << 20
MOST_FILES: Final = 2_000_000
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_VERSION: Final = re.compile(r"\d+\.\d+[\w.+]*")


@frozen
class Wanted:
    """What a host lacks of an image.

    `root` is where the image is, or will be. `layers` are the ids of those that are lacking. Of lacking trees, `here`
    are the contents (sha256) that the host has, and `unlisted` the ids of those whose files it was not told, though it
    may have some. `arrived` are files, as (layer, path), that came in an earlier attempt.
    """

    is_built: bool
    root: str
    layers: tuple[str, ...] = ()
    here: frozenset[str] = frozenset()
    unlisted: tuple[str, ...] = ()
    arrived: frozenset[tuple[str, str]] = frozenset()


def encode_head(manifest: Manifest, listed: Iterable[str] = ()) -> bytes:
    """Write what an image consists of; `listed` are ids of trees whose files are wanted in spite of their number."""
    wanted = set(listed)
    trees = {
        layer.id: rows(layer.files)
        for layer in manifest.layers
        if layer.kind == "tree" and (len(layer.files) <= SMALL or layer.id in wanted)
    }
    return pack({"manifest": manifest.head(), "trees": trees})


def decode_head(data: bytes) -> Manifest:
    """Read what `encode_head` wrote; layers that were not listed have no files.

    Raises:
        ImageError: if it is none, or a tree's files are not those that its id names.
    """
    try:
        told = unpack(data)
        manifest = Manifest.from_head(told["manifest"])
        trees = {ident: files(listed) for ident, listed in told["trees"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ImageError(f"offer: this is no image's head: {error}") from error
    if not _VERSION.fullmatch(manifest.platform.python):
        raise ImageError(f"offer: {manifest.platform.python!r} is no version of Python")
    for layer in manifest.layers:
        if not _HASH.fullmatch(layer.id):
            raise ImageError(f"offer: {layer.id!r} is no layer's name")
        if layer.mount or layer.kind == "tree":
            check_path(layer.mount)
    for ident, listed in trees.items():
        check_listing(ident, listed, has_schemes=False)
    return replace(manifest, layers=tuple(replace(layer, files=trees.get(layer.id, ())) for layer in manifest.layers))


def rows(listed: Iterable[File]) -> list[list[Any]]:
    """Write files as JSON."""
    return [[file.path, file.sha256, file.size, int(file.executable), file.link] for file in listed]


def files(listed: Iterable[Any]) -> tuple[File, ...]:
    """Read what `rows` wrote.

    Raises:
        ValueError: if it is none.
    """
    found = []
    for path, sha256, size, executable, link in listed:
        if not (isinstance(path, str) and isinstance(sha256, str) and isinstance(size, int) and isinstance(link, str)):
            raise ValueError("a file is not described by its path, hash, size and link")  # noqa: TRY004 (bad bytes)
        found.append(File(path, sha256, size, bool(executable), link))
        if len(found) > MOST_FILES:
            raise ValueError(f"there are more than {MOST_FILES:,} files")
    return tuple(found)


def check_listing(ident: str, listed: Iterable[File], *, has_schemes: bool) -> None:
    """See that a layer's files are what its id says, and lie inside of it.

    `has_schemes`: its paths begin with the place they go to (`site/`, `data/`, `bin/`), which links may not leave.

    Raises:
        ImageError: if not; the file is named.
    """
    listed = tuple(listed)
    try:
        is_named = layer_id(listed) == ident
    except UnicodeEncodeError as error:
        raise ImageError(f"listing: {error.object!r} cannot be a file's name") from error
    if not is_named:
        raise ImageError(f"listing: the files of layer {ident[:12]} are not those that its name is made of")
    paths = {file.path for file in listed}
    folders: set[str] = set()
    for file in listed:
        check_path(file.path, file.link, int(has_schemes))
        if file.size < 0 or not (file.link or _HASH.fullmatch(file.sha256)):
            raise ImageError(f"listing: {file.path!r} has a size of {file.size} and the hash {file.sha256!r}")
        folder = file.path.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    if len(paths) != len(listed) or not folders.isdisjoint(paths):
        twice = min(folders & paths, default="a file")
        raise ImageError(f"listing: {twice!r} is there twice, or is a file and a folder")


def check_path(path: str, link: str = "", depth: int = 0) -> None:
    """See that a path, and where it leads if it is a link, stay inside; a link so many folders deep at least.

    A link goes up at its beginning only: `..` after the name of another link would lead from wherever that one leads.

    Raises:
        ImageError: if not.
    """
    parts = path.split("/")
    if not path or path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ImageError(f"listing: the path {path!r} does not lie inside its layer")
    if not link:
        return
    steps = link.split("/")
    up = next((at for at, step in enumerate(steps) if step != ".."), len(steps))
    if link.startswith("/") or "\0" in link or ".." in steps[up:] or len(parts) - 1 - up < depth:
        raise ImageError(f"listing: the link {path!r} leads out of its layer, to {link!r}")


def pack(value: Any) -> bytes:
    """Write JSON, compressed."""
    import zstandard

    return zstandard.compress(json.dumps(value, separators=(",", ":")).encode("utf-8", "surrogatepass"), 3)


def unpack(data: bytes | memoryview) -> Any:
    """Read what `pack` wrote.

    Raises:
        ValueError: if it is none, or too much.
    """
    try:
        return json.loads(inflate(data, LIMIT).decode("utf-8", "surrogatepass"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def inflate(data: bytes | memoryview, limit: int) -> bytes:
    """Decompress to at most `limit` bytes.

    Raises:
        ValueError: if it would be more, or is not compressed.
    """
    import zstandard

    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= limit:
            raise ValueError(f"it unpacks to {size:,} bytes, and {limit:,} are allowed")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=limit)
    except zstandard.ZstdError as error:
        raise ValueError(f"it cannot be decompressed: {error}") from error


__all__ = [
    "LIMIT",
    "SMALL",
    "Wanted",
    "check_listing",
    "check_path",
    "decode_head",
    "encode_head",
    "files",
    "inflate",
    "pack",
    "rows",
    "unpack",
]
