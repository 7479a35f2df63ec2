"""One instance, from its purchase to an agent that answers: wait for an address, for stage 0 on it, bring it up."""

from __future__ import annotations

import base64
import contextlib
import queue
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from bigmachine.agent.bare.client import BareHost, Raised, bring_up, tcp
from bigmachine.agent.bootstrap import Clocks
from bigmachine.errors import BigmachineError, NetworkError, ProvisionError
from bigmachine.system import Launched, Runtime
from bigmachine.systems.ec2.failures import Refused
from bigmachine.trust import Role

if TYPE_CHECKING:
    from bigmachine.image.depot import Depot
    from bigmachine.system import Keepalive, Ticket
    from bigmachine.systems.ec2.api import Api
    from bigmachine.systems.ec2.monitor import Facts, Monitor
    from bigmachine.systems.ec2.request import Bought

#: For an instance to boot and run stage 0: minutes where it is big, or its image slow.
BOOT: Final = 300.0
#: Of one attempt to connect; between attempts; for a better address to answer, too.
_CONNECT, _PAUSE, _BETTER = 3.0, 0.1, 0.3
#: So often it is asked how the instance is, while it boots.
_LOOK: Final = 2.0
#: Of the console's output, so many lines are shown.
_LINES: Final = 20


@dataclass(slots=True)
class Place:
    """An instance and what is known of it. `steps`: how far it has come, and when (seconds since the epoch).

    `sent`: the bytes that went there from here to bring its agent up.
    """

    bought: Bought
    steps: list[tuple[str, float]] = field(default_factory=list)
    address: str = ""
    facts: Facts | None = None
    raised: Raised | None = None
    sent: int = 0
    began: float = field(default_factory=time.time)
    ended: float | None = None
    is_given: bool = False

    @property
    def id(self) -> str:
        """The instance's id."""
        return self.bought.id

    @property
    def agent_id(self) -> str:
        """The instance's id as its agent's: without a hyphen, which separates an agent from its machines."""
        return agent_of(self.bought.id)

    def step(self, name: str) -> None:
        """Note how far it is."""
        self.steps.append((name, time.time()))

    def launched(self, port: int, vcpus: int) -> Launched:
        """Say it as the session wants it."""
        raised = self.raised
        runtime = None if raised is None else Runtime(raised.python, raised.platform)
        name = self.address if raised is None else raised.facts.hostname
        cpus = vcpus if raised is None else min(vcpus, raised.facts.cpus)
        steps = tuple(self.steps)
        return Launched(
            self.agent_id, self.address, port, name, max(1, cpus), runtime=runtime, steps=steps, sent=self.sent
        )


def agent_of(instance_id: str) -> str:
    """Give the id of the agent on an instance."""
    return instance_id.replace("-", "")


def instance_of(agent_id: str) -> str:
    """Give the instance of an agent."""
    return f"i-{agent_id.removeprefix('i')}"


