"""An emulated region whose instances boot, and drivers on the host from which they are reached."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import random
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.labs import lean

PROJECT = Path(__file__).parents[3]
PROGRAMS = Path(__file__).parent / "programs"
#: Where an instance costs nothing.
ENDED = ("terminated", "stopped")


def labs() -> Path:
    """Find the scripts that make labs: where BIGMACHINE_LABS says, or beside the project."""
    return Path(os.environ.get("BIGMACHINE_LABS", PROJECT.parent / "shared" / "labs"))


class Driver:
    """A driver in the region; what it prints is read as it comes, errors included."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def expect(self, word: str, timeout: float = 60.0) -> str:
        """Wait for a line that begins with a word, and return the rest of it."""
        out = self.process.stdout
        assert out is not None
        with _alarm(self.process, timeout):
            for line in out:
                self.lines.append(line)
                if line.startswith(word):
                    return line.removeprefix(word).strip()
        pytest.fail(f"no line {word!r} came within {timeout:g} s:\n{''.join(self.lines)}")

    def wait(self, timeout: float = 60.0) -> str:
        """Wait for its end, which has to be a good one, and return all that it printed."""
        with _alarm(self.process, timeout):
            assert self.process.stdout is not None
            self.lines += self.process.stdout.readlines()
            status = self.process.wait()
        text = "".join(self.lines)
        assert status == 0, f"the driver ended with {status}:\n{text}"
        return text


