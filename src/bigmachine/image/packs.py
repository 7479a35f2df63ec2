"""An image on its way: frames of a few megabytes, each compressed, named by its own hash, and complete in itself.

    listing   what a layer consists of; comes before anything of it
    pack      consecutive files of one layer, or a piece of a large one
    bytecode  what the driver has compiled of a layer's modules
    first     everything that the driver's program has loaded itself has come

Reading and compressing run ahead of the network by a bounded amount. What the driver's program has loaded comes first
in images that take long. A frame can be verified, stored and passed on by whoever has it, in any order after its
layer's listing, and twice.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import deque
from collections.abc import Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from bigmachine.errors import ImageError
from bigmachine.frozen import frozen
from bigmachine.image.plan import inflate, pack, rows
from bigmachine.image.store.stored import is_entry_points

if TYPE_CHECKING:
    from bigmachine.image.manifest import File, Layer
    from bigmachine.image.pack_cache import PackCache
    from bigmachine.image.plan import Wanted
    from bigmachine.image.scan.scanned import Scan

MAGIC: Final = b"BMF1"
LISTING, PACK, BYTECODE, FIRST = b"L", b"P", b"B", b"F"
#: Bytes of files in a pack.
PACK_SIZE: Final = 4 << 20
#: The same, where hosts pass packs on to each other.
SMALL_PACK_SIZE: Final = 512 << 10
#: What a pack may unpack to: its files, and a head that names them.
PACK_LIMIT: Final = PACK_SIZE + (16 << 20)
#: Images above this size are sent with what is loaded first.
_LARGE_IMAGE: Final = 100 << 20
#: zstd's level: 266 MB/s a core and a quarter of the size, where a higher one sends 10 % less in thrice the time.
_LEVEL: Final = 3
_WORKERS: Final = 2
_AHEAD: Final = 6
_HEAD: Final = struct.Struct(">4sc32s")
_SIZE: Final = struct.Struct(">I")
#: Where a frame says its kind.
PIECE_KIND: Final = slice(4, 5)

#: A piece of a pack: the file's number in its layer, where it begins in the file, and its length.
Part = tuple[int, int, int]


class Edited(ImageError):
    """Files of the program are not what they were when it was scanned; `paths` names them. Scanning again helps."""

    def __init__(self, message: str, paths: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.paths = paths


def frame(kind: bytes, body: bytes) -> bytes:
    """Make a frame."""
    return _HEAD.pack(MAGIC, kind, hashlib.sha256(body).digest()) + body


def verify(data: bytes, kinds: Container[bytes] = (LISTING, PACK, BYTECODE, FIRST)) -> tuple[bytes, memoryview]:
    """See that a frame is what it says, and one of `kinds`; give its kind and its body.

    Raises:
        ImageError: if it is not.
    """
    if len(data) < _HEAD.size:
        raise ImageError(f"transfer: a frame of {len(data)} bytes is none")
    magic, kind, digest = _HEAD.unpack_from(data)
    body = memoryview(data)[_HEAD.size :]
    if magic != MAGIC or kind not in kinds:
        raise ImageError("transfer: what came is no part of an image: are both sides of one version?")
    if hashlib.sha256(body).digest() != digest:
        raise ImageError(f"transfer: a frame of {len(data):,} bytes was damaged on its way")
    return kind, body


def open_pack(body: bytes | memoryview) -> tuple[dict[str, Any], memoryview]:
    """Unpack a pack: its head, and the bytes of its files.

    Raises:
        ImageError: if it is none, or unpacks to too much.
    """
    try:
        content = memoryview(inflate(body, PACK_LIMIT))
        (size,) = _SIZE.unpack_from(content)
        head = json.loads(bytes(content[_SIZE.size : _SIZE.size + size]))
        if not isinstance(head, dict):
            raise ValueError("its head is none")  # noqa: TRY004 (bad bytes, not a bad argument)
    except (ValueError, RecursionError, struct.error) as error:
        raise ImageError(f"unpack: a pack cannot be read: {error}") from error
    return head, content[_SIZE.size + size :]


def close_pack(head: dict[str, Any], *contents: bytes) -> bytes:
    """Make a pack's body."""
    import zstandard

    said = json.dumps(head, separators=(",", ":")).encode()
    return zstandard.ZstdCompressor(level=_LEVEL).compress(b"".join((_SIZE.pack(len(said)), said, *contents)))


