"""Machines of a real agent: they come up, are what they were told to be, speak, and can be asked."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest

from bigmachine.agent import Output
from bigmachine.agent.processes.tree import look_at
from bigmachine.errors import AuthenticationError, BigmachineError, InvalidCall, MachineStopped
from bigmachine.image import Entry
from bigmachine.trust import Role
from tests.cluster.raw_driver import AGENT, LIMIT, SERVE, is_alive, raw_driver, wait_until

SAY_WHO = """
import json, os, random, resource, sys
print(json.dumps({
    "argv": sys.argv[1:], "cwd": os.getcwd(), "mode": os.environ.get("BIGMACHINE_MODE"),
    "mark": os.environ.get("BIGMACHINE_MACHINE"), "given": os.environ.get("GIVEN"), "path": sys.path,
    "random": random.random(), "main": __name__, "stdin": sys.stdin.read(), "session": os.getsid(0) == os.getpid(),
    "flags": [sys.flags.isolated, sys.flags.no_site], "inherited": "ONLY_HERE" in os.environ,
    "fds": len(os.listdir("/proc/self/fd")), "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
}))
"""


class Counter:
    """A service that is importable where the machine is."""

    def __init__(self) -> None:
        self.session: object = None

    def init(self, session: object) -> None:
        self.session = session

    def pid(self) -> int:
        return os.getpid()

    def seen(self) -> object:
        return self.session

    def busy(self, n: int) -> int:
        # One operation in C that holds the interpreter's lock all the while.
        return sum(int(digit) for digit in str(pow(7, n))[:10])

    def die(self, status: int) -> None:
        os._exit(status)


class Unlucky:
    def init(self, session: object) -> None:
        raise LookupError("no data here")


@pytest.mark.parametrize("fork", [True, False], ids=["forked", "spawned"])
def test_a_machine_comes_up_in_order_and_answers(tmp_path: Path, fork: bool) -> None:
    with raw_driver(tmp_path, fork=fork) as driver:
        pid = driver.launch(1)
        machine = driver.machine(1)
        # The call is made at once: its connection waits until the program serves.
        assert driver.call(machine, "Supervisor.register", "Counter", Counter()) is True
        assert driver.call(machine, "Counter.pid") == pid
        assert driver.call(machine, "Counter.seen") == "the session"
        phases = ["executing", "importing", "serving", "initialising services"]
        wait_until(lambda: driver.phases(1) == phases, "all phases are told, in this order")
        assert driver.ask(f"Supervisor@{AGENT}-m1.getpid") == pid


@pytest.mark.parametrize("fork", [True, False], ids=["forked", "spawned"])
def test_a_machine_is_what_it_was_told_to_be(tmp_path: Path, fork: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONLY_HERE", "1")
    with raw_driver(tmp_path, fork=fork) as driver:
        environ = {**os.environ, "GIVEN": "yes"}
        del environ["ONLY_HERE"]
        for number in (1, 2):
            driver.launch(number, SAY_WHO + SERVE, "-n", "3", environ=environ)
            driver.serving(number)
        one, other = (json.loads(driver.output(number)) for number in (1, 2))
        assert one["argv"] == ["-n", "3"]
        assert one["cwd"] == str(tmp_path)
        assert (one["mode"], one["mark"], one["given"]) == ("machine", f"{AGENT}-m1", "yes")
        assert one["path"] == driver.sys_path
        assert one["main"] == "__main__"
        assert one["stdin"] == ""
        assert one["session"] is True
        assert one["inherited"] is False
        assert one["flags"] == [sys.flags.isolated, sys.flags.no_site]
        assert one["random"] != other["random"]
        assert one["files"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        # Standard ones, those for orders, for who comes to debug and for log records, and the folder that is listed.
        assert one["fds"] == other["fds"] == 3 + 3 + 1


def test_output_arrives_whole_and_before_the_end(tmp_path: Path) -> None:
    source = """
import os, sys
for i in range(40_000):
    print("line", i, "x" * 50)
    if i % 1000 == 0:
        print("progress", i, file=sys.stderr)