@contextlib.contextmanager
def _alarm(process: subprocess.Popen[str], timeout: float) -> Iterator[None]:
    """End a driver that takes too long: then whoever reads its output reads the end of it."""
    import threading

    timer = threading.Timer(timeout, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Region:
    """A region that is up. `environ` names a subnet and an image for drivers."""

    def __init__(self, home: Path, python: Path) -> None:
        self._python = python
        self._prefix = "e" + "".join(random.choices(string.ascii_lowercase, k=6))
        self._environ = {**os.environ, "LAB_HOME": str(home), "LAB_PREFIX": self._prefix}
        self._environ.pop("PYTHONDONTWRITEBYTECODE", None)
        self._drivers: list[Driver] = []
        self.aside: set[str] = set()
        self._watches: list[tuple[frozenset[str], float, concurrent.futures.Future[float]]] = []
        self._watchers = concurrent.futures.ThreadPoolExecutor(16)
        self.cache = Path(tempfile.mkdtemp(prefix="ec2-user-"))
        self.script("up")
        made = self.start(PROGRAMS / "make_network.py").wait()
        self.environ: dict[str, str] = json.loads(made.splitlines()[-1])

    def script(self, *words: str, timeout: float = 120.0) -> str:
        """Run the lab's script, and return what it prints."""
        done = subprocess.run(
            [str(labs() / "ec2lab.sh"), *words],
            env=self._environ,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def start(self, program: Path, *arguments: str) -> Driver:
        """Start a driver: our library, in a small environment, as a user of this computer."""
        environ = {**self._environ, **getattr(self, "environ", {}), "PYTHONPATH": str(PROJECT / "src")}
        environ.pop("PYTHONUNBUFFERED", None)  # a line is to be written whole
        environ |= {"XDG_CACHE_HOME": str(self.cache), "BIGMACHINE_EC2TYPE": "m5.large"}
        process = subprocess.Popen(
            [str(labs() / "ec2lab.sh"), "exec", str(self._python), str(program), *arguments],
            env=environ,
            cwd=self.cache,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._drivers.append(Driver(process))
        return self._drivers[-1]

    def fault(self, action: str, code: str = "", count: int = 1, status: int = 503, **more: object) -> None:
        """Have the API refuse, or (`delay`, `after`) answer late or not at all."""
        self.script("fault", json.dumps({"action": action, "code": code, "count": count, "status": status, **more}))

    def machines(self) -> dict[str, dict[str, Any]]:
        """List all instances so far, by id."""
        listed: dict[str, dict[str, Any]] = json.loads(self.script("machines"))
        return listed

    def calls(self) -> dict[str, int]:
        """Count the calls of the API so far, by action."""
        counted: dict[str, int] = json.loads(self.script("calls"))
        return counted

    def running(self) -> list[str]:
        """List the instances that cost something, but for those that were set aside."""
        alive = [name for name, facts in self.machines().items() if facts["state"] not in ENDED]
        return [name for name in alive if name not in self.aside]

    def ends_soon(self, within: float = 30.0) -> None:
        """See beside the next tests whether all that runs now ends; `ended` has the outcome."""
        ids = frozenset(self.running())
        self.aside |= ids

        def have_ended() -> bool:
            machines = self.machines()
            return all(machines[each]["state"] in ENDED for each in ids)

        self._watches.append((ids, within, self._watchers.submit(self.until, have_ended, 90.0)))

    def ended(self) -> list[tuple[frozenset[str], float, float]]:
        """Wait for what `ends_soon` was asked of; gives instances, the seconds they had, and those it took."""
        return [(ids, within, future.result(100)) for ids, within, future in self._watches]

    def killed_in_purchase(self, program: Path, count: int) -> list[str]:
        """Start a driver and kill it while its purchase is under way; gives the instances that come of it."""
        before = self.calls().get("RunInstances", 0)
        known = set(self.machines())
        self.fault("RunInstances", delay=2)
        driver = self.start(program)
        pid = int(driver.expect("PID"))
        self.until(lambda: self.calls().get("RunInstances", 0) > before, 60)
        os.kill(pid, signal.SIGKILL)
        assert set(self.machines()) == known
        self.until(lambda: len(self.machines()) == len(known) + count, 20)
        return sorted(set(self.machines()) - known)

    def until(self, condition: Callable[[], object], timeout: float) -> float:
        """Wait for a condition; gives the seconds it took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() < began + timeout, f"not within {timeout:g} s; running are {self.running()}"
            time.sleep(0.2)
        return time.monotonic() - began

    def schema(self, document: Path) -> str:
        """Have cloud-init check a document as instances get it; gives what it says."""
        packages = Path(self._environ["LAB_HOME"], self._prefix, "ec2/disk/base/usr/lib/python3/dist-packages")
        done = subprocess.run(
            ["/usr/bin/python3", "-m", "cloudinit.cmd.main", "schema", "--config-file", str(document)],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(packages)},
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return done.stdout

    def down(self) -> None:
        """End everything."""
        self._watchers.shutdown(cancel_futures=True)
        for driver in self._drivers:
            with contextlib.suppress(ProcessLookupError):
                driver.process.send_signal(signal.SIGKILL)
            driver.process.wait()
            assert driver.process.stdout is not None
            driver.process.stdout.close()
        self.script("down")
        shutil.rmtree(self.cache, ignore_errors=True)


def bring_up() -> Iterator[Region]:
    """Bring a region up, or skip with the reason."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        pytest.skip("a lab of instances that boot needs root on Linux")
    if not (labs() / "ec2lab.sh").is_file():
        pytest.skip(f"the scripts that make labs are not in {labs()} (BIGMACHINE_LABS names another folder)")
    home = Path(os.environ.get("LAB_HOME", "/tmp/bigmachine-lab"))
    if not (home / "venv").is_dir() or shutil.which("systemd-nspawn") is None:
        environ = {**os.environ, "LAB_HOME": str(home)}
        command = [str(labs() / "setup.sh"), "net", "ec2"]
        done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True, timeout=600)
        if done.returncode:
            pytest.skip(f"what the lab needs cannot be installed: {done.stderr[-300:]}")
    folder = Path(tempfile.mkdtemp(prefix="ec2-lean-"))
    try:
        region = Region(home, lean.make(folder / "lean", PROJECT, "boto3"))
        try:
            yield region
        finally:
            region.down()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
