"""Make room in a host's store: what has been unused for longest goes first, and nothing that somebody is in."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Final

#: The store is kept below this many bytes, and below half of its disk.
CAP: Final = 20 << 30
#: What came or was used within so many seconds stays: somebody may be building with it.
_RECENT: Final = 3600.0
#: How the names end of environments that programs run in before their images are whole.
EARLY: Final = ".early"


def collect(root: Path, cap: int | None, now: float) -> None:
    """Bring the store at `root` below `cap` bytes (None: the default), if that can be.

    Raises:
        OSError: if it cannot be looked through.
    """
    _sweep(root, now)
    if cap is None:
        disk = os.statvfs(root)
        cap = min(CAP, disk.f_blocks * disk.f_frsize // 2)
    sizes = _layer_sizes(root)
    total = sum(sizes.values())
    if total <= cap:
        return
    images = sorted((root / "images").glob("*.lock"), key=lambda lock: lock.stat().st_mtime)
    for lock in [None, *images]:  # first what belongs to no image at all
        if lock is not None and not _remove_image(lock):
            continue
        used = _used(root)
        for ident in [each for each in sizes if each not in used]:
            listing = root / "layers" / f"{ident}.json"
            if lock is None and now - listing.stat().st_mtime < _RECENT:
                continue
            remove(root / "layers" / ident)
            listing.unlink(missing_ok=True)
            total -= sizes.pop(ident)
        if total <= cap:
            break
    for content in (root / "files").glob("??/*"):
        with contextlib.suppress(OSError):
            if content.stat().st_nlink == 1:
                content.unlink()


def _sweep(root: Path, now: float) -> None:
    """Remove what was left half done, an hour ago or earlier, and what only an agent used that has ended."""
    for early in (root / "images").glob(f"*{EARLY}"):
        if not is_held(early):
            remove(early)
    for part in [*(root / "layers").glob("*.part"), *(root / "images").glob("*.part"), *root.glob("probe-*")]:
        with contextlib.suppress(OSError):
            if now - part.stat().st_mtime > _RECENT and not is_held(part):
                remove(part)


def _layer_sizes(root: Path) -> dict[str, int]:
    sizes = {}
    for listing in (root / "layers").glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError), open(listing, "rb") as file:
            # The size stands at the beginning; a listing may be large.
            sizes[listing.stem] = int(file.read(64).split(b":")[1].split(b",")[0])
    return sizes


def _used(root: Path) -> set[str]:
    used: set[str] = set()
    for mark in (root / "images").glob("*/bigmachine-image.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            used.update(json.loads(mark.read_text())["layers"])
    for wants in (root / "images").glob("*.wants"):  # it is being built
        with contextlib.suppress(OSError, ValueError):
            used.update(json.loads(wants.read_text()))
    return used


def _remove_image(lock: Path) -> bool:
    """Remove an image that nobody holds."""
    with open(lock, "rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        remove(lock.with_suffix(""))
        lock.with_suffix(".wants").unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
    return True


def claim(part: Path) -> int | None:
    """Take what is arriving, or was left half done; None if somebody has it. It is theirs until the number is closed.

    The system lets go of it when a process ends, however it does; a process's number would be another's one day, and
    in another container means nothing.
    """
    try:
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # it was renamed: whole, or another's
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_held(part: Path) -> bool:
    """Whether somebody who lives is taking it in."""
    descriptor = claim(part)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None and part.exists()


def remove(path: Path) -> None:
    """Remove a file or a directory, also one that is closed to changes; what is not there is no error."""
    if path.is_file():
        path.unlink(missing_ok=True)
        return
    for folder, _, _ in os.walk(path):
        with contextlib.suppress(OSError):
            os.chmod(folder, 0o700)
    shutil.rmtree(path, ignore_errors=True)


__all__ = ["CAP", "EARLY", "claim", "collect", "is_held", "remove"]
