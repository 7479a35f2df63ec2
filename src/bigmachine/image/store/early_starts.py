"""When programs may start before their image is whole, and what becomes of where they run.

They may once everything has come that the driver's own program has loaded, if enough is left to make it worth while,
and if what is left comes soon: it is told from how fast the rest came.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bigmachine.errors import ImageError
from bigmachine.image.manifest import Manifest
from bigmachine.image.store.assemble import Arriving, NotYet, assemble_early
from bigmachine.image.store.collect import EARLY, claim, remove
from bigmachine.image.store.early import Broken, Early, has_room, patience
from bigmachine.image.store.stored import Stored
from bigmachine.image.store.unpack import Arrival

_log = logging.getLogger("bigmachine.image")
#: Less than this is there in a moment.
_WORTHWHILE: Final = 16 << 20
_CHUNK: Final = 4 << 20
#: What is left comes within so many seconds: half of what a file may keep a program waiting.
_SOON: Final = 15.0
#: So many bytes of files say how fast more come.
_ENOUGH: Final = 4 << 20


def is_soon(taken: int, left: int, elapsed: float) -> bool:
    """Whether the bytes that are left come soon, and yet not in a moment, after so many came in `elapsed` seconds."""
    return taken >= _ENOUGH and left >= _WORTHWHILE and left / taken * elapsed < _SOON


class EarlyStarts:
    """The environments of this process that programs run in though their images were not whole."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._environments: dict[Path, Early] = {}

    def of(self, image: Path) -> Early | None:
        """Give the one that was made while an image arrived; None if there is none."""
        with self._lock:
            return self._environments.get(image)

    def begin(
        self,
        manifest: Manifest,
        image: Path,
        python: str,
        layers: Sequence[Stored | Arriving],
        arrivals: Mapping[str, Arrival],
        broken: Broken,
    ) -> Path | None:
        """Make the environment for an image of which the first part has come.

        `broken` is told, from a thread, why it cannot be completed. None: programs have to wait for the whole image.
        """
        known = self.of(image)
        if known is not None:
            return known.root
        limit = patience()
        if not limit or not has_room(sum(len(each.layer.files) for each in layers if isinstance(each, Arriving))):
            return None
        root = image.with_name(f"{image.name}.{os.getpid()}-{os.urandom(4).hex()}{EARLY}")
        try:
            early = self._make(manifest, root, python, layers, broken)
        except (OSError, ImageError, NotYet) as error:
            _log.info("the program starts when all of it has come: %s", error)
            remove(root)
            return None
        for arrival in arrivals.values():
            arrival.early = early
        early.watch(limit)
        with self._lock:
            self._environments[image] = early
        return root

    def _make(
        self, manifest: Manifest, root: Path, python: str, layers: Sequence[Stored | Arriving], broken: Broken
    ) -> Early:
        root.mkdir(mode=0o755)
        claimed = claim(root)  # for as long as this process lives, nobody removes it
        if claimed is None:
            raise NotYet(f"{root} is another's")
        early = Early(root, claimed, broken)
        try:
            assemble_early(manifest, layers, root, python, early)
        except BaseException:
            early.close()
            raise
        return early

    def complete(self, image: Path, folders: Mapping[str, Path]) -> None:
        """Fill in what came in another way: `folders` are those of the layers, which are whole.

        Raises:
            OSError: if a file cannot be read, or not written.
        """
        early = self.of(image)
        if early is None:
            return
        for layer, path in early.left():
            awaited = early.take(layer, path)
            if awaited is None:
                continue
            try:
                with open(folders[layer] / path, "rb") as opened:
                    offset = 0
                    while content := opened.read(_CHUNK):
                        offset += os.pwrite(awaited.descriptor, content, offset)
                        opened.seek(offset)
            except BaseException:
                early.give_back(layer, path)
                raise
            early.came(layer, path)

    def close(self) -> None:
        """Remove them; nobody may be in them any more."""
        with self._lock:
            environments, self._environments = self._environments, {}
        for early in environments.values():
            early.close()
            with contextlib.suppress(OSError):
                remove(early.root)


__all__ = ["EarlyStarts", "is_soon"]
