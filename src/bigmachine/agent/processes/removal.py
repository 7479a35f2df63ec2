"""Remove a directory with all that is in it, and nothing else.

It was somebody else's to fill, so nothing in it is trusted:

- every step goes by descriptors of directories, and none follows a symbolic link: those are removed, not their targets;
- what is mounted in there stays, with what is in it (a bind mount has the device of its source, so mounts are told
  apart by their number, not by the device);
- directories that lack permissions of their owner are given them first;
- what is nested deeper than `_DEEP` is moved up, so that neither descriptors nor the stack run out.

It stops when its time is up, and whoever calls it again goes on from there. Only what every Python has loaded is
imported here, because the undertaker needs it, too.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

_DEEP: Final = 32
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OWNER: Final = 0o700


def remove(path: str, until: float) -> bool:
    """Remove the directory `path`; True if it is gone, also if it was. `until`: a time of `time.monotonic`."""
    parent, name = os.path.split(path)
    try:
        above = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        return _Removal(until, _mount(above)).directory(name, above, 0)
    finally:
        os.close(above)


class _Removal:
    def __init__(self, until: float, mount: str) -> None:
        self._until = until
        self._mount = mount
        self._top = -1

    def directory(self, name: str, above: int, depth: int) -> bool:
        """Remove the directory `name` in the open directory `above`; True if it is gone."""
        try:
            fd = self._open(name, above)
        except FileNotFoundError:
            return True
        except OSError:  # no directory, mounted, or another user's
            return False
        if depth == 0:
            self._top = fd
        try:
            while True:
                is_less = self._empty(fd, depth)
                try:
                    os.rmdir(name, dir_fd=above)
                    return True
                except FileNotFoundError:
                    return True
                except OSError:  # of what changes while it is read, some may not have been seen
                    if not is_less:
                        return False
        finally:
            os.close(fd)

    def _empty(self, fd: int, depth: int) -> bool:
        """Remove what is in there; True if there is less now, and there is time to go on."""
        is_less = False
        with contextlib.suppress(OSError), os.scandir(fd) as entries:
            for entry in entries:
                if time.monotonic() >= self._until:
                    return False
                if not entry.is_dir(follow_symlinks=False):
                    with contextlib.suppress(OSError):
                        os.unlink(entry.name, dir_fd=fd)
                        is_less = True
                elif depth >= _DEEP:
                    is_less |= self._lift(entry.name, fd)
                else:
                    is_less |= self.directory(entry.name, fd, depth + 1)
        return is_less

    def _lift(self, name: str, above: int) -> bool:
        """Move a directory to the top, where it comes to be seen; its own permissions must allow that."""
        try:
            os.close(self._open(name, above))
            os.rename(name, os.urandom(8).hex(), src_dir_fd=above, dst_dir_fd=self._top)
        except OSError:
            return False
        return True

    def _open(self, name: str, above: int) -> int:
        """Open a directory that may be emptied.

        Raises:
            OSError: if it must not be, or cannot.
        """
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=above)
        except PermissionError:
            self._allow(name, above)
            fd = os.open(name, _DIRECTORY, dir_fd=above)
        try:
            self._check(fd)
            if (mode := os.fstat(fd).st_mode & 0o7777) & _OWNER != _OWNER:
                os.fchmod(fd, mode | _OWNER)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _allow(self, name: str, above: int) -> None:
        """Give its owner all permissions for a directory that cannot be opened."""
        if not hasattr(os, "O_PATH"):
            os.chmod(name, _OWNER, dir_fd=above, follow_symlinks=False)
            return
        # Linux has no chmod that does not follow a link; this opens what needs no permission, and no link.
        fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        try:
            self._check(fd)
            os.chmod(f"/proc/self/fd/{fd}", _OWNER)
        finally:
            os.close(fd)

    def _check(self, fd: int) -> None:
        if _mount(fd) != self._mount:
            raise OSError("something is mounted there")


def _mount(fd: int) -> str:
    """Tell which mount an open file is in; where the system has no numbers for them, which device."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            for line in file:
                if line.startswith(b"mnt_id:"):
                    return line.decode()
    except OSError:
        pass
    return str(os.fstat(fd).st_dev)


__all__ = ["remove"]
