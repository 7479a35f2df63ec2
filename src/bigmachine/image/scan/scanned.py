"""What a scan gives: the manifest, where each file is on the driver, and where the driver's files are in the image."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import bigmachine
from bigmachine.errors import ImageError
from bigmachine.image.bytecode import unchecked
from bigmachine.image.manifest import File, Layer, Manifest
from bigmachine.image.scan.loaded import loaded_files
from bigmachine.image.scan.placed import Placed


class FileState(NamedTuple):
    """What a sender compares before and after it reads: size in bytes and modification time in ns."""

    size: int
    modified_ns: int


class Sources:
    """The driver's files of an image's layers."""

    def __init__(self, placed: Sequence[Placed]) -> None:
        self._placed = {each.layer.id: each for each in placed}
        self._paths: dict[str, dict[str, str]] = {}

    def path(self, layer_id: str, path: str) -> str:
        """Return where a layer's file is on the driver (absolute).

        Raises:
            KeyError: There is no such layer or file.
        """
        known = self._paths.get(layer_id)
        if known is None:
            placed = self._placed[layer_id]
            known = {file.path: source for file, source in zip(placed.layer.files, placed.sources, strict=True)}
            self._paths[layer_id] = known
        return known[path]

    def state(self, layer_id: str, path: str) -> FileState:
        """Return a file's size and modification time as they are now.

        Raises:
            OSError: It is not there any more.
        """
        found = os.stat(self.path(layer_id, path))
        return FileState(found.st_size, found.st_mtime_ns)

    def read(self, layer_id: str, file: File) -> bytes:
        """Return a file's content, which is what the manifest says.

        Raises:
            ImageError: It was changed or removed since the scan, or cannot be read. Scanning again, with its path
                among the `distrusted`, finds what it is now.
        """
        source = self.path(layer_id, file.path)
        try:
            with open(source, "rb") as opened:
                content = opened.read()
        except OSError as error:
            raise ImageError(
                f"send: {source} cannot be read any more ({error.strerror}): keep the program's files while it starts"
            ) from error
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise ImageError(f"send: {source} was changed since the scan: start again")
        return content


class Scan:
    """The running program as an image. Made by `bigmachine.image.scan.scan.scan`."""

    def __init__(
        self,
        manifest: Manifest,
        placed: Sequence[Placed],
        places: Mapping[str, str],
        cache_dir: Path | None,
        scripts: Mapping[str, str],
    ) -> None:
        self.manifest = manifest
        self.sources = Sources(placed)
        self._placed = tuple(placed)
        self._places = places
        self._cache_dir = cache_dir
        self._scripts = scripts

    def relocate(self, path: str) -> str | None:
        """Return where a file or folder of the driver (absolute) is in the image, relative to its root, or None."""
        return self._relocated(os.path.normpath(path)) or self._relocated(os.path.realpath(path))

    def _relocated(self, path: str) -> str | None:
        # The trees first: they are small, and mostly it is they that are asked for.
        return (
            self._places.get(path) or self._in_trees.get(path) or self._scripts.get(path) or self._in_layers.get(path)
        )

    @property
    def site(self) -> str:
        """Where the image's site-packages is, relative to its root."""
        return f"lib/python{self.manifest.platform.minor}/site-packages"

    def place_of(self, layer: Layer, file: File) -> str:
        """Return where a layer's file is in the image, relative to its root."""
        if layer.mount:
            return f"{layer.mount}/{file.path}"
        scheme, _, rest = file.path.partition("/")
        return {"site": f"{self.site}/{rest}", "bin": f"bin/{rest}"}.get(scheme, rest)

    @cached_property
    def _in_trees(self) -> dict[str, str]:
        return self._map(each for each in self._placed if each.layer.mount)

    @cached_property
    def _in_layers(self) -> dict[str, str]:
        return self._map(each for each in self._placed if not each.layer.mount)

    def _map(self, placed: Iterable[Placed]) -> dict[str, str]:
        """Say where in the image the files of layers are, and the folders that are named there as they are here."""
        found: dict[str, str] = {}
        for each in placed:
            for file, source in zip(each.layer.files, each.sources, strict=True):
                found.setdefault(source, self.place_of(each.layer, file))
        for source, place in list(found.items()):
            folder, inside = posixpath.split(source)[0], posixpath.split(place)[0]
            while inside and folder not in found and posixpath.basename(folder) == posixpath.basename(inside):
                found[folder] = inside
                folder, inside = posixpath.dirname(folder), posixpath.dirname(inside)
        return found

    @cached_property
    def first(self) -> frozenset[tuple[str, str]]:
        """What the driver's program has loaded so far, as (layer's id, file's path): to be sent first.

        With it go all libraries beside those that are loaded (`*.libs`), and all of this library: a machine runs parts
        of it that a driver does not.
        """
        loaded = loaded_files()
        init = bigmachine.__file__
        own = f"{os.path.dirname(init)}/"
        found = set()
        for layer, sources in self._placed:
            if (hits := loaded.intersection(sources)) or init in sources:
                found |= {
                    (layer.id, file.path)
                    for file, source in zip(layer.files, sources, strict=True)
                    if source in hits or source.startswith(own) or ".libs/" in file.path
                }
        return frozenset(found)

    def bytecode(self, layer: Layer, file: File) -> bytes | None:
        """Return the byte code of a module that the driver has loaded, for `__pycache__`; None for anything else.

        It is of the kind that is not compared with its source (PEP 552, unchecked), since a file's time on a machine is
        when it arrived there. Its name is `importlib.util.cache_from_source` of the same interpreter with the same
        optimisation (`-O`). None for trees, which change: there the machine compiles.
        """
        if layer.kind == "tree" or not file.path.endswith(".py") or (layer.id, file.path) not in self.first:
            return None
        return unchecked(self.sources.path(layer.id, file.path), file.sha256, self._cache_dir)


__all__ = ["FileState", "Scan", "Sources"]
