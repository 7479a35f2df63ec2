"""A host's store of layers and images, under one directory that only its user can enter.

    v1/layers/<id>/         a layer's files, read-only, and <id>.json, what it consists of
    v1/layers/<id>.<x>.part what is arriving; renamed to <id> when it is whole, adopted by the next attempt if not
    v1/files/aa/<sha256>    contents of trees' files: a tree that was edited shares all the others
    v1/images/<digest>-<x>/ a virtual environment; x names the interpreter that it is for
    v1/images/*.early       the same, as `early` says: for the machines of one agent, while the rest arrives
    v1/images/*.lock        held (shared) by those who build it, and while machines live in it
    v1/images/*.wants       the layers that it will have, while it is being built

Nothing is ever changed in place: what is whole is renamed into its place, and whoever comes second removes his own. So
any number of processes may use the store at the same time. Only `offer` waits for another, for as long as files that
are lacking keep arriving there, within bounds: then they need not be sent twice.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from bigmachine.errors import ImageError
from bigmachine.frozen import frozen
from bigmachine.image import packs, plan
from bigmachine.image.manifest import Layer, Manifest
from bigmachine.image.scan.cache import cache_directory
from bigmachine.image.store import survivors
from bigmachine.image.store.assemble import MARK, Arriving, assemble
from bigmachine.image.store.collect import claim, collect, is_held, remove
from bigmachine.image.store.early_starts import EarlyStarts, is_soon
from bigmachine.image.store.holds import Holds, is_there, want
from bigmachine.image.store.stored import Stored, is_as_kept, listing_of
from bigmachine.image.store.unpack import Arrival

_UNPACKERS: Final = 2
_AHEAD: Final = 8
#: So many seconds an offer waits for what another process takes in, and for the next file of it. A driver gives an
#: offer 60 s.
_OTHERS: Final = 30.0
_OTHERS_PAUSE: Final = 5.0
_POLL: Final = 0.02
#: A directory that nothing can be put into, not even by its owner.
_CLOSED: Final = 0o555
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@frozen
class Built:
    """An image that is whole: its directory, its digest, and the bytes of files that were taken in for it."""

    root: str
    digest: str
    taken: int = 0


@frozen
class EarlyStart:
    """Who wants to know that programs may start before all of an image has come.

    `ready` is told where; `broken`, from a thread, where and why what is left does not come, so they have to end.
    """

    ready: Callable[[str], None]
    broken: Callable[[str], None]


class _Coming:
    """An image while it is taken in."""

    def __init__(self, manifest: Manifest, root: Path, python: str, early: EarlyStart | None) -> None:
        self.manifest = manifest
        self.root = root
        self.python = python
        self.early = early
        self.began = time.monotonic()
        self.known = {layer.id: layer for layer in manifest.layers}
        self.arrivals: dict[str, Arrival] = {}
        #: What the driver's program has loaded has come.
        self.has_first = False

    @property
    def taken(self) -> int:
        """Bytes of files so far."""
        return sum(arrival.taken for arrival in self.arrivals.values())

    def may_start_early(self) -> bool:
        """Whether it is time, and worth while, to let programs start."""
        if self.early is None or not self.has_first:
            return False
        taken = self.taken
        size = sum(arrival.layer.size for arrival in self.arrivals.values())
        return is_soon(taken, size - taken, time.monotonic() - self.began)


class Store:
    """The store at `root` (default: the user's cache directory). `cap`: bytes to keep; None: by the size of the disk.

    Raises:
        ImageError: if the directory cannot be used: another's, open to others, read-only, or one where nothing can be
            executed. The text says which.
    """

    def __init__(self, root: Path | None = None, cap: int | None = None) -> None:
        self.root = (root or cache_directory()) / "v1"
        self._cap = cap
        self._started = survivors.last_start()
        self._room_lock = threading.Lock()
        self._holds = Holds()
        self._early = EarlyStarts()
        try:
            self._prepare()
        except OSError as error:
            raise self._failed("store", error) from error

    def _prepare(self) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self.root.parent, self.root):
            found = directory.stat()
            if found.st_uid != os.geteuid():
                raise ImageError(f"store: {directory} belongs to another user (uid {found.st_uid}): choose another")
            if stat.S_IMODE(found.st_mode) & 0o022:
                raise ImageError(f"store: others may write to {directory}: chmod 700 it, or choose another")
        os.chmod(self.root, 0o700)
        for name in ("layers", "files", "images"):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)
        self._probe()

    def _probe(self) -> None:
        script = self.root / f"probe-{os.urandom(8).hex()}"
        os.close(os.open(script, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700))
        try:
            # Linux says no here where it would refuse to execute (access(2)).
            if not os.access(script, os.X_OK):
                raise ImageError(
                    f"store: nothing can be executed in {self.root}; is it mounted noexec? Choose another directory"
                )
        finally:
            script.unlink()

    # what is here

    def offer(self, head: bytes, python: str) -> plan.Wanted:
        """Say what is lacking of an image, to be run by the interpreter at `python`.

        Raises:
            ImageError: if the head is none.
        """
        manifest = plan.decode_head(head)
        root = self._image(manifest, python)
        try:
            self._holds.hold(root)
            is_built = self._is_built(manifest, root)
            self._check_trees(manifest)
            if is_built:
                return plan.Wanted(is_built=True, root=str(root))
            want(manifest, root)
        except OSError as error:
            raise self._failed("offer", error) from error
        self._wait_for_others([layer.id for layer in manifest.layers])
        lacking = [layer for layer in manifest.layers if not self._layer(layer.id).is_dir()]
        trees = [layer for layer in lacking if layer.kind == "tree"]
        contents = {file.sha256: file.size for layer in trees for file in layer.files if not file.link}
        return plan.Wanted(
            is_built=False,
            root=str(root),
            layers=tuple(layer.id for layer in lacking),
            here=frozenset(sha for sha, size in contents.items() if _is_kept(self._content(sha), size)),
            unlisted=tuple(layer.id for layer in trees if not layer.files) if self._has_contents() else (),
            arrived=frozenset(arrived for layer in lacking for arrived in self._arrived(layer.id)),
        )

    def _check_trees(self, manifest: Manifest) -> None:
        """See that nobody has written to the project's files since they were sealed; installed packages are trusted."""
        for layer in manifest.layers:
            listing = self._listing(layer.id)
            if layer.kind == "tree" and listing.is_file():
                try:
                    changed = Stored(layer, self._layer(layer.id), listing).changed()
                except ValueError:
                    changed = str(listing)
                if changed is not None:
                    raise ImageError(
                        f"offer: {changed} was changed or removed on the host since it came; files of an image are not "
                        f"to be written to. When nothing runs from it, remove {self.root} there and start again"
                    )

    def _is_built(self, manifest: Manifest, root: Path) -> bool:
        """Whether an image is here, after what may have been cut off when the host ended last has gone."""
        mark = root / MARK
        if not mark.is_file() or survivors.is_older(mark, self._started):
            survivors.look_through(self.root, root, [layer.id for layer in manifest.layers], self._started)
        return mark.is_file()

    def _has_contents(self) -> bool:
        with os.scandir(self.root / "files") as found:
            return any(found)

    def _wait_for_others(self, idents: Iterable[str]) -> None:
        """Wait while another process takes in what is lacking here, and something comes."""
        deadline = time.monotonic() + _OTHERS
        while time.monotonic() < deadline:
            idents = [ident for ident in idents if not self._layer(ident).is_dir()]
            if not any(_is_arriving(part) for ident in idents for part in self._parts_of(ident)):
                return
            time.sleep(_POLL)

    def _arrived(self, ident: str) -> Iterator[tuple[str, str]]:
        """Give the files of a layer that came in an earlier attempt, which ended."""
        for part in self._parts(ident):
            for path in _files_below(part):
                yield ident, path

    def _parts_of(self, ident: str) -> Iterator[Path]:
        return (self.root / "layers").glob(f"{ident}.*.part")

    def _parts(self, ident: str) -> list[Path]:
        """Give what came of a layer and has nobody any more."""
        left = [path for path in self._parts_of(ident) if not is_held(path)]
        for path in left:
            if survivors.is_older(path, self._started):
                remove(path)
        return [path for path in left if path.exists()]

    def _image(self, manifest: Manifest, python: str) -> Path:
        kind = hashlib.sha256(os.path.realpath(python).encode()).hexdigest()[:8]
        return self.root / "images" / f"{manifest.digest}-{kind}"

    def _layer(self, ident: str) -> Path:
        return self.root / "layers" / ident

    def _listing(self, ident: str) -> Path:
        return self.root / "layers" / f"{ident}.json"

    def _content(self, sha256: str) -> Path:
        return self.root / "files" / sha256[:2] / sha256

    # what arrives

    def receive(
        self,
        head: bytes,
        python: str,
        frames: Iterable[bytes],
        progress: Callable[[int], None] | None = None,
        early: EarlyStart | None = None,
    ) -> Built:
        """Take in the frames of what was lacking, and build the image. `progress` is told bytes of files so far.

        What is verified stays when this fails, and need not come again. `early` is told if programs may start before.

        Raises:
            ImageError: if something that came is wrong, or this host cannot keep it; the text names stage and file.
        """
        manifest = plan.decode_head(head)
        root = self._image(manifest, python)
        try:
            self._holds.hold(root)
            want(manifest, root)
            return self._receive(_Coming(manifest, root, python, early), frames, progress)
        except OSError as error:
            raise self._failed("unpack", error) from error

    def _receive(self, coming: _Coming, frames: Iterable[bytes], progress: Callable[[int], None] | None) -> Built:
        manifest, root, arrivals = coming.manifest, coming.root, coming.arrivals
        try:
            with ThreadPoolExecutor(_UNPACKERS, thread_name_prefix="bigmachine-unpack") as workers:
                self._take_in(coming, frames, workers, progress)
            taken = coming.taken
            for layer in manifest.layers:
                if not self._layer(layer.id).is_dir():
                    self._with_room(partial(self._seal, layer, arrivals))
        finally:
            for ident, arrival in arrivals.items():
                arrival.close()
                if self._layer(ident).is_dir():  # another was faster
                    remove(arrival.directory)
        self._early.complete(root, {layer.id: self._layer(layer.id) for layer in manifest.layers})
        if not (root / MARK).is_file():
            self._with_room(partial(self._build, manifest, root, coming.python))
        is_there(root)
        self.collect()
        return Built(str(root), manifest.digest, taken)

    def _take_in(
        self,
        coming: _Coming,
        frames: Iterable[bytes],
        workers: ThreadPoolExecutor,
        progress: Callable[[int], None] | None,
    ) -> None:
        waiting: list[Future[None]] = []
        for data in frames:
            kind, body = packs.verify(data)
            if kind == packs.LISTING:
                self._listed(coming, body)
            elif kind == packs.FIRST:
                while waiting:
                    waiting.pop(0).result()
                coming.has_first = True
            else:
                waiting.append(workers.submit(self._unpack, coming.arrivals, kind, body))
            while waiting and (waiting[0].done() or len(waiting) > _AHEAD):
                waiting.pop(0).result()
            if coming.may_start_early():
                while waiting:
                    waiting.pop(0).result()
                self._begin_early(coming)
            if progress is not None:
                progress(coming.taken)
        for work in waiting:
            work.result()

    def _begin_early(self, coming: _Coming) -> None:
        """Let programs start with what has come, if that can be."""
        start = coming.early
        coming.early = None  # whether they can is found out once
        if start is None:
            return
        layers = [
            Stored(layer, self._layer(layer.id), self._listing(layer.id))
            if self._layer(layer.id).is_dir()
            else Arriving(coming.arrivals[layer.id].layer, coming.arrivals[layer.id].directory, self._content)
            for layer in coming.manifest.layers
            if self._layer(layer.id).is_dir() or layer.id in coming.arrivals
        ]
        if len(layers) < len(coming.manifest.layers):
            return
        root = self._early.begin(coming.manifest, coming.root, coming.python, layers, coming.arrivals, start.broken)
        if root is not None:
            start.ready(str(root))

    def _listed(self, coming: _Coming, body: memoryview) -> None:
        known, arrivals = coming.known, coming.arrivals
        try:
            told = plan.unpack(body)
            ident, listed = told["layer"], plan.files(told["files"])
        except (KeyError, TypeError, ValueError) as error:
            raise ImageError(f"listing: a layer's listing cannot be read: {error}") from error
        if ident not in known:
            raise ImageError(f"listing: layer {str(ident)[:12]} is no part of the image that was offered")
        plan.check_listing(ident, listed, has_schemes=known[ident].kind != "tree")
        if ident not in arrivals and not self._layer(ident).is_dir():
            arrivals[ident] = self._open(replace(known[ident], files=listed))
            arrivals[ident].early = self._early.of(coming.root)

    def _open(self, layer: Layer) -> Arrival:
        """Begin to take in a layer, with what came of it before."""
        directory = self.root / "layers" / f"{layer.id}.{os.getpid()}-{os.urandom(4).hex()}.part"
        for part in self._parts_of(layer.id):
            claimed = claim(part)
            if claimed is None:
                continue
            try:
                os.rename(part, directory)
            except OSError:  # it was put in its place just before
                os.close(claimed)
                continue
            return Arrival(layer, directory, self._content, claimed)
        while True:
            directory.mkdir(mode=0o700, exist_ok=True)
            claimed = claim(directory)
            if claimed is not None:
                return Arrival(layer, directory, self._content, claimed)
            # Another looked through what was left half done, at that very moment.
            time.sleep(_POLL)

    def _unpack(self, arrivals: dict[str, Arrival], kind: bytes, body: memoryview) -> None:
        head, content = packs.open_pack(body)
        arrival = arrivals.get(str(head.get("layer")))
        if arrival is None:  # a layer that is here by now, or one that was not listed: that is found out at the end
            return
        self._with_room(partial(arrival.pack if kind == packs.PACK else arrival.bytecode, head, content))

    def _with_room(self, step: Callable[[], None]) -> None:
        """Do what can be done twice; if the disk is full, once more after all that nobody is in has gone."""
        try:
            step()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            with self._room_lock, contextlib.suppress(OSError):  # another thread may be at it
                collect(self.root, 0, time.time())
            step()

    def _seal(self, layer: Layer, arrivals: dict[str, Arrival]) -> None:
        arrival = arrivals.get(layer.id)
        if arrival is None:
            if layer.kind == "tree" and layer.files:
                arrival = arrivals[layer.id] = self._open(layer)  # nothing of it had to come
            else:
                raise ImageError(f"unpack: nothing came of {layer.name} {layer.version} (layer {layer.id[:12]})")
        arrival.complete()
        listing = self._listing(layer.id)
        aside = listing.with_suffix(f".{os.urandom(4).hex()}")
        aside.write_text(listing_of(arrival.layer), "utf-8")
        os.rename(aside, listing)
        try:
            os.rename(arrival.directory, self._layer(layer.id))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            remove(arrival.directory)
        else:
            os.chmod(self._layer(layer.id), _CLOSED)

    def _build(self, manifest: Manifest, root: Path, python: str) -> None:
        part = root.with_name(f"{root.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
        try:
            stored = [Stored(layer, self._layer(layer.id), self._listing(layer.id)) for layer in manifest.layers]
            assemble(manifest, stored, part, root, python, self._latest(root))
            try:
                os.rename(part, root)
            except OSError:
                if not (root / MARK).is_file():
                    raise
            else:
                os.chmod(root, _CLOSED)
        finally:
            remove(part)

    def _latest(self, root: Path) -> Path | None:
        """Give the image, for the interpreter that `root` is for, that was used last."""
        ages = []
        for lock in root.parent.glob(f"*-{root.name.rpartition('-')[2]}.lock"):
            with contextlib.suppress(OSError):
                if (lock.with_suffix("") / MARK).is_file():
                    ages.append((lock.stat().st_mtime_ns, lock.with_suffix("")))
        return max(ages, default=(0, None))[1]

    # what may go

    def collect(self) -> None:
        """Remove what is above the cap: images nobody is in, the longest unused first, and layers that none has."""
        with contextlib.suppress(OSError):  # it is done again next time
            collect(self.root, self._cap, time.time())

    def close(self) -> None:
        """Let go of the images that were held; nobody may be in one any more that started before it was whole."""
        self._early.close()
        self._holds.close()

    def _failed(self, stage: str, error: OSError) -> ImageError:
        where = error.filename or self.root
        if error.errno in _FULL:
            return ImageError(
                f"{stage}: the disk is full ({where}): make room below {self.root}, or choose another disk"
            )
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return ImageError(f"{stage}: {where} cannot be written ({error.strerror}): choose another directory")
        return ImageError(f"{stage}: {where}: {error.strerror or error}")


def _is_kept(path: Path, size: int) -> bool:
    try:
        return is_as_kept(path.stat(), size)
    except OSError:
        return False


def _is_arriving(part: Path) -> bool:
    """Whether another process takes it in, and something came of late: each file changes the directory."""
    try:
        return is_held(part) and time.time() - part.stat().st_mtime < _OTHERS_PAUSE
    except OSError:
        return False  # it is whole by now


def _files_below(directory: Path) -> Iterator[str]:
    for folder, _, names in os.walk(directory):
        inside = os.path.relpath(folder, directory)
        for name in names:
            if not name.startswith(Arrival.INCOMPLETE):
                yield name if inside == "." else f"{inside}/{name}"


__all__ = ["Built", "EarlyStart", "Store"]
