"""The tether: the agent ends when its driver does, at once, whatever its event loop is doing.

A thread of its own waits for the end of standard input, whose other end only the driver has, and for the end of the
driver's process if that is our parent (children that the driver forked may keep the pipe open). The thread then kills
everything below the agent and exits the process without asking the loop: a busy loop delays it by no more than the
interpreter's switch interval, 5 ms.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING, Final, NoReturn

from bigmachine.agent.processes.tree import end_everything

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bigmachine.agent.processes.scratch import Scratch
    from bigmachine.agent.processes.undertaker import Undertaker


#: An agent's end takes no more seconds than this for removing files; the next agent's goes on there.
_CLEARING: Final = 2.0


def tie(
    fd: int,
    parent: int,
    groups: Callable[[], Iterable[int]],
    undertaker: Undertaker | None = None,
    scratch: Scratch | None = None,
) -> None:
    """End this process when `fd` ends, or process `parent` (0: none) does. `groups`: what is to be killed first."""
    arguments = (fd, parent, groups, undertaker, scratch)
    threading.Thread(target=_hold, args=arguments, name="bigmachine-tether", daemon=True).start()


def _hold(
    fd: int,
    parent: int,
    groups: Callable[[], Iterable[int]],
    undertaker: Undertaker | None,
    scratch: Scratch | None,
) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    watched = _process_fd(parent)
    if watched is not None:
        poll.register(watched, select.POLLIN)
    while True:
        ready = [number for number, _ in poll.poll()]
        if watched in ready or not _read(fd):
            break
    end_now(groups, undertaker, scratch)


def end_now(
    groups: Callable[[], Iterable[int]] = tuple, undertaker: Undertaker | None = None, scratch: Scratch | None = None
) -> NoReturn:
    """Kill everything below this process, the given groups first, and exit; what is left is the undertaker's.

    Where there is none, or it was killed, what machines have left in `scratch` is removed here.
    """
    try:
        is_done = end_everything(groups(), spared=() if undertaker is None else (undertaker.pid,))
        is_seen_to = undertaker is not None and undertaker.part(is_done=is_done)
        if scratch is not None and not is_seen_to:
            scratch.end(time.monotonic() + _CLEARING)
    finally:
        os._exit(0)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 4096)  # nothing is said any more; whatever comes is dropped
    except OSError:
        return b""


def _process_fd(parent: int) -> int | None:
    """Give a descriptor that becomes readable when our parent `parent` ends; None where there is none to be had."""
    if not parent or not hasattr(os, "pidfd_open"):
        return None
    try:
        descriptor: int = os.pidfd_open(parent)
    except OSError:
        return None
    # Opened after a look at the parent it might be another process of the same number; so look afterwards.
    if os.getppid() != parent:
        os.close(descriptor)
        return None
    return descriptor


__all__ = ["end_now", "tie"]
