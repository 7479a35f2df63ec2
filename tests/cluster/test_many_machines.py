"""A host carries many machines at once."""

from __future__ import annotations

import json

from tests.cluster.programs import RunProgram, WriteProgram

_PROGRAM = """
import json, os, bigmachine

class Probe:
    def look(self):
        return os.getpid(), len(os.listdir("/proc/self/fd"))

if __name__ == "__main__":
    with bigmachine.start("local") as session:
        machines = session.start(60, services=[Probe()])
        calls = [machine.submit(Probe.look) for machine in machines]
        print(json.dumps([call.result(60) for call in calls]))
"""


def test_sixty_machines_start_at_once_and_none_holds_what_is_anothers(
    run_program: RunProgram, write: WriteProgram
) -> None:
    seen = json.loads(run_program(write("app.py", _PROGRAM), timeout=90).out)
    assert len({pid for pid, _ in seen}) == 60
    files = [count for _, count in seen]
    assert max(files) - min(files) <= 2  # the last one to be forked inherits no more than the first