class Raiser:
    """Brings instances of one request up; `bootstrap_id` is who their stage 0 says it is."""

    def __init__(
        self,
        api: Api,
        monitor: Monitor,
        ticket: Ticket,
        keepalive: Keepalive,
        bootstrap_id: str,
        port: int,
        patience: float,
        depot: Depot | None = None,
    ) -> None:
        self._api = api
        self._monitor = monitor
        self._ticket = ticket
        self._clocks = Clocks(keepalive.lease, keepalive.hang, patience)
        self._bootstrap_id = bootstrap_id
        self._port = port
        self._depot = depot
        self._driver = ticket.issue(Role.DRIVER, "driver")

    def raise_(self, place: Place, vcpus: int) -> None:
        """Make an instance run an agent that has an identity of its own.

        Raises:
            BigmachineError: if it does not come about; the text has the end of the console's output.
        """
        try:
            self._step(place, "booting")
            place.address = self._reach(place)
            self._step(place, "bringing up its agent")
            with BareHost(
                tcp(place.address, self._port), self._driver, self._bootstrap_id, host=f"instance {place.id}"
            ) as host:
                # All instances of a request come up with one identity. So each is given one of its own here, over the
                # connection that the first one has secured, and makes a key that nobody else has seen in exchange.
                own = self._ticket.issue(Role.BOOTSTRAP, place.agent_id)
                note = partial(self._note, place)
                place.raised = bring_up(
                    host, own, self._clocks, tethered=False, notices="ec2", depot=self._depot, note=note
                )
            place.sent = place.raised.sent
            self._ticket.adopt(place.launched(self._port, vcpus))
        except BigmachineError as error:
            told = self._why(place, error)
            told.add_note(f"(instance {place.id}, {place.bought.market} {place.bought.type})")
            if lines := self.console(place.id):
                told.add_note("the end of its console:\n" + "\n".join(f"    {line}" for line in lines))
            if told is error:
                raise
            raise told from error
        finally:
            self._ticket.tell(_shown(place), "")

    def _step(self, place: Place, name: str) -> None:
        place.step(name)
        self._ticket.tell(_shown(place), name)

    def _note(self, place: Place, stage: str, sent: int) -> None:
        if sent:
            self._ticket.tell(_shown(place), f"{stage} its agent {sent / 1e6:.1f} MB")

    def _why(self, place: Place, error: BigmachineError) -> BigmachineError:
        """Give the error; or another one, if what failed did so because the instance was ending."""
        if not isinstance(error, NetworkError):
            return error
        facts = self._monitor.facts(place.id)
        return error if facts is None or not facts.is_gone else _ended(facts)

    def _reach(self, place: Place) -> str:
        """Wait until stage 0 can be dialled; gives the address.

        Raises:
            ProvisionError: if the instance ends, or nothing answers in time.
        """
        end = time.monotonic() + BOOT
        racers = _Racers(self._port)
        try:
            if place.bought.private:
                racers.add((place.bought.private,))
            while time.monotonic() < end:
                facts = self._monitor.facts(place.id)
                if facts is not None:
                    place.facts = facts
                    if facts.is_gone:
                        raise _ended(facts)
                    if facts.state == "running":
                        racers.add(facts.addresses)
                found = racers.wait(_LOOK)
                if found:
                    return found
                if self._api.closing.is_set():
                    raise ProvisionError("this ec2 system was shut down; make a new one")
        finally:
            racers.stop()
        known = ", ".join(place.facts.addresses) if place.facts is not None else "none"
        raise ProvisionError(
            f"ec2: instance {place.id} did not answer on port {self._port} within {BOOT:.0f} s (addresses: {known}): "
            "does its security group let this computer in (--bigm.ec2open=me makes one that does), and does its image "
            "have Python?",
            temporary=True,
        )

    def console(self, instance_id: str) -> list[str]:
        """Fetch the last lines of an instance's console; none if there are none, or they cannot be had."""
        try:
            return console(self._api, instance_id)[-_LINES:]
        except (BigmachineError, Refused):
            return []


def _shown(place: Place) -> str:
    """Name an instance where people read how far it is."""
    return f"{place.id} ({place.bought.type})"


def _ended(facts: Facts) -> ProvisionError:
    return ProvisionError(f"ec2: instance {facts.id} ended while it was started: {facts.fate[1]}", temporary=True)


def console(api: Api, instance_id: str) -> list[str]:
    """Fetch an instance's console, as lines.

    Raises:
        Refused, ProvisionError: as `Api.call`.
    """
    answer = api.call("get_console_output", timeout=10.0, is_last=True, InstanceId=instance_id)
    text = str(answer.get("Output", ""))
    if text and "\n" not in text:
        # boto3 decodes it; an emulator may have encoded it twice.
        with contextlib.suppress(ValueError):
            text = base64.b64decode(text, validate=True).decode("utf-8", "replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()]


class _Racers:
    """Threads that dial, each one address, until one is reached."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._addresses: list[str] = []
        self._found: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._is_over = threading.Event()

    def add(self, addresses: Sequence[str]) -> None:
        """Dial these, too."""
        for address in addresses:
            if address not in self._addresses:
                self._addresses.append(address)
                threading.Thread(target=self._dial, args=(address,), name="bigmachine-ec2-dial", daemon=True).start()

    def _dial(self, address: str) -> None:
        while not self._is_over.is_set():
            try:
                socket.create_connection((address, self._port), _CONNECT).close()
            except OSError:
                self._is_over.wait(_PAUSE)
            else:
                self._found.put(address)
                return

    def wait(self, seconds: float) -> str:
        """Wait for one to be reached, and a moment for a better one; "" if there is none."""
        try:
            found = [self._found.get(timeout=seconds)]
        except queue.Empty:
            return ""
        end = time.monotonic() + _BETTER
        while len(found) < len(self._addresses) and (left := end - time.monotonic()) > 0:
            try:
                found.append(self._found.get(timeout=left))
            except queue.Empty:
                break
        return found[0] if len(found) == 1 else min(found, key=_rank)

    def stop(self) -> None:
        """End the threads, each within an attempt to connect."""
        self._is_over.set()


def _rank(address: str) -> int:
    """A name before a public address before a private one."""
    if not address.replace(".", "").isdigit():
        return 0
    return 2 if address.startswith(("10.", "172.", "192.168.")) else 1


__all__ = ["BOOT", "Place", "Raiser", "agent_of", "console", "instance_of"]
