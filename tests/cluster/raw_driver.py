"""A driver of a few lines, for testing agents by themselves: no session, no handles, no keepalive unless asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from bigmachine.agent import Bootstrap, Clocks, Event, LaunchSpec, Output, PhaseChanged, Stopped, agent_command
from bigmachine.agent.processes.tree import look_at
from bigmachine.image import Entry, interpreter_args
from bigmachine.rpc import Codec, Link, Reactor, TlsDialer
from bigmachine.trust import Authority, Identity, Role, client_context

SESSION = "0123abcd"
AGENT = "h1a2b3c"
PATIENT = Clocks(lease=60, hang=60, first_contact=60)
#: Nothing here takes longer unless it hangs.
LIMIT = 10.0

SERVE = "from bigmachine import program\nprogram.serve(lambda machine, server: 'the session')\n"

_T = TypeVar("_T")


def wait_until(claim: Callable[[], _T], what: str, limit: float = LIMIT) -> _T:
    """Look until something is the case."""
    deadline = time.monotonic() + limit
    while not (value := claim()):
        assert time.monotonic() < deadline, f"after {limit} s still not so: {what}"
        time.sleep(0.005)
    return value


def is_alive(pid: int) -> bool:
    process = look_at(pid)
    return process is not None and process.state not in "ZX"


class RawDriver:
    """An agent as a child process, and a link to it."""

    def __init__(self, directory: Path, clocks: Clocks = PATIENT, *, fork: bool = True, listen: bool = True) -> None:
        self.directory = directory
        self.sys_path = [os.path.abspath(path) for path in sys.path]
        interpreter = interpreter_args()
        command = agent_command(self.sys_path, interpreter=interpreter if fork else [])
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True, cwd="/"
        )
        self.authority = Authority(SESSION)
        orders = Bootstrap(
            identity=self.authority.issue(Role.AGENT, AGENT),
            clocks=clocks,
            listen=("127.0.0.1", 0),
            interpreter=interpreter,
            sys_path=self.sys_path,
            driver_pid=os.getpid(),
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(orders.to_json())
        self.port: int = json.loads(self.process.stdout.readline())["port"]
        self.reactor = Reactor.in_thread()
        self.identity = self.authority.issue(Role.DRIVER, "driver")
        self.agent = self.link(AGENT)
        self.events: list[Event] = []
        self.pids: list[int] = []
        self._links: list[Link] = [self.agent]
        if listen:
            threading.Thread(target=self._listen, daemon=True).start()

    def link(self, name: str, identity: Identity | None = None) -> Link:
        """Make a link to the agent, or to a machine."""
        role = Role.AGENT if name == AGENT else Role.MACHINE
        context = client_context(identity or self.identity)
        dialer = TlsDialer("127.0.0.1", self.port, name, SESSION, (role,), context)
        return Link(self.reactor, dialer, codec=Codec(machine=name), name=name)

    def call(self, link: Link, method: str, *args: object) -> Any:
        return link.submit(method, args, {}, LIMIT).result(LIMIT)

    def ask(self, method: str, *args: object) -> Any:
        """Call the agent."""
        return self.call(self.agent, method, *args)

    def _listen(self) -> None:
        try:
            for event in self.agent.submit("Agent.events", (0,), {}).result(LIMIT):
                self.events.append(event)
                self.agent.submit("Agent.ack", (event.seq,), {})
        except Exception:  # noqa: BLE001 (the agent is gone: the test that did it knows)
            return

    def spec(self, number: int, source: str = SERVE, *args: str, **changes: Any) -> LaunchSpec:
        """Write a program, and make what launches it."""
        name = f"{AGENT}-m{number}"
        script = self.directory / f"program{number}.py"
        script.write_text(source)
        fields: dict[str, Any] = {
            "machine_id": name,
            "name": f"m{number}",
            "identity": self.authority.issue(Role.MACHINE, name),
            "argv": [str(script), *args],
            "environ": dict(os.environ),
            "cwd": str(self.directory),
            "entry": Entry("script", path=str(script)),
            "sys_path": self.sys_path,
        }
        return LaunchSpec(**{**fields, **changes})

    def launch(self, number: int, source: str = SERVE, *args: str, **changes: Any) -> int:
        """Launch a machine and give its pid."""
        pid: int = self.ask("Agent.launch", self.spec(number, source, *args, **changes))
        self.pids.append(pid)
        return pid

    def machine(self, number: int) -> Link:
        """Make a link to a machine's program."""
        return self.link(f"{AGENT}-m{number}")

    def phases(self, number: int) -> list[str]:
        mine = [event for event in self.events if event.machine_id == f"{AGENT}-m{number}"]
        return [event.phase for event in mine if isinstance(event, PhaseChanged)]

    def output(self, number: int, stream: str = "stdout") -> bytes:
        mine = [event for event in self.events if event.machine_id == f"{AGENT}-m{number}"]
        return b"".join(event.data for event in mine if isinstance(event, Output) and event.stream == stream)

    def stopped(self, number: int, limit: float = LIMIT) -> Stopped:
        """Wait for a machine's end."""

        def found() -> Stopped | None:
            mine = [event for event in self.events if event.machine_id == f"{AGENT}-m{number}"]
            return next((event for event in mine if isinstance(event, Stopped)), None)

        end = wait_until(found, f"machine m{number} stopped", limit)
        assert end is not None
        return end

    def serving(self, number: int) -> None:
        """Wait until a machine serves."""
        wait_until(lambda: "serving" in self.phases(number), f"machine m{number} serves")

    def close(self) -> None:
        """Let go of the tether, and see that the agent and all machines end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise
        finally:
            self.process.stdout.close()
            self.agent.close(ConnectionError("the test is over"))
            self.reactor.stop()
        assert [pid for pid in self.pids if is_alive(pid)] == []


@contextmanager
def raw_driver(
    directory: Path, clocks: Clocks = PATIENT, *, fork: bool = True, listen: bool = True
) -> Iterator[RawDriver]:
    """Have an agent for the time of a test."""
    driver = RawDriver(directory, clocks, fork=fork, listen=listen)
    try:
        yield driver
    finally:
        driver.close()
