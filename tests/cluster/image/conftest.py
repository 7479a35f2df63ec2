"""A program that tells what its main looks like, and interpreters to run it in: as a driver, then as a machine."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bigmachine.image import Entry

SOURCE_ROOT = str(Path(__file__).parents[3] / "src")

#: In the driver it leaves its entry and what it sees in $SEEN, after it changed the directory. In a machine's process
#: it leaves what it sees and never returns, as `start` does. With $FAIL it raises there instead.
PROGRAM = """
import json, os, pickle, sys


class Service:
    def __init__(self, number):
        self.number = number


def pickles():
    try:
        return type(pickle.loads(pickle.dumps(Service(3)))) is Service
    except pickle.PicklingError:
        return False


def sees():
    main = sys.modules["__main__"]
    spec, loader = globals().get("__spec__"), globals().get("__loader__")
    return {
        "name": __name__,
        "file": globals().get("__file__"),
        "package": globals().get("__package__"),
        "spec": spec and spec.name,
        "loader": type(loader).__name__,
        "builtins": type(__builtins__).__name__,
        "cached": globals().get("__cached__"),
        "is_main": vars(main) is globals(),
        "pickles": pickles(),
        "argv": sys.argv,
    }


def leave(**what):
    with open(os.environ["SEEN"], "w") as file:
        json.dump(what, file)


def fail():
    raise ZeroDivisionError("the line above is shown")


def start():
    if os.environ["ROLE"] == "machine":
        if os.environ.get("FAIL"):
            fail()
        leave(sees=sees())
        os._exit(0)
    os.chdir("/")
    import base64
    from bigmachine.image import detect, interpreter_args

    entry = detect()
    leave(
        entry=base64.b64encode(pickle.dumps(entry)).decode(),
        sees=sees(),
        sys_path=sys.path,
        interpreter=interpreter_args(),
    )


"""

BARE = PROGRAM + "start()\n"
GUARDED = PROGRAM + 'if __name__ == "__main__":\n    start()\n'

#: What a machine's process does before and around the program, in as few lines as possible.
MACHINE = """
import json, os, pickle, sys, traceback
boot = json.loads(os.environ["BOOT"])
sys.path[:], sys.argv = boot["sys_path"], boot["argv"]
from bigmachine.image import program_traceback, run
try:
    run(pickle.loads(bytes.fromhex(boot["entry"])))
except SystemExit:
    raise
except BaseException as error:
    error.__traceback__ = program_traceback(error)
    traceback.print_exception(error)
    sys.exit(3)
main = sys.modules["__main__"]
with open(os.environ["SEEN"], "w") as file:
    module = vars(main).get("Service", int).__module__
    json.dump({"returned": sorted(vars(main)), "name": main.__name__, "module": module}, file)
"""


@dataclass
class Seen:
    """What a program left behind."""

    entry: Entry
    sees: dict[str, object]
    sys_path: list[str]
    interpreter: list[str] = field(default_factory=list)


class Lab:
    """Runs the program in fresh interpreters, in a directory of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen = root / "seen.json"

    def write(self, path: str, text: str = BARE) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def environ(self, role: str, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "COV"))}
        own = {"ROLE": role, "SEEN": str(self.seen), "PYTHONPATH": SOURCE_ROOT, "PYTHONDONTWRITEBYTECODE": "1"}
        return kept | own | more

    def launch(
        self, *args: str, stdin: str = "", role: str = "driver", cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        self.seen.unlink(missing_ok=True)
        return subprocess.run(
            args,
            input=stdin,
            env=self.environ(role, **env),
            cwd=cwd or self.root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def left(self, done: subprocess.CompletedProcess[str] | None = None) -> dict[str, object]:
        assert self.seen.exists(), f"nothing was left behind: {done}"
        found = json.loads(self.seen.read_text())
        assert isinstance(found, dict)
        return found

    def driver(self, *args: str, stdin: str = "", cwd: Path | None = None, **env: str) -> Seen:
        """Run `python *args` as the driver, and return what it detected and saw."""
        return self.collect(self.launch(sys.executable, *args, stdin=stdin, cwd=cwd, **env))

    def collect(self, done: subprocess.CompletedProcess[str] | None = None) -> Seen:
        import base64

        left = self.left(done)
        entry = pickle.loads(base64.b64decode(str(left.pop("entry"))))
        assert isinstance(entry, Entry)
        return Seen(entry, **left)  # type: ignore[arg-type] # the program wrote exactly these

    def run_again(self, entry: Entry, seen: Seen | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        """Run the entry in a process like a machine's, in another directory than the driver's."""
        path = seen.sys_path if seen else [SOURCE_ROOT, *sys.path[1:]]
        boot = {"entry": pickle.dumps(entry).hex(), "sys_path": path, "argv": ["gone", "-n", "3"]}
        elsewhere = self.root / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        return self.launch(sys.executable, "-c", MACHINE, role="machine", cwd=elsewhere, BOOT=json.dumps(boot), **env)

    def machine(self, seen: Seen) -> dict[str, object]:
        """Run what a driver detected, and return what the program saw on the machine."""
        return self.left(self.run_again(seen.entry, seen))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)
