"""The program that most tests here run: a service that tells what its machine looks like, and what drives it."""

from __future__ import annotations

import json
import textwrap
from typing import Any

#: The service, and an exception of its own.
SERVICE = """
import json, os, sys
import bigmachine

class Trouble(Exception):
    pass

class Probe:
    def look(self):
        main = sys.modules["__main__"]
        return {
            "pid": os.getpid(), "argv": sys.argv, "cwd": os.getcwd(), "colour": os.environ.get("COLOUR"),
            "main": main.__name__, "file": getattr(main, "__file__", None), "module": type(self).__module__,
            "optimize": sys.flags.optimize, "dev": sys.flags.dev_mode, "warnings": sys.warnoptions,
            "executable": sys.executable,
        }

    def fail(self):
        raise Trouble("no luck", 7)
"""

#: What the driver does; it prints what a machine saw, as JSON, in its last line.
DRIVE = """
with bigmachine.start("local") as session:
    machine, = session.start(1, services={"probe": Probe()})
    seen = machine.call(Probe.look)
    try:
        machine.call(Probe.fail)
    except Trouble as trouble:
        seen["trouble"] = trouble.args
seen["driver"] = os.getpid()
print(json.dumps(seen))
"""

PROGRAM = SERVICE + DRIVE

#: The same with its driving part in a function, for programs that are imported.
FUNCTION = "def main():\n" + textwrap.indent(DRIVE, "    ")
GUARD = "\nif __name__ == '__main__':\n    main()\n"


def seen_in(out: str) -> dict[str, Any]:
    """Read what a program printed: its service ran in another process, and its exception arrived as itself."""
    seen: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert seen["pid"] != seen["driver"]
    assert seen["trouble"] == ["no luck", 7]
    return seen
