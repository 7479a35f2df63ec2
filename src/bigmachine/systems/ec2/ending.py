"""Terminate instances: many in one call, in a thread of its own; what fails is asked again there, and then told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from bigmachine.errors import ProvisionError
from bigmachine.systems.ec2.failures import Refused

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api

_log = logging.getLogger("bigmachine")
#: So many in one call; seconds in which more may come; for one call with its attempts.
_BATCH: Final = 500
_GATHER: Final = 0.1
_PATIENCE: Final = 20.0


class Ending:
    """The instances that are to end."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._changed = threading.Condition()
        self._ids: dict[str, None] = {}
        self._is_busy = False
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def add(self, ids: Iterable[str]) -> None:
        """Terminate these soon; does not wait."""
        with self._changed:
            self._ids.update(dict.fromkeys(ids))
            if self._ids and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bigmachine-ec2-ending", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until all that was added is terminated, or given up; False if not in time."""
        end = time.monotonic() + timeout
        with self._changed:
            while self._ids or self._is_busy:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._ids:
                    if self._is_closed:
                        return
                    self._changed.wait()
                self._is_busy = True
            time.sleep(_GATHER)
            with self._changed:
                batch = list(self._ids)[:_BATCH]
                for each in batch:
                    del self._ids[each]
            for why in terminate(self._api, batch):
                _log.error(
                    "ec2: %s; without a driver they end by themselves, when their lease is over; "
                    "`bigmachine ls --ec2` shows whether they have",
                    why,
                )
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()

    def close(self) -> None:
        """End the thread, after what was added."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


def terminate(api: Api, ids: list[str]) -> list[str]:
    """Terminate instances; gives what failed, and why. One that the API does not know spoils only itself."""
    try:
        api.call("terminate_instances", is_last=True, timeout=_PATIENCE, InstanceIds=ids)
    except Refused as refused:
        if refused.code.startswith("InvalidInstanceID") and len(ids) > 1:
            return [why for each in ids for why in terminate(api, [each])]
        if refused.code == "InvalidInstanceID.NotFound":
            return []
        return [f"{', '.join(ids)} could not be terminated: {refused.told()}"]
    except ProvisionError as error:
        return [f"{', '.join(ids)} could not be terminated: {error}"]
    return []


__all__ = ["Ending", "terminate"]
