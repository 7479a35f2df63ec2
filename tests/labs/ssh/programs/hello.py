"""Start machines, say where they are and how they came up, and wait for a line if told to."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import bigmachine
from bigmachine import Machine, State
from bigmachine.errors import BigmachineError


class Hello:
    """What a machine says of itself."""

    def where(self) -> dict[str, object]:
        return {
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "prefix": sys.prefix,
            "file": __file__,
            "cert": os.environ.get("SSL_CERT_FILE", ""),
        }

    def ask(self, other: Machine) -> str:
        """Call another machine."""
        told = other.call(Hello.where)
        return str(told["hostname"])

    def hide(self) -> int:
        """Start what tries to outlive its machine."""
        script = "trap '' HUP TERM INT; sleep 600"
        return subprocess.Popen(["setsid", "sh", "-c", script]).pid

    def think(self) -> None:
        time.sleep(600)


def begin(verbs: list[str]) -> bigmachine.Session:
    """Begin a session as the flags say; with short leases if told to."""
    if "short" not in verbs:
        return bigmachine.driver.start()
    from bigmachine.systems.ssh import SSHSystem

    flags = dict(word.removeprefix("--bigm.").split("=", 1) for word in sys.argv if word.startswith("--bigm."))
    clocks = bigmachine.Keepalive(interval=0.5, timeout=2, lease=4)
    return bigmachine.start(SSHSystem(flags["hosts"], flags["ssh-config"], keepalive=clocks))


def main() -> None:
    count = int(sys.argv[1])
    verbs = [word for word in sys.argv[2:] if not word.startswith("--")]
    began = time.time()
    with begin(verbs) as session:
        machines = session.start(count, services=[Hello()])
        for machine in machines:
            machine.wait(State.RUNNING, timeout=60)
        print("RUNNING", round(time.time() - began, 3), flush=True)
        print(json.dumps([machine.call(Hello.where) for machine in machines]), flush=True)
        print("MAXPROCS", *[machine.maxprocs for machine in machines], flush=True)
        assert session.system is not None
        with session.system.read(machines[0], str(machines[0].call(Hello.where)["file"])) as file:
            print("READ", file.read() == Path(__file__).read_bytes(), flush=True)
        if "spans" in verbs:
            for span in session.timeline():
                print("SPAN", span.machine, span.phase.replace(" ", "_"), span.seconds, span.sent, flush=True)
        if "peers" in verbs:
            print("PEERS", machines[0].call(Hello.ask, machines[1]), flush=True)
        if "hide" in verbs:
            print("HIDDEN", machines[0].call(Hello.hide), flush=True)
        if "wait" in verbs:
            print("WAITING", flush=True)
            sys.stdin.readline()
        if "think" in verbs:
            print("THINKING", flush=True)
            try:
                machines[0].call(Hello.think)
            except BigmachineError as error:
                print("DIED", type(error).__name__, error, flush=True)
        if "hostof" in verbs:
            print("HOSTS", *[machine.address for machine in machines], flush=True)


if __name__ == "__main__":
    main()
