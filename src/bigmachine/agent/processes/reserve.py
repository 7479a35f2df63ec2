"""One descriptor kept back, so that a process that has no other free can take a connection and say why it drops it.

A file that comes by SCM_RIGHTS while no descriptor is free is closed by the kernel, and its other side would only see
a connection that breaks. So the one kept back is let go of for the moment in which messages are received, and had
again at once; if that fails, what has come has taken its place and is to be turned away.
"""

from __future__ import annotations

import os


class Reserve:
    """A descriptor that can be let go of and had again. Not for several threads."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self.take()

    def take(self) -> bool:
        """Have one again; False if there is none."""
        if self._fd is None:
            try:
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:  # of this process or of the whole host: all the same
                return False
        return True

    def let_go(self) -> None:
        """Let whatever comes next have it."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


__all__ = ["Reserve"]
