"""When a dump is written by itself: at a signal, and when the program ends by an error of its own.

Both are undone when the session ends: what handled the signal before does so again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

from bigmachine.errors import BigmachineError

_log = logging.getLogger("bigmachine")
#: A signal that comes while a dump is being written is no reason for another; one for an error waits so long for it.
_PATIENCE: Final = 60.0


class Triggers:
    """Writes dumps to `folder` by `dump`, which takes a path, for the reasons that it is told."""

    def __init__(self, folder: Path, dump: Callable[[Path], object]) -> None:
        """Make the folder, readable by this user only, unless it is there.

        Raises:
            BigmachineError: if it cannot be made.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BigmachineError(
                f"dumps cannot be written to {folder} ({error.strerror or error}): give another folder"
            ) from error
        self._folder = folder
        self._dump = dump
        self._busy = threading.Lock()
        self._is_open = True
        self._waits_for_error = False
        self._signum: int | None = None
        self._before: Any = None
        self._hook: Callable[..., object] | None = None

    def at_signal(self, signum: int) -> None:
        """Write one whenever this signal comes. In the main thread.

        Raises:
            ValueError: in another thread.
        """
        self._before = signal.signal(signum, self._on_signal)
        self._signum = signum

    def at_error(self) -> None:
        """Write one when an exception leaves the program, or `failed` is told of one."""
        self._waits_for_error = True
        self._hook = sys.excepthook
        sys.excepthook = self._on_error

    def failed(self, error: BaseException | None) -> None:
        """Write one for an error, the first time; a program that is interrupted or exits has none."""
        if self._is_open and self._waits_for_error and isinstance(error, Exception):
            self._waits_for_error = False
            self._write("error", _PATIENCE)

    def close(self) -> None:
        """Put back what there was before; where somebody else has put something over it, do nothing any more."""
        self._is_open = False
        if self._hook is not None and sys.excepthook == self._on_error:
            sys.excepthook = self._hook
        is_main = threading.current_thread() is threading.main_thread()
        if self._signum is not None and is_main and signal.getsignal(self._signum) == self._on_signal:
            signal.signal(self._signum, signal.SIG_DFL if self._before is None else self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_open:
            # Not here: a handler interrupts whatever runs, also what a dump would wait for.
            threading.Thread(target=self._write, args=("signal", 0.0), name="bigmachine-dump").start()
        elif callable(self._before):
            self._before(number, frame)

    def _on_error(self, kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        self.failed(value)
        if self._hook is not None:
            self._hook(kind, value, trace)

    def _write(self, why: str, patience: float) -> None:
        if not (self._busy.acquire(timeout=patience) if patience else self._busy.acquire(blocking=False)):
            _log.warning("a dump of the session is being written already: this one is left out")
            return
        path = self._folder / f"bigmachine-{os.getpid()}-{time.strftime('%Y%m%dT%H%M%S')}-{why}.zip"
        try:
            self._dump(path)
            _log.warning("what is known of the session was written to %s", path)
        except BigmachineError as error:
            _log.error("no dump of the session: %s", error)
        except Exception:  # noqa: BLE001 (whatever it is, the program goes on, or ends by its own error)
            _log.exception("no dump of the session could be written")
        finally:
            self._busy.release()


__all__ = ["Triggers"]
