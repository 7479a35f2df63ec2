"""Hosts with an ssh server each, and drivers on the host from which they are reached."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import string
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.labs import lean

PROJECT = Path(__file__).parents[3]
PROGRAMS = Path(__file__).parent / "programs"
#: Between the end of a driver and that of everything that it had on hosts.
UNTIL_GONE = 5.0


def labs() -> Path:
    """Find the scripts that make labs: where BIGMACHINE_LABS says, or beside the project."""
    return Path(os.environ.get("BIGMACHINE_LABS", PROJECT.parent / "shared" / "labs"))


class NoLab(Exception):
    """There can be no lab here; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """What came of a driver."""

    status: int
    out: str
    err: str
    seconds: float


class Driver:
    """A driver that runs on host 0."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._began = time.monotonic()
        self._out: list[str] = []

    def expect(self, word: str, timeout: float = 40.0) -> str:
        """Wait for a line of standard output with a word, and return it."""
        out = self.process.stdout
        assert out is not None
        end = time.monotonic() + timeout
        with _alarm(self.process, timeout):
            for line in out:
                self._out.append(line)
                if word in line:
                    return line
        err = self.process.stderr.read() if self.process.stderr else ""
        pytest.fail(f"no {word!r} in {timeout - (end - time.monotonic()):.0f} s: {''.join(self._out)}\n{err}")

    def tell(self, line: str = "") -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def wait(self, timeout: float = 40.0) -> Outcome:
        """Wait for its end; fail if it takes longer than `timeout` seconds."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler shows the stacks
            try:
                out, err = self.process.communicate(timeout=3.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                out, err = self.process.communicate()
            pytest.fail(f"the driver took longer than {timeout:g} s\n{''.join(self._out)}{out}\n{err}")
        return Outcome(self.process.returncode, "".join(self._out) + out, err, time.monotonic() - self._began)


@contextlib.contextmanager
def _alarm(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """Kill a process after so many seconds, so that reading from it ends."""
    import threading

    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Lab:
    """Hosts 1 to `count`, reached from host 0 with the configuration `config`."""

    def __init__(self, count: int, home: Path, python: Path, sshd: str = "") -> None:
        self.count = count
        self.home = home
        self.prefix = "t" + "".join(random.choices(string.ascii_lowercase, k=6))
        self.driver_python = python
        self._environ = {**os.environ, "LAB_HOME": str(home), "LAB_PREFIX": self.prefix, "SSHLAB_SSHD": sshd}
        for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "SSH_AUTH_SOCK"):
            self._environ.pop(name, None)
        self.user = home / "user"  # the driver's own home
        self.user.mkdir(exist_ok=True)
        # Beside the project they would take it along, tests and all.
        self.programs = Path(shutil.copytree(PROGRAMS, home / "programs", dirs_exist_ok=True))
        self.sshlab("up", str(count))
        self.files = home / self.prefix / "ssh"
        self.config = self.files / "config"

    # the lab's own verbs

    def sshlab(self, *words: str, timeout: float = 60.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a verb of sshlab.sh."""
        return self._run("sshlab.sh", words, timeout, check)

    def netlab(self, *words: str, timeout: float = 60.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a verb of netlab.sh."""
        return self._run("netlab.sh", words, timeout, check)

    def _run(self, script: str, words: Sequence[str], timeout: float, check: bool) -> subprocess.CompletedProcess[str]:
        command = [str(labs() / script), *words]
        done = subprocess.run(
            command,
            env=self._environ,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def down(self) -> None:
        """Take it down, and remove all files."""
        self.sshlab("down")
        shutil.rmtree(self.home, ignore_errors=True)

    def name(self, host: int) -> str:
        """Return the name of a host for the ssh client."""
        return f"{self.prefix}{host}"

    def address(self, host: int) -> str:
        """Return the address of a host."""
        return f"10.77.0.{10 + host}"

    def on(self, host: int, script: str, *, user: str = "root") -> str:
        """Run a shell script on a host, as its ssh server does; gives what it prints."""
        return self.sshlab("ssh", f"{user}@{host}", script).stdout

    def in_space(self, host: int, *command: str) -> str:
        """Run a command in the network of a host, with this machine's files."""
        return self.netlab("exec", str(host), *command).stdout

    @contextlib.contextmanager
    def closed(self, host: int, action: str) -> Iterator[None]:
        """Close all ports of a host but that of ssh; `action` is what nft does to those who come."""
        self.in_space(
            host,
            "nft",
            "table inet closed { chain in { type filter hook input priority 0; "
            f"iifname eth0 tcp dport != 22 ct state new {action}; }}; }}",
        )
        try:
            yield
        finally:
            self.in_space(host, "nft", "delete", "table", "inet", "closed")

    def enter(self, host: int, script: str) -> str:
        """Run a shell script with a host's own files, also while its users could not."""
        server = next(pid for pid in self.pids(host) if self._is_server(pid))
        return self.in_space(host, "nsenter", f"--mount=/proc/{server}/ns/mnt", "sh", "-ec", script)

    @staticmethod
    def _is_server(pid: int) -> bool:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sshd: /usr")
        return False

    @contextlib.contextmanager
    def without_python(self, host: int) -> Iterator[None]:
        """Hide every Python of a host."""
        self.enter(
            host,
            "for p in /usr/bin/python3* /usr/local/bin/python3*; do "
            "[ ! -f $p ] || [ -L $p ] || mount --bind /dev/null $p; done",
        )
        try:
            yield
        finally:
            self.enter(
                host,
                "for p in /usr/bin/python3* /usr/local/bin/python3*; do "
                "[ -c $p ] && [ ! -L $p ] && umount $p; done; true",
            )

    @contextlib.contextmanager
    def lying(self, host: int, *, lines: str = "", under: str = "") -> Iterator[None]:
        """Have a host's Python run some lines before anything else, by a command such as `setarch i686`."""
        real = Path(os.path.realpath("/usr/bin/python3"))
        copy = self.files / f"h{host}" / "home" / "python"
        shutil.copy2(real, copy)
        try:
            with self._instead(host, str(real), f'exec {under} /home/python "$1" "{lines}\n$2"'):
                yield
        finally:
            copy.unlink()

    @contextlib.contextmanager
    def saying(self, host: int, program: str, text: str) -> Iterator[None]:
        """Have a program of a host say some text, and nothing else."""
        with self._instead(host, f"$(command -v {program})", f"echo '{text}'"):
            yield

    @contextlib.contextmanager
    def _instead(self, host: int, program: str, script: str) -> Iterator[None]:
        """Have a shell script run in a program's place; `program` is its path, as a shell has it."""
        place = self.files / f"h{host}" / "home" / "instead"
        place.write_text(f"#!/bin/sh\n{script}\n")
        place.chmod(0o755)
        self.enter(host, f"mount --bind /home/instead {program}")
        try:
            yield
        finally:
            self.enter(host, f"umount {program}")
            place.unlink()

    # drivers

    def drive(
        self,
        program: str | Path,
        *arguments: str,
        hosts: str,
        config: Path | str | None = None,
        environ: dict[str, str] | None = None,
    ) -> Driver:
        """Start a driver on host 0. `hosts`: as users write them, `{1}` standing for the name of host 1."""
        names = {str(number): self.name(number) for number in range(1, self.count + 1)}
        for number, name in names.items():
            hosts = hosts.replace(f"{{{number}}}", name)
        path = self.programs / program
        options = [] if config == "" else [f"--bigm.ssh-config={config or self.config}"]
        where = ("--bigm.system=ssh", f"--bigm.hosts={hosts}", *options)
        return self.python("-Xfaulthandler", str(path), *arguments, *where, cwd=path.parent, environ=environ)

    def python(self, *arguments: str, cwd: Path, environ: dict[str, str] | None = None) -> Driver:
        """Start a Python with bigmachine on host 0."""
        own = {"HOME": str(self.user), "TMPDIR": str(self.user), "PYTHONPATH": str(PROJECT / "src")}
        process = subprocess.Popen(
            # It execs all the way, so the process that is started here becomes the driver itself.
            [str(labs() / "netlab.sh"), "exec", "0", str(self.driver_python), *arguments],
            env={**self._environ, **own, **(environ or {})},
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return Driver(process)

    def run(
        self,
        program: str | Path,
        *arguments: str,
        hosts: str,
        status: int | None = 0,
        timeout: float = 40.0,
        config: Path | str | None = None,
        environ: dict[str, str] | None = None,
    ) -> Outcome:
        """Run a driver to its end, and see that nothing of it is left anywhere."""
        outcome = self.drive(program, *arguments, hosts=hosts, config=config, environ=environ).wait(timeout)
        assert status is None or outcome.status == status, f"exited with {outcome.status}\n{outcome.out}\n{outcome.err}"
        self.check_quiet()
        return outcome

    # what is left

    def processes(self, host: int) -> dict[int, str]:
        """Return what runs on a host besides its ssh server: commands by process ids."""
        found = {}
        for pid in self.pids(host):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if command and not command.startswith(("sshd:", "/usr/sbin/sshd", "sh -c mount")):
                    found[pid] = command
        return found

    def pids(self, host: int) -> list[int]:
        """Return the processes of a host, its ssh server's among them."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.name(host)], check=False, capture_output=True, text=True, timeout=10
        )
        return [int(pid) for pid in listed.stdout.split()]

    def wait_quiet(self, *hosts: int, timeout: float = UNTIL_GONE) -> float:
        """Wait until nothing of ours runs on the hosts; gives the seconds it took."""
        began = time.monotonic()
        while any(left := {host: self.processes(host) for host in hosts}.values()):
            if time.monotonic() > began + timeout:
                pytest.fail(f"after {timeout:g} s there run {left}")
            time.sleep(0.02)
        return time.monotonic() - began

    def check_quiet(self) -> None:
        """See that nothing runs, on hosts or beside the driver, and that no folder of a driver's is left."""
        self.wait_quiet(*range(self.count + 1))
        left = [path.name for path in self.user.iterdir() if path.name.startswith(("bigmachine-", "bm-", "tmp"))]
        assert not left, f"the driver left {left}"


def bring_up(count: int, sshd: str = "") -> Lab:
    """Bring a lab up.

    Raises:
        NoLab: if that cannot be here.
    """
    if os.geteuid() != 0:
        raise NoLab("a lab of hosts with ssh needs root")
    if not (labs() / "sshlab.sh").is_file():
        raise NoLab(f"the scripts that make labs are not in {labs()} (BIGMACHINE_LABS names another folder)")
    home = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
    home.chmod(0o755)
    try:
        if any(
            shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") is None for tool in ("sshd", "ip", "nft", "tc")
        ):
            environ = {**os.environ, "LAB_HOME": str(home)}
            command = [str(labs() / "setup.sh"), "net", "ssh"]
            done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True, timeout=600)
            if done.returncode:
                raise NoLab(f"what the lab needs cannot be installed: {done.stderr[-300:]}")
        python = lean.make(home / "lean", PROJECT, "asyncssh", "pytest")
        return Lab(count, home, python, sshd)
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