print("last words", end="", flush=True)
os._exit(7)
"""
    with raw_driver(tmp_path) as driver:
        driver.launch(1, source)
        certificate = driver.stopped(1).certificate
        lines = driver.output(1).decode().splitlines()
        assert lines == [f"line {i} {'x' * 50}" for i in range(40_000)] + ["last words"]
        assert driver.output(1, "stderr").decode().splitlines() == [f"progress {i}" for i in range(0, 40_000, 1000)]
        assert (certificate.cause, certificate.exit_status) == ("exited", 7)
        assert certificate.last_lines[-1] == "last words"
        assert len(certificate.last_lines) == 100


def test_a_printed_line_arrives_while_the_program_goes_on(tmp_path: Path) -> None:
    with raw_driver(tmp_path) as driver:
        driver.launch(1, "print('here I am')\nprint('50 %', end='\\r')\n" + SERVE)
        wait_until(lambda: driver.output(1) == b"here I am\n50 %\r", "both lines are here")


def test_output_that_nobody_acknowledges_stops_the_writer_and_is_not_lost(tmp_path: Path) -> None:
    source = "import os\nfor i in range(300):\n    os.write(1, b'%6d' % i + b'x' * 65_529 + b'\\n')\nos.write(1, b'.')"
    with raw_driver(tmp_path, listen=False) as driver:
        stream = driver.ask("Agent.events", 0)
        pid = driver.launch(1, source)  # 20 MB, more than the agent keeps
        pieces: list[Output] = []

        def read_on(size: int) -> int:
            for event in stream:
                if isinstance(event, Output):
                    pieces.append(event)
                if sum(len(piece.data) for piece in pieces) >= size:
                    break
            return pieces[-1].seq

        last = read_on(6 << 20)
        taken = [0]

        def is_still() -> bool:
            time.sleep(0.1)
            taken.append(driver.ask(f"Supervisor@{AGENT}-m1.expvars")["output_bytes"])
            return taken[-1] == taken[-2]

        wait_until(is_still, "the writer waits")
        assert taken[-1] < 9 << 20
        assert is_alive(pid)
        for size in (*range(7 << 20, 300 * 65_536, 1 << 20), 300 * 65_536):
            driver.ask("Agent.ack", last)
            last = read_on(size)
        lines = b"".join(piece.data for piece in pieces).split()
        assert [int(line.rstrip(b"x")) for line in lines[:300]] == list(range(300))


@pytest.mark.parametrize(
    ("source", "cause", "status", "words"),
    [
        ("def f():\n    raise KeyError('gone')\nf()\n", "boot_failed", 1, "KeyError: 'gone'"),
        ("import no_such_module\n", "boot_failed", 1, "No module named 'no_such_module'"),
        ("x = (\n", "boot_failed", 1, "SyntaxError"),
        ("import sys\nsys.exit(3)\n", "exited", 3, "sys.exit(3)"),
        ("import sys\nsys.exit('no input')\n", "exited", 1, "no input"),
        ("import os\nos._exit(5)\n", "exited", 5, "not come up"),
        ("print('done')\n", "boot_failed", 1, "without reaching bigmachine.start()"),
        ("raise KeyboardInterrupt\n", "signal", None, "not come up"),
    ],
)
def test_a_program_that_does_not_come_up_says_why(
    tmp_path: Path, source: str, cause: str, status: int | None, words: str
) -> None:
    with raw_driver(tmp_path) as driver:
        driver.launch(1, source)
        end = driver.stopped(1)
        assert (end.certificate.cause, end.certificate.exit_status) == (cause, status)
        assert words in end.certificate.detail + end.text
        assert "bigmachine/program" not in end.text
        if "KeyError" in words:
            assert end.text.splitlines()[1].endswith("line 3, in <module>")
            assert end.exception is not None


def test_a_directory_that_is_not_there_is_a_failure_to_boot(tmp_path: Path) -> None:
    with raw_driver(tmp_path) as driver:
        driver.launch(1, SERVE, cwd=str(tmp_path / "nowhere"))
        end = driver.stopped(1)
        assert end.certificate.cause == "boot_failed"
        assert "nowhere" in end.certificate.detail


def test_a_failing_init_is_the_callers_error_and_the_machines_end(tmp_path: Path) -> None:
    with raw_driver(tmp_path) as driver:
        driver.launch(1)
        with pytest.raises(LookupError, match="no data here"):
            driver.call(driver.machine(1), "Supervisor.register", "Unlucky", Unlucky())
        end = driver.stopped(1)
        assert end.certificate.cause == "init_failed"
        assert "Unlucky" in end.certificate.detail
        assert "in init" in end.text
        assert end.exception is not None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_certified(tmp_path: Path, number: signal.Signals) -> None:
    with raw_driver(tmp_path) as driver:
        pid = driver.launch(1)
        driver.serving(1)
        os.kill(pid, number)
        certificate = driver.stopped(1).certificate
        assert (certificate.cause, certificate.signal, certificate.exit_status) == ("signal", number, None)
        assert certificate.pid == pid
        assert certificate.peak_memory is not None
        assert 1 << 20 < certificate.peak_memory < 1 << 30
        assert certificate.cpu_time is not None
        assert 0 <= certificate.cpu_time < LIMIT


def test_a_segfault_leaves_the_python_stack_in_the_last_lines(tmp_path: Path) -> None:
    source = "import ctypes\ndef crash():\n    ctypes.string_at(0)\ncrash()\n"
    with raw_driver(tmp_path) as driver:
        driver.launch(1, source)
        certificate = driver.stopped(1).certificate
        assert certificate.signal == signal.SIGSEGV
        assert any("in crash" in line for line in certificate.last_lines)


def test_a_service_that_ends_the_process_is_certified_with_its_status(tmp_path: Path) -> None:
    with raw_driver(tmp_path) as driver:
        driver.launch(1)
        machine = driver.machine(1)
        driver.call(machine, "Supervisor.register", "Counter", Counter())
        with pytest.raises(BigmachineError):
            driver.call(machine, "Counter.die", 42)
        assert driver.stopped(1).certificate.exit_status == 42


def test_a_clean_stop_runs_exit_handlers_and_is_a_shutdown(tmp_path: Path) -> None:
    with raw_driver(tmp_path) as driver:
        driver.launch(1, "import atexit\natexit.register(print, 'good bye')\n" + SERVE)
        driver.serving(1)
        driver.ask("Agent.stop", f"{AGENT}-m1", LIMIT)
        certificate = driver.stopped(1).certificate
        assert (certificate.cause, certificate.exit_status) == ("shutdown", 0)
        assert certificate.last_lines == ("good bye",)


def test_a_machine_that_does_not_end_by_itself_is_killed_when_grace_is_over(tmp_path: Path) -> None:
    with raw_driver(tmp_path) as driver:
        driver.launch(1, "import atexit, time\natexit.register(time.sleep, 60)\n" + SERVE)
        driver.serving(1)
        driver.ask("Agent.stop", f"{AGENT}-m1", 0.2, "cancelled")
        certificate = driver.stopped(1).certificate
        assert (certificate.cause, certificate.signal) == ("cancelled", signal.SIGKILL)


def test_after_its_end_a_machine_is_gone_for_everybody(tmp_path: Path) -> None:
    with raw_driver(tmp_path) as driver:
        driver.launch(1)
        driver.serving(1)
        driver.ask("Agent.stop", f"{AGENT}-m1", LIMIT)
        driver.ask("Agent.stop", f"{AGENT}-m1", LIMIT)
        for method in ("ping", "info", "getpid", "expvars", "mem_info"):
            with pytest.raises(MachineStopped) as caught:
                driver.ask(f"Supervisor@{AGENT}-m1.{method}")
            assert caught.value.certificate.cause == "shutdown"
        with pytest.raises(BigmachineError):
            driver.call(driver.machine(1), "Supervisor.ping")


def test_an_id_is_given_once_at_a_time(tmp_path: Path) -> None:
    with raw_driver(tmp_path) as driver:
        driver.launch(1)
        with pytest.raises(InvalidCall, match="exists already"):
            driver.launch(1)


def test_what_is_known_from_outside_can_be_asked(tmp_path: Path) -> None:
    with raw_driver(tmp_path) as driver:
        pid = driver.launch(1)
        driver.serving(1)
        supervisor = f"Supervisor@{AGENT}-m1"
        assert driver.ask(f"{supervisor}.ping", [1, 2]) == [1, 2]
        info = driver.ask(f"{supervisor}.info")
        assert (info.pid, info.maxprocs, info.hostname) == (pid, 1, os.uname().nodename)
        assert driver.ask(f"{supervisor}.mem_info").rss > 1 << 20
        assert driver.ask(f"{supervisor}.disk_info").total > 0
        assert driver.ask(f"{supervisor}.load_info").cpus >= 1
        reply = driver.ask(f"{supervisor}.keepalive", 30.0)
        assert (reply.next_s, reply.healthy) == (30.0, True)
        assert driver.ask(f"{supervisor}.expvars")["pid"] == pid
        assert driver.ask(f"{supervisor}.profiles") == ["threads", "threads.json"]
        assert b"_live" in driver.ask(f"{supervisor}.profile", "threads")
        with pytest.raises(InvalidCall, match="no such profile 'heap'"):
            driver.ask(f"{supervisor}.profile", "heap")


def test_the_cpu_is_profiled_from_outside(tmp_path: Path) -> None:
    source = "def spin():\n    while True:\n        sum(range(1000))\nspin()\n"
    with raw_driver(tmp_path) as driver:
        driver.launch(1, source)
        wait_until(lambda: "importing" in driver.phases(1), "the program runs")
        folded = driver.ask(f"Supervisor@{AGENT}-m1.cpu_profile", 1.0)
        hits = [int(line.rpartition(b" ")[2]) for line in folded.splitlines() if b"spin (" in line]
        assert sum(hits) > 20


def test_exec_starts_the_program_anew_with_what_was_set_and_the_same_identity(tmp_path: Path) -> None:
    source = "import os, sys\nprint(sys.argv[1:], os.environ.get('MORE'))\n" + SERVE
    with raw_driver(tmp_path) as driver:
        first = driver.launch(1, source, "old")
        driver.serving(1)
        supervisor = f"Supervisor@{AGENT}-m1"
        driver.ask(f"{supervisor}.set_args", ["new"])
        driver.ask(f"{supervisor}.set_env", {"MORE": "too little"})
        driver.ask(f"{supervisor}.set_env", {"MORE": "enough"})
        driver.ask(f"{supervisor}.exec")
        wait_until(lambda: driver.phases(1).count("serving") == 2, "it serves again")
        second = driver.ask(f"{supervisor}.getpid")
        driver.pids.append(second)
        assert second != first
        assert not is_alive(first)
        assert driver.output(1).decode().splitlines() == ["['old'] None", "['new'] enough"]
        assert driver.call(driver.machine(1), "Supervisor.ping", 1) == 1
        other = Entry("script", path=str(tmp_path / "other.py"))
        (tmp_path / "other.py").write_text("print('another program')\n")
        assert driver.ask(f"{supervisor}.get_image").path.endswith("program1.py")
        driver.ask(f"{supervisor}.set_image", other)
        assert driver.ask(f"{supervisor}.get_image") == other
        driver.ask(f"{supervisor}.exec")
        assert driver.stopped(1).certificate.last_lines[-1] == "another program"


def test_others_than_the_driver_may_look_but_not_touch(tmp_path: Path) -> None:
    with raw_driver(tmp_path) as driver:
        driver.launch(1)
        driver.serving(1)
        for role in (Role.MACHINE, Role.CLIENT):
            identity = driver.authority.issue(role, "somebody")
            agent, machine = driver.link(AGENT, identity), driver.link(f"{AGENT}-m1", identity)
            assert driver.call(agent, f"Supervisor@{AGENT}-m1.ping", 1) == 1
            assert driver.call(machine, "Supervisor.ping", 2) == 2
            for link, method in (
                (agent, f"Supervisor@{AGENT}-m1.keepalive"),
                (agent, f"Supervisor@{AGENT}-m1.shutdown"),
                (agent, f"Supervisor@{AGENT}-m1.exec"),
                (agent, "Agent.stop"),
                (agent, "Agent.launch"),
                (machine, "Supervisor.register"),
            ):
                with pytest.raises(AuthenticationError, match="only the driver"):
                    driver.call(link, method, 1)
            agent.close(ConnectionError("done"))
            machine.close(ConnectionError("done"))
        assert driver.ask(f"Supervisor@{AGENT}-m1.ping") is None


def test_a_zygote_that_dies_is_replaced_by_spawning(tmp_path: Path) -> None:
    with raw_driver(tmp_path) as driver:
        driver.launch(1)
        driver.serving(1)
        (zygote,) = [
            pid
            for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
            if (process := look_at(pid)) and process.parent == driver.process.pid
            if Path(f"/proc/{pid}/comm").read_text() == "bigm-zygote\n"
        ]
        os.kill(zygote, signal.SIGKILL)
        wait_until(lambda: not is_alive(zygote), "the zygote is gone")
        pid = driver.launch(2)
        assert driver.call(driver.machine(2), "Supervisor.ping", 1) == 1
        assert driver.ask(f"Supervisor@{AGENT}-m2.getpid") == pid


def test_a_machine_whose_environment_needs_a_new_process_gets_one(tmp_path: Path) -> None:
    source = "import sys\nprint(sys.flags.optimize, hash('x'))\n" + SERVE
    with raw_driver(tmp_path) as driver:
        driver.launch(1, source, environ={**os.environ, "PYTHONOPTIMIZE": "2", "PYTHONHASHSEED": "7"})
        driver.launch(2, source)
        driver.serving(1)
        driver.serving(2)
        assert driver.output(1).split()[0] == b"2"
        assert driver.output(2).split()[0] == str(sys.flags.optimize).encode()


def test_machines_that_come_and_go_leave_no_descriptor_behind(tmp_path: Path) -> None:
    with raw_driver(tmp_path) as driver:

        def come_and_go(number: int) -> None:
            driver.launch(number)
            driver.call(driver.machine(number), "Supervisor.ping")
            driver.ask("Agent.stop", f"{AGENT}-m{number}", LIMIT)

        def open_files() -> int:
            return len(os.listdir(f"/proc/{driver.process.pid}/fd"))

        come_and_go(1)
        before = wait_until(open_files, "the agent is there")
        for number in range(2, 12):
            come_and_go(number)
        wait_until(lambda: open_files() <= before, f"the agent has {before} descriptors, not {open_files()}")