def frames(scan: Scan, wanted: Wanted, cache: PackCache, size: int = PACK_SIZE) -> Iterator[bytes]:
    """Give the frames that a host needs, reading and compressing in the background.

    `size` is the bytes of files in a pack: each host of a line waits for a whole pack before it passes it on.

    Raises:
        Edited: if a file is not what it was when the program was scanned.
    """
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="bigmachine-packs") as workers:
        waiting: deque[Future[bytes]] = deque()
        try:
            for work in _Sender(scan, wanted, cache, size).work(workers):
                waiting.append(work)
                while len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for work in waiting:
                work.cancel()
    cache.tidy()


@frozen
class _Item:
    """A file that is to be sent."""

    layer: Layer
    at: int
    file: File


class _Sender:
    def __init__(self, scan: Scan, wanted: Wanted, cache: PackCache, size: int) -> None:
        self._scan = scan
        self._size = size
        self._wanted = wanted
        self._cache = cache
        lacking = set(wanted.layers)
        self._layers = [layer for layer in scan.manifest.layers if layer.id in lacking]

    def work(self, workers: ThreadPoolExecutor) -> Iterator[Future[bytes]]:
        """Give what is to be sent, in order, each as it is being made."""
        for layer in self._layers:
            body = pack({"layer": layer.id, "name": layer.name, "version": layer.version, "files": rows(layer.files)})
            yield workers.submit(frame, LISTING, body)
        items = self._items()
        if sum(item.file.size for item in items) >= _LARGE_IMAGE:
            first, items = self._split(items)
            yield from self._packs(workers, first)
            yield from self._bytecode(workers)
            yield workers.submit(frame, FIRST, b"")  # also where all of that is there already
            yield from self._packs(workers, items)
        else:
            yield from self._packs(workers, items)
            yield from self._bytecode(workers)

    def _items(self) -> list[_Item]:
        arrived, here = self._wanted.arrived, self._wanted.here
        return [
            _Item(layer, at, file)
            for layer in self._layers
            for at, file in enumerate(layer.files)
            if file.size and not file.link and (layer.id, file.path) not in arrived
            if layer.kind != "tree" or file.sha256 not in here
        ]

    def _split(self, items: list[_Item]) -> tuple[list[_Item], list[_Item]]:
        """Tell what is needed first from what is not."""
        loaded = self._scan.first
        chosen = [(item.layer.id, item.file.path) in loaded or _is_read_at_once(item) for item in items]
        first = [item for item, is_first in zip(items, chosen, strict=True) if is_first]
        return first, [item for item, is_first in zip(items, chosen, strict=True) if not is_first]

    def _packs(self, workers: ThreadPoolExecutor, items: list[_Item]) -> Iterator[Future[bytes]]:
        together: list[_Item] = []
        size = 0
        for item in items:
            if together and (item.layer is not together[0].layer or size + item.file.size > self._size):
                yield self._small(workers, together)
                together, size = [], 0
            if item.file.size > self._size:
                yield from self._large(workers, item)
            else:
                together.append(item)
                size += item.file.size
        if together:
            yield self._small(workers, together)

    def _small(self, workers: ThreadPoolExecutor, items: list[_Item]) -> Future[bytes]:
        layer = items[0].layer
        parts: list[Part] = [(item.at, 0, item.file.size) for item in items]
        key = _key("pack", layer.id, parts)

        def make() -> bytes:
            body = self._cache.get(key)
            if body is None:
                contents = [self._read(layer, item.file) for item in items]
                body = close_pack({"layer": layer.id, "parts": parts}, *contents)
                self._cache.put(key, body)
            return frame(PACK, body)

        return workers.submit(make)

    def _large(self, workers: ThreadPoolExecutor, item: _Item) -> Iterator[Future[bytes]]:
        """Send a file piece by piece, without ever holding all of it."""
        layer, file = item.layer, item.file
        pieces: list[Part] = [
            (item.at, offset, min(self._size, file.size - offset)) for offset in range(0, file.size, self._size)
        ]
        if all(self._cache.has(_key("pack", layer.id, [piece])) for piece in pieces):
            for piece in pieces:
                yield workers.submit(self._kept_piece, item, piece)
            return
        digest = hashlib.sha256()
        try:
            with open(self._scan.sources.path(layer.id, file.path), "rb") as opened:
                for piece in pieces:
                    content = opened.read(piece[2])
                    digest.update(content)
                    if piece is pieces[-1] and (opened.read(1) or digest.hexdigest() != file.sha256):
                        raise self._edited(layer, file)
                    yield workers.submit(self._piece, layer, piece, content)
        except OSError as error:
            raise self._edited(layer, file) from error

    def _kept_piece(self, item: _Item, piece: Part) -> bytes:
        body = self._cache.get(_key("pack", item.layer.id, [piece]))
        if body is not None:
            return frame(PACK, body)
        # It went just now, or was damaged. The host sees by the whole file's hash that this fits to the others.
        try:
            with open(self._scan.sources.path(item.layer.id, item.file.path), "rb") as opened:
                opened.seek(piece[1])
                return self._piece(item.layer, piece, opened.read(piece[2]))
        except OSError as error:
            raise self._edited(item.layer, item.file) from error

    def _piece(self, layer: Layer, piece: Part, content: bytes) -> bytes:
        body = close_pack({"layer": layer.id, "parts": [piece]}, content)
        self._cache.put(_key("pack", layer.id, [piece]), body)
        return frame(PACK, body)

    def _read(self, layer: Layer, file: File) -> bytes:
        try:
            return self._scan.sources.read(layer.id, file)
        except ImageError as error:
            raise self._edited(layer, file) from error

    def _edited(self, layer: Layer, file: File) -> Edited:
        path = self._scan.sources.path(layer.id, file.path)
        return Edited(f"send: {path} was changed or removed since the program was scanned", (path,))

    def _bytecode(self, workers: ThreadPoolExecutor) -> Iterator[Future[bytes]]:
        # What is loaded is only asked for where it matters: to find that out takes longer than to send an edited file.
        for layer in [each for each in self._layers if each.kind != "tree"]:
            loaded = self._scan.first
            modules = [file for file in layer.files if (layer.id, file.path) in loaded and file.path.endswith(".py")]
            for group in _groups(modules):
                yield workers.submit(self._compiled, layer, group)

    def _compiled(self, layer: Layer, modules: list[File]) -> bytes:
        from importlib.util import cache_from_source

        named = [cache_from_source(module.path) for module in modules]
        key = _key("bytecode", layer.id, named)
        body = self._cache.get(key)
        if body is None:
            parts, content = [], []
            for module, name in zip(modules, named, strict=True):
                code = self._scan.bytecode(layer, module)
                if code is not None:
                    parts.append((name, len(code)))
                    content.append(code)
            body = close_pack({"layer": layer.id, "modules": parts}, *content)
            self._cache.put(key, body)
        return frame(BYTECODE, body)


def _is_read_at_once(item: _Item) -> bool:
    """Whether a file has to be there before a program starts: scripts are made of it, or every interpreter reads it."""
    path = item.file.path
    is_pth = path.startswith("site/") and path.endswith(".pth") and path.count("/") == 1
    return item.layer.kind != "tree" and (is_pth or path.startswith("bin/") or is_entry_points(path))


def _groups(modules: list[File]) -> Iterator[list[File]]:
    """Give modules in groups whose byte code fits into a pack; it is about as large as the source."""
    group: list[File] = []
    size = 0
    for module in modules:
        if group and size + module.size > PACK_SIZE // 2:
            yield group
            group, size = [], 0
        group.append(module)
        size += module.size
    if group:
        yield group


def _key(kind: str, ident: str, parts: object) -> str:
    return hashlib.sha256(f"{kind} {_LEVEL} {ident} {json.dumps(parts)}".encode()).hexdigest()


__all__ = [
    "BYTECODE",
    "FIRST",
    "LISTING",
    "PACK",
    "PACK_SIZE",
    "SMALL_PACK_SIZE",
    "Edited",
    "close_pack",
    "frame",
    "frames",
    "open_pack",
    "verify",
]
