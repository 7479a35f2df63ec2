"""Machines on hosts that one can log in to: `--bigm.system=ssh --bigm.hosts=node1,me@node2:2222`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO, Final

from bigmachine.errors import BigmachineError, InvalidCall, NetworkError, ProvisionError
from bigmachine.system import HasMachineId, Keepalive, Launched, Runtime, System, Ticket, agent_id_of
from bigmachine.systems.ssh.client import Loop
from bigmachine.systems.ssh.failures import summary
from bigmachine.systems.ssh.hosts import SshHost, parse_hosts
from bigmachine.systems.ssh.place import Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bigmachine.agent.processes.scratch import Scratch

_log = logging.getLogger("bigmachine")
#: For a host to come up: a Python may have to be sent over a slow line.
_LAUNCH: Final = 600.0
_GRACE: Final = 2.0
#: For a Unix socket, of which the path has to be short, where the temporary directory has a long one.
_SHORT: Final = "/tmp"  # noqa: S108 (what is made there is our own)
#: A host that can be reached has ended everything long before.
_END: Final = 5.0


class SSHSystem(System):
    """Provides machines on the hosts of a list, over `asyncssh` with the user's own configuration, agent and keys.

    `hosts` are as in `parse_hosts`. `config` is the SSH client's configuration file (default: `~/.ssh/config`).
    `machines` is how many machines a host takes that does not say so itself; each is meant for its share of the host's
    processors. A host's key is always verified.

    Raises:
        ProvisionError: `machines` is below 1. What else is wrong (no host, no `asyncssh`) is said by `prepare`, when a
            session begins.
    """

    name = "ssh"
    is_bare = True

    def __init__(
        self,
        hosts: Sequence[str] | str = (),
        config: str | os.PathLike[str] | None = None,
        machines: int = 1,
        keepalive: Keepalive | None = None,
    ) -> None:
        if machines < 1:
            raise ProvisionError(f"machines={machines}: a host takes at least one machine")
        self.hosts: list[SshHost] = []
        self.config = None if config is None else os.path.expanduser(config)
        self.machines = machines
        self.keepalive = keepalive or Keepalive()
        self._given = [part for part in hosts.split(",") if part] if isinstance(hosts, str) else list(hosts)
        self._launching = threading.RLock()  # reentrant: a signal's handler may interrupt a launch and shut down
        self._places: dict[SshHost, Place] = {}
        self._by_agent: dict[str, Place] = {}
        self._loop: Loop | None = None
        self._ticket: Ticket | None = None
        self._scratch: Scratch | None = None
        self._directory = ""
        self._opening: asyncio.Task[object] | None = None
        self._is_shut_down = False

    def prepare(self) -> None:
        """Look at what was given, and load the SSH client, which takes a moment, while the session is being made.

        Not in the constructor: a program's machines run it as well, and have neither these files nor the package.
        """
        self.hosts = parse_hosts(self._given)
        if self.config is not None and not os.path.isfile(self.config):
            raise ProvisionError(f"the SSH client's configuration {self.config} is not there")
        try:
            from importlib.util import find_spec

            if find_spec("asyncssh") is None:
                raise ImportError("there is no module asyncssh")
        except ImportError as error:
            raise ProvisionError(
                f"machines over SSH need the package asyncssh ({error}): pip install 'bigmachine[ssh]'"
            ) from error
        self._loop = Loop()
        threading.Thread(target=_load, name="bigmachine-load", daemon=True).start()

    def launch(self, n: int, ticket: Ticket) -> Sequence[Launched]:
        if n < 1:
            raise ProvisionError(f"{n} machines were asked for: it has to be at least one")
        with self._launching:
            self._ticket = ticket
            self._check()
            if self._loop is None:
                self.prepare()
            assert self._loop is not None
            try:
                slots, failures = self._loop.run(self._provide(n, ticket), _LAUNCH)
            except concurrent.futures.CancelledError as error:
                raise self._gone() from error
            except TimeoutError as error:
                raise ProvisionError(
                    f"no ssh host came up within {_LAUNCH:.0f} s: are they reached by a very slow line?", temporary=True
                ) from error
        if not slots:
            self._check()
            raise summary(failures) if failures else self._full(n)
        for failure in failures.values():
            _log.warning("%s", failure)
        return slots

    def _check(self) -> None:
        if self._is_shut_down:
            raise self._gone()

    def _gone(self) -> ProvisionError:
        return ProvisionError("this ssh system was shut down; make a new one")

    def _full(self, n: int) -> ProvisionError:
        takes = ", ".join(f"{host} {self._room(host)}" for host in self.hosts)
        return ProvisionError(f"{n} machines were asked for, and no host takes another one ({takes}): name more hosts")

    def _room(self, host: SshHost) -> int:
        return host.machines or self.machines

    async def _provide(self, n: int, ticket: Ticket) -> tuple[list[Launched], dict[SshHost, BigmachineError]]:
        """Choose hosts in turn, the least used first, and bring up those that are not; one that fails is passed by."""
        self._opening = asyncio.current_task()
        failures: dict[SshHost, BigmachineError] = {}
        slots: list[Launched] = []
        while len(slots) < n:
            chosen = self._choose(n - len(slots), failures)
            if not chosen:
                break
            fresh = [host for host in dict.fromkeys(chosen) if not self._is_up(host)]
            results = await asyncio.gather(*(self._open(host, ticket) for host in fresh), return_exceptions=True)
            for host, result in zip(fresh, results, strict=True):
                if isinstance(result, BigmachineError):
                    failures[host] = result
                elif isinstance(result, BaseException):
                    raise result
            came_up = [host for host in chosen if host not in failures]
            slots += [self._slot(self._places[host], is_fresh=host in fresh) for host in came_up]
        return slots, failures

    def _choose(self, n: int, failures: Mapping[SshHost, BigmachineError]) -> list[SshHost]:
        used = {host: self._places[host].machines if self._is_up(host) else 0 for host in self.hosts}
        chosen: list[SshHost] = []
        while len(chosen) < n:
            free = [host for host in self.hosts if host not in failures and used[host] < self._room(host)]
            if not free:
                break
            host = min(free, key=lambda each: used[each])
            used[host] += 1
            chosen.append(host)
        return chosen

    def _is_up(self, host: SshHost) -> bool:
        place = self._places.get(host)
        return place is not None and place.is_alive

    async def _open(self, host: SshHost, ticket: Ticket) -> None:
        assert self._loop is not None
        place = Place(host, f"h{secrets.token_hex(3)}", self._sockets)
        await place.open(ticket, self.keepalive, self.config, self._loop.logins)
        try:
            await asyncio.to_thread(ticket.adopt, self._slot(place, machines=0))
        except BaseException as error:
            await place.close(_GRACE)
            if isinstance(error, NetworkError):
                raise place.agentless(error) from error
            raise
        before = self._places.get(host)
        self._places[host] = self._by_agent[place.agent_id] = place
        if before is not None:  # it is dead, or there would be no new one
            await before.close(_GRACE)

    def _sockets(self) -> str:
        """Give a directory for Unix sockets, made when it is first needed; on the SSH loop.

        What a driver leaves that is killed is found by who ends next in the same place: another such, or an agent.
        """
        if not self._directory:
            from bigmachine.agent.processes.scratch import Scratch, make_directory

            scratch = self._scratch = self._scratch or Scratch()
            found = (scratch.assign({"TMPDIR": place}) for place in (tempfile.gettempdir(), _SHORT))
            directory = next(filter(None, found), "")
            if not make_directory(directory):
                raise ProvisionError(
                    f"ssh: no directory for the sockets of tunnels can be made in {tempfile.gettempdir()} or {_SHORT}: "
                    "set TMPDIR to a folder with a short path that can be written to"
                )
            self._directory = directory
        return self._directory

    def _slot(self, place: Place, machines: int = 1, *, is_fresh: bool = True) -> Launched:
        way, raised = place.way, place.raised
        assert way is not None
        assert raised is not None
        place.machines += machines
        return Launched(
            place.agent_id,
            way.address,
            way.port,
            raised.facts.hostname,
            max(1, raised.facts.cpus // self._room(place.host)),
            path=way.path,
            steps=tuple(place.steps) if is_fresh else (),
            sent=place.sent if is_fresh else 0,
            runtime=Runtime(raised.python, raised.platform, raised.ca_file),
        )

    def read(self, machine: HasMachineId, path: str) -> BinaryIO:
        return self._its(machine)[1].read(agent_id_of(machine), path)

    def tail(self, machine: HasMachineId) -> Iterator[str]:
        """Give what stage 0 and the agent said of their troubles: the last thousand lines, and those to come."""
        return self._its(machine)[0].log.follow()

    def _its(self, machine: HasMachineId) -> tuple[Place, Ticket]:
        place, ticket = self._by_agent.get(agent_id_of(machine)), self._ticket
        if place is None or ticket is None:
            raise InvalidCall(f"the machine {machine.machine_id!r} is on no host of this ssh system")
        return place, ticket

    def release(self, place: Launched) -> None:
        """Take note that a machine has ended: its host takes another one."""
        known = self._by_agent.get(place.agent_id)
        if known is not None:
            known.machines = max(0, known.machines - 1)

    def shutdown(self, timeout: float) -> None:
        self._is_shut_down = True
        loop = self._loop
        if loop is None:
            return
        opening = self._opening
        if opening is not None:
            loop.cancel(opening)  # a launch that waits in another thread
        with self._launching:
            if self._loop is None:
                return
            self._loop = None
            places = [*self._by_agent.values()]
            with contextlib.suppress(TimeoutError):
                loop.run(_close(places, min(timeout, _END)), timeout + _GRACE)
            loop.stop(_GRACE)
            if self._scratch is not None:
                self._scratch.end(time.monotonic() + _GRACE)


async def _close(places: Sequence[Place], patience: float) -> None:
    await asyncio.gather(*(place.close(patience) for place in places), return_exceptions=True)


def _load() -> None:
    # The session's authority is made meanwhile. Were both to import parts of `cryptography`, which import each other,
    # from two ends, the interpreter would see a deadlock and have one of them fail; so both begin at this module.
    import bigmachine.trust.certificates  # noqa: F401 (see above)

    with contextlib.suppress(ImportError):
        import asyncssh  # noqa: F401 (it is used later)


__all__ = ["SSHSystem"]
