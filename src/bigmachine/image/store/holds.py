"""What keeps an image, and the layers that one is going to have, from being collected.

A lock beside the image, which the system lets go of when a process ends, however it does; and, until the image is
built, a list of its layers. `bigmachine.image.store.collect` respects both.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path

from bigmachine.image.manifest import Manifest


class Holds:
    """The images that this process has machines in, or builds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._descriptors: dict[str, int] = {}

    def hold(self, root: Path) -> None:
        """Keep an image from being collected, until this is closed or the process ends.

        Raises:
            OSError: if the lock cannot be made.
        """
        with self._lock:
            while str(root) not in self._descriptors:
                descriptor = os.open(_lock_of(root), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if os.fstat(descriptor).st_nlink:
                    self._descriptors[str(root)] = descriptor
                    os.utime(descriptor)
                else:  # it was collected just before
                    os.close(descriptor)

    def close(self) -> None:
        """Let go of all."""
        with self._lock:
            while self._descriptors:
                os.close(self._descriptors.popitem()[1])


def want(manifest: Manifest, root: Path) -> None:
    """Keep the layers of an image that is going to be built from being collected.

    Raises:
        OSError: if that cannot be written.
    """
    aside = root.with_name(f"{root.name}.{os.urandom(4).hex()}.part")
    aside.write_text(json.dumps([layer.id for layer in manifest.layers]))
    os.rename(aside, _wants_of(root))


def is_there(root: Path) -> None:
    """Say that an image is built, and used now: its layers are kept for its own sake.

    Raises:
        OSError: if that cannot be written.
    """
    _wants_of(root).unlink(missing_ok=True)
    os.utime(_lock_of(root))


def _lock_of(root: Path) -> Path:
    return root.with_name(f"{root.name}.lock")


def _wants_of(root: Path) -> Path:
    return root.with_name(f"{root.name}.wants")


__all__ = ["Holds", "is_there", "want"]
