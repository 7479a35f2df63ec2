"""What has become of instances: asked for many at once, as seldom as the API wants it [Go: ec2system/internal/monitor].

Whoever wants to know about an instance waits for the next answer; questions that come while one is under way go into
the next batch together. Instances are asked for by a filter: an id that the API does not know (yet, or any more) is no
error then, and spoils nobody else's answer.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from bigmachine.errors import BigmachineError, Cause, ProvisionError
from bigmachine.frozen import frozen
from bigmachine.systems.ec2.failures import Refused

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api

_log = logging.getLogger("bigmachine")
#: Values that one filter takes.
_BATCH: Final = 200
#: Seconds in which questions gather.
_GATHER: Final = 0.05
_PATIENCE: Final = 10.0
_GONE: Final = frozenset(("shutting-down", "terminated", "stopping", "stopped"))


@frozen
class Facts:
    """What the API says of an instance. `code` and `reason` say why it ends, if it does."""

    id: str
    state: str
    type: str = ""
    market: str = "on-demand"
    zone: str = ""
    dns: str = ""
    public: str = ""
    private: str = ""
    code: str = ""
    reason: str = ""

    @classmethod
    def of(cls, instance: Mapping[str, Any]) -> Facts:
        """Read it from an answer."""
        why = instance.get("StateReason", {})
        return cls(
            instance["InstanceId"],
            instance["State"]["Name"],
            instance.get("InstanceType", ""),
            "spot" if instance.get("InstanceLifecycle") == "spot" else "on-demand",
            instance.get("Placement", {}).get("AvailabilityZone", ""),
            instance.get("PublicDnsName", ""),
            instance.get("PublicIpAddress", ""),
            instance.get("PrivateIpAddress", ""),
            why.get("Code", ""),
            why.get("Message", ""),
        )

    @property
    def is_gone(self) -> bool:
        """Whether it ends or has ended."""
        return self.state in _GONE

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it may be reached, the best first: a public name is a private address within the network."""
        return tuple(dict.fromkeys(each for each in (self.dns, self.public, self.private) if each))

    @property
    def fate(self) -> tuple[Cause, str]:
        """Why its machine is gone: who switched the host off."""
        text = f"its instance {self.id} is {self.state}: {self.reason or self.code or 'no reason given'}"
        if self.code == "Client.InstanceInitiatedShutdown":
            return Cause.SIGNAL, f"{text}; the host was switched off from within"
        return Cause.PREEMPTED, text


class Monitor:
    """Asks about instances. One thread, which ends with `close`."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._changed = threading.Condition()
        self._asked: dict[str, concurrent.futures.Future[Facts | None]] = {}
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def ask(self, instance_id: str) -> concurrent.futures.Future[Facts | None]:
        """Ask about an instance; None: the API does not know it. Fails with Refused or ProvisionError."""
        with self._changed:
            future = self._asked.get(instance_id)
            if future is None:
                future = self._asked[instance_id] = concurrent.futures.Future()
                if self._is_closed:
                    future.set_exception(ProvisionError("this ec2 system was shut down"))
                    return future
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="bigmachine-ec2-monitor", daemon=True)
                    self._thread.start()
                self._changed.notify()
            return future

    def facts(self, instance_id: str, timeout: float = _PATIENCE) -> Facts | None:
        """Ask, and wait for the answer; None also if there is none in time."""
        try:
            return self.ask(instance_id).result(timeout)
        except (TimeoutError, BigmachineError, Refused) as error:
            _log.debug("ec2: the state of %s could not be found out: %s", instance_id, error)
            return None

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._asked and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return
            self._api.closing.wait(_GATHER)
            with self._changed:
                batch = dict(list(self._asked.items())[:_BATCH])
                for instance_id in batch:
                    del self._asked[instance_id]
            self._answer(batch)

    def _answer(self, batch: Mapping[str, concurrent.futures.Future[Facts | None]]) -> None:
        try:
            found = {each.id: each for each in describe(self._api, {"instance-id": batch})}
        except (BigmachineError, Refused) as error:
            for future in batch.values():
                future.set_exception(error)
            return
        for instance_id, future in batch.items():
            future.set_result(found.get(instance_id))

    def close(self) -> None:
        """End the thread; questions that are open fail."""
        with self._changed:
            self._is_closed = True
            asked, self._asked = self._asked, {}
            self._changed.notify()
        for future in asked.values():
            future.set_exception(ProvisionError("this ec2 system was shut down"))
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)


def describe(api: Api, filters: Mapping[str, Iterable[str]], **more: Any) -> list[Facts]:
    """Describe the instances that pass all filters.

    Raises:
        Refused, ProvisionError: as `Api.call`.
    """
    listed = [{"Name": name, "Values": [*values]} for name, values in filters.items()]
    pages = api.pages("describe_instances", "Reservations", Filters=listed, **more)
    return [Facts.of(instance) for reservation in pages for instance in reservation["Instances"]]


__all__ = ["Facts", "Monitor", "describe"]
