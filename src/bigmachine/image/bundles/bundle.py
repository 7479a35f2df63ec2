"""A bundle: what a bare host needs before it can take an image in, as one compressed tar file with a name of its own.

There are two: the driver's interpreter (`runtime`) and the agent's program (`kit`). The id is a layer's, a hash of what
is in it, so it is the same in every session and a host keeps it under that id. Byte code comes along but is not part of
the id, as in an image: it follows from the rest.

The codec is gzip, since stage 0 has nothing better on an old Python, and a host's own tar(1) reads it, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import io
import json
import os
import re
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from bigmachine.errors import ImageError
from bigmachine.frozen import frozen
from bigmachine.image.manifest import File, layer_id

Folder = Literal["interpreters", "kits"]

#: Beyond 3, two thirds of a second more save 3 % of an interpreter.
_LEVEL: Final = 4
#: So many bundles stay on the driver's disk; each change to a package makes another one.
_KEPT: Final = 8
#: Packing takes seconds; for so long one waits for another to do it, looking so often.
_PATIENCE: Final = 60.0
_STEP: Final = 0.05
_FORMAT: Final = 2
_GLIBC: Final = re.compile(rb"GLIBC_(\d+)\.(\d+)")


@frozen
class Part:
    """One file of a bundle: its content, or the target of a symbolic link. `derived`: it follows from the others."""

    path: str
    content: bytes = b""
    executable: bool = False
    link: str = ""
    derived: bool = False


@frozen
class Bundle:
    """A bundle on the driver's disk. `libc` is the oldest glibc that its compiled files run with, (0, 0) if any does.

    `size` and `sha256` are those of the compressed file at `path`, `unpacked` the bytes of its members. `again` packs
    it anew.
    """

    folder: Folder
    id: str
    path: Path
    sha256: str
    size: int
    unpacked: int
    libc: tuple[int, int]
    again: Callable[[], Bundle] = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """The place in a host's cache."""
        return f"{self.folder}/{self.id}"

    def whole(self) -> Bundle:
        """Give it as it was packed: packed anew if the file is damaged, which else every host would refuse.

        Raises:
            ImageError: if it cannot be written.
        """
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == self.sha256:
                return self
        self.path.unlink(missing_ok=True)
        return self.again()


def default_cache() -> Path:
    """Return the folder where the driver keeps what it has packed."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base, "bigmachine")


def kept_bundle(folder: Folder, key: str, cache: Path, build: Callable[[], Iterable[Part]]) -> Bundle:
    """Give the bundle that `build` makes, from the cache if it was made before for an equal `key`.

    Raises:
        ImageError: if it cannot be written.
    """
    name = hashlib.sha256(f"{_FORMAT}\0{key}".encode()).hexdigest()[:32]
    place = cache / "bundles"
    again = partial(kept_bundle, folder, key, cache, build)
    kept = _kept(folder, place / name, again)
    if kept is not None:
        return kept
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(place / f".{name}.lock"):
            kept = _kept(folder, place / name, again)  # by whoever had the lock before
            if kept is None:
                facts = _write(list(build()), place / f"{name}.tar.gz")
                _replace(place / f"{name}.json", json.dumps(facts).encode())
                _forget_old(place)
                kept = _read(facts, folder, place / f"{name}.tar.gz", again)
            return kept
    except OSError as error:
        raise ImageError(f"packing the {folder.removesuffix('s')} for bare hosts failed: {error}") from error


def _kept(folder: Folder, stem: Path, again: Callable[[], Bundle]) -> Bundle | None:
    about, path = stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}.tar.gz")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        facts = json.loads(about.read_text())
        if path.stat().st_size == facts["size"]:
            os.utime(path)  # it is in use
            return _read(facts, folder, path, again)
    return None


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let others who pack the same wait, in this process or another, so that eight hosts do not pack it eight times."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:  # afterwards it is packed twice, which does no harm
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_STEP)
        yield
        lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _forget_old(place: Path) -> None:
    """Remove all but the latest bundles."""
    by_age = sorted(place.glob("*.tar.gz"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in by_age[_KEPT:]:
        path.unlink(missing_ok=True)
        path.with_name(path.name.replace(".tar.gz", ".json")).unlink(missing_ok=True)


def _read(facts: dict[str, Any], folder: Folder, path: Path, again: Callable[[], Bundle]) -> Bundle:
    major, minor = facts["libc"]
    return Bundle(folder, facts["id"], path, facts["sha256"], facts["size"], facts["unpacked"], (major, minor), again)


def _write(parts: list[Part], path: Path) -> dict[str, Any]:
    buffer = io.BytesIO()
    with (
        gzip.GzipFile("", "wb", _LEVEL, buffer, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for part in sorted(parts, key=lambda part: part.path):
            _add(tar, part)
    data = buffer.getvalue()
    _replace(path, data)
    files = [
        File(part.path, hashlib.sha256(part.content).hexdigest(), len(part.content), part.executable, part.link)
        for part in parts
        if not part.derived
    ]
    return {
        "id": layer_id(files),
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "unpacked": sum(len(part.content) for part in parts),
        "libc": max((needed_glibc(part.content) for part in parts), default=(0, 0)),
    }


def _add(tar: tarfile.TarFile, part: Part) -> None:
    member = tarfile.TarInfo(part.path)
    member.mode = 0o700 if part.executable else 0o600
    if part.link:
        member.type, member.linkname = tarfile.SYMTYPE, part.link
        tar.addfile(member)
    else:
        member.size = len(part.content)
        tar.addfile(member, io.BytesIO(part.content))


def _replace(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def needed_glibc(content: bytes) -> tuple[int, int]:
    """Return the newest version of glibc that an ELF file asks for, as its table of symbol versions names them."""
    if not content.startswith(b"\x7fELF"):
        return (0, 0)
    found = ((int(major), int(minor)) for major, minor in _GLIBC.findall(content))
    return max(found, default=(0, 0))


__all__ = ["Bundle", "Folder", "Part", "default_cache", "kept_bundle", "needed_glibc"]
