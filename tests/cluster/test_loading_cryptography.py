"""`cryptography` takes 35 ms and 9 MiB: it is loaded by a driver alone, and beside the start of its agent."""

from __future__ import annotations

import json

from tests.cluster.programs import RunProgram, WriteProgram

PROGRAM = """
import json, subprocess, sys
import bigmachine, psutil

at_spawn = []
spawn = subprocess.Popen.__init__
def record(self, *args, **kwargs):
    at_spawn.append("cryptography" in sys.modules)
    spawn(self, *args, **kwargs)
subprocess.Popen.__init__ = record

class Probe:
    def loaded(self):
        return "cryptography" in sys.modules

def has_library(pid):
    with open(f"/proc/{pid}/maps") as maps:
        return "cryptography/hazmat" in maps.read()

with bigmachine.start("local") as session:
    machines = session.start(1, services=[Probe()])
    machines += session.start(1, services=[Probe()], environ={"PYTHONHASHSEED": "7"})  # spawned, not forked
    loaded = [machine.call(Probe.loaded) for machine in machines]
    children = [process.pid for process in psutil.Process().children(recursive=True)]
    others = [has_library(pid) for pid in children]
    print(json.dumps([at_spawn[0], loaded, others, has_library("self")]))
"""


def test_only_the_driver_loads_it_and_only_once_its_agent_was_spawned(
    run_program: RunProgram, write: WriteProgram
) -> None:
    at_spawn, in_machines, in_others, in_driver = json.loads(run_program(write("loading.py", PROGRAM)).out)
    assert at_spawn is False
    assert in_machines == [False, False]
    assert len(in_others) >= 5  # agent, zygote, undertaker, two machines
    assert not any(in_others)
    assert in_driver is True
