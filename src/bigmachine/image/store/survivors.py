"""What a store has from before its host started last: looked through once, since the end may have cut it off.

Names and folders reach the disk before the contents of files do, so a host that loses its power may find files that
are shorter than they were, in layers and images that were whole. To wait for the disk each time would take seconds.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from bigmachine.image import plan
from bigmachine.image.manifest import MARK
from bigmachine.image.store.collect import remove


def last_start() -> float:
    """Give when this host started, in seconds since the epoch; 0 where that is unknown."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def is_older(path: Path, start: float) -> bool:
    """Whether it is there, and was last changed, or looked through, before then."""
    try:
        return path.stat().st_mtime < start
    except OSError:
        return False


def look_through(root: Path, image: Path, idents: Iterable[str], start: float) -> None:
    """Remove those of these layers of the store at `root`, and the image, that were cut off.

    Raises:
        OSError: if something cannot be looked at.
    """
    layers = root / "layers"
    damaged = set()
    for ident in idents:
        listing = layers / f"{ident}.json"
        if not is_older(listing, start):
            continue
        if _is_whole(layers / ident, listing):
            os.utime(listing)
        else:
            damaged.add(ident)
            _set_aside(layers / ident)
            listing.unlink(missing_ok=True)
    for mark in (root / "images").glob(f"*/{MARK}"):
        if is_older(mark, start):
            has = _layers_of(mark)
            if has is None or not damaged.isdisjoint(has) or (mark.parent == image and not _has_its_own(image)):
                _set_aside(mark.parent)
            elif mark.parent == image:
                os.utime(mark)


def _is_whole(folder: Path, listing: Path) -> bool:
    try:
        first, second = listing.read_text("utf-8").splitlines()
        for file in plan.files(json.loads(second)):
            status = os.lstat(f"{folder}/{file.path}")
            if not file.link and status.st_size != file.size:
                return False
        return all(os.lstat(f"{folder}/{path}").st_size for path in json.loads(first)["recorded"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _layers_of(mark: Path) -> list[str] | None:
    try:
        return list(json.loads(mark.read_text())["layers"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _has_its_own(image: Path) -> bool:
    """Whether the files that were written for it have something in them; they are too small to have half of it."""
    own = [image / "pyvenv.cfg", *image.glob("lib/*/site-packages/*.pth"), *(image / "bin").iterdir()]
    return all(each.is_symlink() or (each.is_file() and each.stat().st_size > 0) for each in own)


def _set_aside(folder: Path) -> None:
    """Remove a folder in one step, so that nobody sees half of it."""
    aside = folder.with_name(f"gone-{os.urandom(8).hex()}.part")
    try:
        os.rename(folder, aside)
    except FileNotFoundError:
        return  # another has seen it, too
    remove(aside)


__all__ = ["is_older", "last_start", "look_through"]
