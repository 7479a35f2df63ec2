"""The command line and a program that runs: each is a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.programs import IMPORTABLE, assert_gone, kill_left, program_environment

LIMIT = 30.0

PROGRAM = """
import sys, time
import bigmachine

class Work:
    def spin(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sum(range(1000))

    def say(self, text, count=1):
        for number in range(count):
            print(text, number, flush=True)

with bigmachine.start("local", name=sys.argv[1], output="off") as session:
    machines = session.start(2, services=[Work()])
    for machine in machines:
        machine.wait()
    print("ready", flush=True)
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "say":
            machines[int(rest[0])].call(Work.say, rest[1], int(rest[2]))
        elif word == "spin":
            calls = [machine.submit(Work.spin, float(rest[0])) for machine in machines]
        elif word == "fail":
            raise RuntimeError(rest[0])
        print("done", flush=True)
"""


@dataclass
class Done:
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> Any:
        """Its output, as JSON."""
        assert (self.code, self.err) == (0, ""), self
        return json.loads(self.out)


class Driver:
    """A program with two machines, which does what it is told."""

    def __init__(self, place: Path, name: str, environ: Mapping[str, str]) -> None:
        program = place / "program.py"
        program.write_text(PROGRAM)
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, str(program), name, "--password", "hunter2"],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=place,
        )
        self._expect("ready")

    def _expect(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def do(self, line: str) -> None:
        """Have it do something, and wait until that is done."""
        self.tell(line)
        self._expect("done")

    def tell(self, line: str) -> None:
        """Have it do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(LIMIT)


class Desk:
    """Where somebody sits: runs programs and commands, with a register of their own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.mark = f"command-line-{os.getpid()}-{time.monotonic_ns()}"
        self.runtime = place / "runtime"
        self.runtime.mkdir(0o700)
        own = {"XDG_RUNTIME_DIR": str(self.runtime), "XDG_CACHE_HOME": str(place / "cache")}
        self.environ = program_environment(self.mark, own)
        self.drivers: list[Driver] = []

    @property
    def register(self) -> Path:
        return self.runtime / "bigmachine"

    def driver(self, name: str = "job") -> Driver:
        self.drivers.append(Driver(self.place, name, self.environ))
        return self.drivers[-1]

    def begin(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        """Begin a command."""
        command = [sys.executable, "-m", "bigmachine", *words]
        return subprocess.Popen(
            command, env=self.environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more
        )

    def run(self, *words: str) -> Done:
        """Run a command to its end."""
        with self.begin(*words) as process:
            out, err = process.communicate(timeout=LIMIT)
            return Done(process.returncode, out, err)

    def close(self) -> None:
        for driver in self.drivers:
            for stream in (driver.process.stdin, driver.process.stdout):
                if stream is not None:
                    stream.close()
        try:
            for driver in self.drivers:
                driver.process.wait(LIMIT)
            assert_gone(self.mark)
        finally:
            kill_left(self.mark)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    try:
        yield desk
    finally:
        desk.close()


def until(claim: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not claim():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def sessions(desk: Desk) -> Sequence[Mapping[str, Any]]:
    found = desk.run("ls", "--json").told["sessions"]
    assert isinstance(found, list)
    return found


def test_a_running_session_is_looked_at_from_another_process(desk: Desk) -> None:
    driver = desk.driver()
    (told,) = sessions(desk)
    assert (told["name"], told["pid"], told["running"]) == ("job", driver.process.pid, True)
    assert [(each["name"], each["state"]) for each in told["machines"]] == [("m1", "RUNNING"), ("m2", "RUNNING")]
    assert "hunter2" not in json.dumps(told)
    assert "hunter2" not in "".join(path.read_text() for path in desk.register.glob("*.json"))

    driver.do("say 0 hello 3")
    assert desk.run("logs", "m1").out == "m1: hello 0\nm1: hello 1\nm1: hello 2\n"
    assert desk.run("logs", "m2").out == ""
    assert [json.loads(line)["text"] for line in desk.run("logs", "--json", "-n", "1").out.splitlines()] == ["hello 2"]

    driver.do("spin 20")
    profile = desk.place / "cpu.folded"
    told = desk.run("profile", "--seconds", "1", "--out", str(profile), "--json").told
    assert (told["taken"], told["missing"]) == (["m1", "m2"], {}) or sorted(told["taken"]) == ["m1", "m2"]
    assert "spin" in profile.read_text()
    assert profile.stat().st_mode & 0o077 == 0
    assert "spin" in desk.run("stack", "--machine", "m2").out

    assert desk.run("kill", "m2").out == "m2 has ended\n"
    states = {each["name"]: each["state"] for each in sessions(desk)[0]["machines"]}
    assert states == {"m1": "RUNNING", "m2": "STOPPED"}
    assert driver.end() == 0
    (told,) = sessions(desk)
    assert (told["running"], told["ended"]["why"]) == (False, "finished")
    assert os.listdir(desk.register) == [f"{told['id']}.json"]


def test_a_driver_that_was_killed_is_told_of_with_its_last_machines(desk: Desk) -> None:
    driver = desk.driver()
    until(lambda: '"RUNNING"' in next(desk.register.glob("*.json")).read_text(), "its machines are written down")
    driver.process.kill()
    driver.process.wait(LIMIT)
    (told,) = sessions(desk)
    assert (told["running"], told["ended"]["why"]) == (False, "gone")
    assert [each["state"] for each in told["machines"]] == ["RUNNING", "RUNNING"]
    assert os.listdir(desk.register) == [f"{told['id']}.json"], "no socket is left"

    done = desk.run("ls")
    assert done.code == 0
    assert "its driver process is gone: killed or crashed" in done.out
    assert "m1  was RUNNING" in done.out
    done = desk.run("status")
    assert (done.code, done.out) == (3, "")
    assert "job" in done.err
    assert "its driver process is gone: killed or crashed" in done.err
    done = desk.run("top")
    assert done.code == 3
    assert "its driver process is gone" in done.out
    assert "m2" in done.out


def test_who_follows_gets_the_last_line_and_hears_why_it_ended(desk: Desk) -> None:
    driver = desk.driver()
    driver.do("say 0 before 1")
    with desk.begin("logs", "-f") as logs, desk.begin("top", "--json") as top:
        assert logs.stdout is not None
        assert top.stdout is not None
        assert logs.stdout.readline() == "m1: before 0\n"
        assert json.loads(top.stdout.readline())["machines"]
        driver.do("say 1 after 20000")
        driver.tell("fail purpose")
        lines = logs.stdout.read().splitlines()
        assert lines[-1] == "m2: after 19999"
        looks = [json.loads(line) for line in top.stdout.read().splitlines()]
        assert looks[-1]["ended"]["text"] == "the program failed: RuntimeError: purpose"
        assert (logs.wait(LIMIT), top.wait(LIMIT)) == (0, 0)
        assert logs.stderr is not None
        assert "the program failed: RuntimeError: purpose" in logs.stderr.read()
    assert driver.end() == 1


def test_ctrl_c_ends_what_follows_quietly(desk: Desk) -> None:
    driver = desk.driver()
    driver.do("say 0 one 1")
    desk.run("top", "-n", "1")  # what is imported for it stays

    def held() -> int:
        return len(os.listdir(f"/proc/{driver.process.pid}/fd"))

    before = held()
    for words in (["logs", "-f"], ["top", "--json"], ["profile", "--seconds", "30"]):
        with desk.begin(*words) as process:
            assert process.stdout is not None
            if words[0] == "profile":
                until(lambda: held() > before, "the driver has taken its request")
            else:
                assert process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT)
            assert (words, process.returncode, err) == (words, 130, "")
    until(lambda: held() <= before, "the driver has let go of who went away")
    driver.do("say 0 two 1")
    assert desk.run("logs", "-n", "1").out == "m1: two 0\n"


def test_a_pipe_that_is_closed_ends_it_quietly(desk: Desk) -> None:
    driver = desk.driver()
    driver.do("say 0 line 20000")
    command = f"{sys.executable} -m bigmachine logs | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], env=desk.environ, capture_output=True, text=True, timeout=LIMIT, check=True
    )
    first, code = done.stdout.splitlines()
    assert first.startswith("m1: line ")
    assert (code, done.stderr) == ("141", "")


def test_of_two_sessions_one_is_chosen(desk: Desk) -> None:
    one, _ = desk.driver("one"), desk.driver("two")
    done = desk.run("logs")
    assert done.code == 3
    assert all(part in done.err for part in ("several sessions run", "one", "two", str(one.process.pid)))
    one.do("say 0 this 1")
    for wanted in ("one", str(one.process.pid)):
        assert desk.run("logs", "-s", wanted).out == "m1: this 0\n"
    assert desk.run("logs", "-s", "two").out == ""
    one.end()
    assert desk.run("logs").code == 0, "only one is left"


def test_a_driver_that_stands_still_is_shown_and_does_not_hold_up(desk: Desk) -> None:
    driver = desk.driver()
    sessions(desk)
    driver.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        (told,) = sessions(desk)
        assert (told["running"], told["answers"]) == (True, False)
        assert "its driver does not answer" in desk.run("ls").out
        assert time.monotonic() - began < 15
    finally:
        driver.process.send_signal(signal.SIGCONT)


def _ask(path: str, request: bytes, *, as_user: int | None = None) -> Mapping[str, Any]:
    """Ask a session without our client, in a process of its own."""
    program = f"""
import os, socket, sys
user = {as_user!r}
if user is not None:
    os.setgroups([]); os.setgid(user); os.setuid(user)
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(20)
connection.connect({path!r})
try:
    connection.sendall(sys.stdin.buffer.read())
    connection.shutdown(socket.SHUT_WR)
except BrokenPipeError:
    pass  # it is refused before it is read
try:
    while data := connection.recv(65536):
        sys.stdout.buffer.write(data)
except ConnectionResetError:
    pass  # it was not read to its end
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], input=request, capture_output=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_is_refused(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> None:
    desk.driver()
    sockets = list(desk.register.glob("*.sock"))
    assert [path.stat().st_mode & 0o777 for path in [desk.register, *sockets]] == [0o700, 0o600]
    path = str(sockets[0])
    request = b'{"do": "brief"}\n'
    assert _ask(path, request)["ok"]
    with pytest.raises(AssertionError, match="PermissionError"):
        _ask(path, request, as_user=4712)
    # Even where the modes were opened by mistake.
    opened = {each: each.stat().st_mode for each in [sockets[0], *sockets[0].parents[:-1]]}
    for each in opened:
        each.chmod(0o777)
    try:
        assert _ask(path, request, as_user=4712)["error"]["kind"] == "forbidden"
    finally:
        for each, mode in opened.items():
            each.chmod(mode & 0o7777)


def test_whatever_is_sent_the_session_lives(desk: Desk) -> None:
    driver = desk.driver()
    path = str(next(desk.register.glob("*.sock")))
    for request, kind in {
        b"": "invalid",
        b"\n": "invalid",
        b"nonsense\n": "invalid",
        b"[]\n": "unknown",
        b'{"do": "nothing"}\n': "unknown",
        b'{"do": 7}\n': "unknown",
        b'{"do": ["brief"]}\n': "unknown",
        b'{"do": "logs", "machines": "m1"}\n': "invalid",
        b'{"do": "logs", "machines": [7]}\n': "missing",
        b'{"do": "logs", "last": true}\n': "invalid",
        b'{"do": "profile", "kind": "no"}\n': "invalid",
        b'{"do": "profile", "options": {"no": 1}}\n': "invalid",
        b'{"do": "dump", "path": "relative"}\n': "invalid",
        b'{"do": "kill"}\n': "invalid",
        b"x" * 1_200_000: "invalid",
    }.items():
        answer = _ask(path, request)
        assert answer["error"]["kind"] == kind, (request[:80], answer)
        assert answer["error"]["text"]
    # Those who come and go, and more than there is room for.
    clients = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    for client in clients:
        client.connect(path)
    for client in clients:
        client.close()
    until(lambda: desk.run("logs").code == 0, "it answers again")
    driver.do("say 0 alive 1")
    assert driver.end() == 0


def test_a_terminal_gets_colours_and_a_table_that_moves(desk: Desk) -> None:
    import pty

    desk.driver()
    parent, child = pty.openpty()
    environ = {**desk.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"}
    environ.pop("NO_COLOR", None)
    for more, is_coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        shown = b""
        with subprocess.Popen(
            [sys.executable, "-m", "bigmachine", "top", "-n", "2"], env={**environ, **more}, stdout=child, stderr=child
        ) as process:
            os.set_blocking(parent, False)
            while process.poll() is None:
                try:
                    shown += os.read(parent, 65536)
                except BlockingIOError:
                    time.sleep(0.02)
        with contextlib.suppress(BlockingIOError):
            shown += os.read(parent, 65536)
        assert process.returncode == 0
        assert b"MACHINE" in shown
        assert b"2 of 2 machines running" in shown
        assert (b"\x1b[32m" in shown) == is_coloured
    os.close(child)
    os.close(parent)


def test_the_client_needs_nothing_of_the_cluster(desk: Desk) -> None:
    """What is only looked at from outside does not load what a driver needs."""
    program = (
        "import sys; from bigmachine.cli.main import main; main(['ls']); "
        "print(sorted({'asyncio', 'cryptography', 'rich', 'boto3', 'uvloop', 'psutil'} & set(sys.modules)))"
    )
    environ = {**desk.environ, "PYTHONPATH": IMPORTABLE}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=LIMIT, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done
