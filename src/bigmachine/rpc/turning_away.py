"""What a process that has no file descriptor free does for who connects: it says so, to them and in its own log.

TLS has a word for it that can be said before the handshake, "internal error" (RFC 8446 section 6.2: one unrelated to
the peer, such as a want of memory). OpenSSL hardly ever says it otherwise. The peer's side of it is in `losses`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
from typing import Final

from bigmachine.rpc.complaints import Complaints

_INTERNAL_ERROR: Final = b"\x15\x03\x03\x00\x02\x02\x50"
#: Of what the peer has said, so much is read: closing with unread bytes might overtake the alert.
_UNREAD: Final = 64 * 1024
_PAUSE: Final = 10.0
#: What the handshake takes for a while beside the connection's own descriptor, which is two, and one for good measure.
_ROOM: Final = 3


def is_want_of_descriptors(error: BaseException) -> bool:
    """Tell whether something failed because this process, or the host, has no descriptor free."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def has_room(sock: socket.socket) -> bool:
    """Tell whether there are descriptors enough to serve a connection.

    Found out beforehand, for an event loop that has too few in the middle of it (uvloop 0.23 with aiofastnet 1.2) may
    tell nobody: the connection would stay open, and its peer wait.
    """
    held: list[int] = []
    try:
        while len(held) < _ROOM:
            held.append(os.dup(sock.fileno()))
    except OSError:
        return False
    finally:
        for fd in held:
            os.close(fd)
    return True


def turn_away(sock: socket.socket | None, complaints: Complaints) -> None:
    """Refuse a connection whose handshake has not begun, for want of descriptors; None: the kernel has closed it."""
    complaints.warn(
        "no descriptor",
        "a connection was turned away, for this process has no file descriptor free (of %d): close files that are not "
        "needed, or raise the limit (`ulimit -n`)",
        resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        pause=_PAUSE,
    )
    if sock is not None:
        with sock, contextlib.suppress(OSError):
            sock.recv(_UNREAD, socket.MSG_DONTWAIT)
            sock.send(_INTERNAL_ERROR, socket.MSG_DONTWAIT)


__all__ = ["has_room", "is_want_of_descriptors", "turn_away"]
