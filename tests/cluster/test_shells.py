"""Shells, files and editors on machines, by the command line; and who may not have them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from socket import create_connection
from typing import Any, BinaryIO

import pytest

import bigmachine
from bigmachine import AuthenticationError
from bigmachine.agent.conversing import Conversing
from bigmachine.rpc import Link, TlsDialer
from bigmachine.trust import Role, client_context
from tests.cluster.programs import StartProgram
from tests.cluster.talks import Terminal, command


class Work:
    """What machines do here."""

    def __init__(self) -> None:
        self.found = 0

    def quick(self) -> str:
        return "quick"

    def count(self, number: int) -> int:
        self.found = number + 1
        return self.found

    async def wait(self, number: int) -> int:
        self.found = number + 1
        return self.found


class Scene:
    """A session of this process with two machines, and commands to it."""

    def __init__(self, session: bigmachine.Session, environ: dict[str, str]) -> None:
        self.session = session
        self.environ = environ

    def run(self, *words: str, typed: bytes = b"", status: int = 0) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, *command(*words)],
            input=typed,
            capture_output=True,
            env=self.environ,
            timeout=60,
            check=False,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert done.returncode == status, (done.returncode, out, err)
        return out, err


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    place = str(tmp_path_factory.mktemp("place"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", place)
        patch.setenv("XDG_CACHE_HOME", place)
        with bigmachine.start("local", name="shells") as session:
            for machine in session.start(2, services=[Work()]):
                machine.wait()
            yield Scene(session, dict(os.environ))


@pytest.fixture
def person(scene: Scene, start_program: StartProgram) -> Iterator[Any]:
    with contextlib.ExitStack() as opened:

        def come(*words: str) -> Terminal:
            terminal = Terminal(start_program, *command(*words), environ=scene.environ)
            opened.callback(terminal.close)
            return terminal

        yield come


# shells


def test_a_shell_runs_code_awaits_and_gives_its_fate_as_exit_code(scene: Scene) -> None:
    code = "import asyncio\nprint(machine, await asyncio.sleep(0, 5), Work.quick())"
    assert scene.run("shell", "m2", "-c", code) == ("m2 5 quick\n", "")
    assert "NameError: name 'time' is not" in scene.run("shell", "m2", "-c", "await time.sleep(0)", status=1)[0]
    assert "SyntaxError" in scene.run("shell", "m2", "-c", "for x in", status=1)[0]
    assert "no machine 'm9': there is m1, m2" in scene.run("shell", "m9", "-c", "1", status=3)[1]


def test_leaving_a_shell_does_not_end_the_machine(scene: Scene) -> None:
    code = "import sys\nasync def leave(): sys.exit(3)\nawait leave()"
    scene.run("shell", "m1", "-c", code, status=1)
    scene.run("shell", "m1", "-c", "exit()")
    assert scene.session.machines()[0].call(Work.quick) == "quick"


def test_what_others_print_does_not_come_to_a_shell_and_what_its_tasks_print_does(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import threading\n"
        "thread = threading.Thread(target=lambda: print('of the program'))\n"
        "thread.start(); thread.join()\n"
        "async def task(): print('of the task')\n"
        "await task()"
    )
    assert scene.run("shell", "m1", "-c", code)[0] == "of the task\n"
    scene.session._display.wait(10)
    end = time.monotonic() + 10
    said = ""
    while "m1: of the program" not in (said := said + capsys.readouterr().err):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_shell_in_a_terminal_is_interrupted_by_ctrl_c_and_left_by_ctrl_d(scene: Scene, person: Any) -> None:
    terminal = person("shell", "m1")
    terminal.expect(r">>> ")
    terminal.type("import asyncio\n")
    terminal.expect(r">>> ")
    for line in "while True: pass\n\n", "await asyncio.sleep(100)\n":
        terminal.type(line)
        time.sleep(0.7)
        terminal.type("\x03")
        terminal.expect(r"KeyboardInterrupt\n>>> ")
    terminal.type("6 * 7\n")
    terminal.expect(r"42\n>>> ")
    terminal.type("\x04")
    assert terminal.wait() == 0


# files


def test_a_file_goes_there_and_back_with_its_permissions(scene: Scene, tmp_path: Path) -> None:
    here, there, back = tmp_path / "here.bin", tmp_path / "there", tmp_path / "back.bin"
    there.mkdir()
    here.write_bytes(os.urandom(3_000_001))
    here.chmod(0o750)
    assert scene.run("cp", str(here), f"m1:{there}")[0] == f"m1:{there}/here.bin  3000001 bytes\n"
    assert (there / "here.bin").read_bytes() == here.read_bytes()
    assert (there / "here.bin").stat().st_mode & 0o777 == 0o750
    told = json.loads(scene.run("cp", f"m2:{there}/here.bin", str(back), "--json")[0])
    assert told["size"] == 3_000_001
    assert back.read_bytes() == here.read_bytes()
    assert back.stat().st_mode & 0o777 == 0o750


def test_what_cannot_be_copied_is_told_and_leaves_nothing(scene: Scene, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    none, nowhere = tmp_path / "none", tmp_path / "nowhere" / "x"
    assert f"{nowhere} on m1 cannot be read: No such file" in scene.run("cp", f"m1:{nowhere}", ".", status=1)[1]
    assert "cannot be written: No such file" in scene.run("cp", str(source), f"m1:{nowhere}", status=1)[1]
    assert "/dev/null on m1 is no file" in scene.run("cp", "m1:/dev/null", str(tmp_path), status=1)[1]
    told = f"bigmachine: {none} cannot be read: No such file or directory\n"
    assert scene.run("cp", str(none), "m1:/tmp/x", status=1)[1] == told
    told = f"bigmachine: {nowhere} could not be written: No such file or directory\n"
    assert scene.run("cp", f"m1:{source}", str(nowhere), status=1)[1] == told
    assert "is a folder" in scene.run("cp", str(tmp_path), "m1:/tmp/x", status=1)[1]
    assert "no machine 'm7'" in scene.run("cp", str(source), "m7:/tmp/x", status=3)[1]
    scene.run("cp", str(source), str(tmp_path / "other"), status=2)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    disk = tmp_path / "small"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_at_either_end_is_told_and_what_was_there_stays(scene: Scene, tmp_path: Path, small: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(20_000_000))
    (small / "kept").write_bytes(b"before")
    _, told = scene.run("cp", str(large), f"m1:{small}/kept", status=1)
    assert f"{small}/kept on m1 cannot be written: No space left on device" in told
    assert "No space left on device" in scene.run("cp", f"m1:{large}", f"{small}/kept", status=1)[1]
    assert [(path.name, path.read_bytes()) for path in small.iterdir()] == [("kept", b"before")]


# an editor


class Editor:
    """As much of an editor as speaks the Debug Adapter Protocol."""

    def __init__(self, port: int) -> None:
        self._sock = create_connection(("127.0.0.1", port), 30)
        self._sock.settimeout(60)
        self._file: BinaryIO = self._sock.makefile("rb")
        self._number = 0

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        self._number += 1
        request = {"seq": self._number, "type": "request", "command": what, "arguments": arguments}
        body = json.dumps(request).encode()
        self._sock.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        return self.wait_for(lambda told: told.get("request_seq") == self._number)

    def wait_for(self, fits: Any) -> dict[str, Any]:
        while True:
            length = 0
            while (line := self._file.readline()) != b"\r\n":
                assert line, "the connection has ended"
                length = int(line.partition(b":")[2])
            told: dict[str, Any] = json.loads(self._file.read(length))
            if fits(told):
                return told

    def close(self) -> None:
        self._file.close()
        self._sock.close()


def listening(pid: int) -> set[str]:
    """Return where a process listens by TCP."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.update(re.findall(r"socket:\[(\d+)\]", os.readlink(entry)))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[3] == "0A" and row[9] in inodes}


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_an_editor_debugs_a_machine_twice_and_no_port_is_opened_on_its_host(scene: Scene) -> None:
    pytest.importorskip("debugpy")
    machine = scene.session.machines()[0]
    debugging = subprocess.Popen(
        [sys.executable, *command("debug", "m1", "--json")], env=scene.environ, stdout=subprocess.PIPE
    )
    assert debugging.stdout is not None
    try:
        text = b""
        while not text.endswith(b"\n}\n"):
            text += debugging.stdout.readline()
        launch = json.loads(text)
        for number, method in enumerate((Work.count, Work.wait)):
            line = method.__code__.co_firstlineno + 2
            editor = Editor(launch["connect"]["port"])
            assert editor.ask("initialize", adapterID="debugpy", pathFormat="path")["success"]
            assert editor.ask("attach", justMyCode=False)["success"]
            breakpoints = editor.ask("setBreakpoints", source={"path": __file__}, breakpoints=[{"line": line}])
            assert breakpoints["body"]["breakpoints"][0]["verified"]
            assert editor.ask("configurationDone")["success"]
            call = machine.submit(method, number)
            stopped = editor.wait_for(lambda told: told.get("event") == "stopped")
            assert listening(machine.call("Supervisor.getpid")) == set()
            thread = stopped["body"]["threadId"]
            frame = editor.ask("stackTrace", threadId=thread)["body"]["stackFrames"][0]
            assert frame["line"] == line
            value = editor.ask("evaluate", expression="number + 1", frameId=frame["id"], context="watch")
            assert value["body"]["result"] == str(number + 1)
            editor.close()  # as one that crashes: the program goes on
            assert call.result() == number + 1
    finally:
        debugging.send_signal(signal.SIGINT)
        assert debugging.wait(10) == 130
        debugging.stdout.close()


# who may


def test_only_the_driver_has_shells_files_and_debuggers(scene: Scene) -> None:
    session = scene.session
    machine = session.machines()[0]
    host, _, port = machine.address.partition("/")[0].rpartition(":")
    agent_id = machine.machine_id.rpartition("-")[0]
    assert session._authority is not None
    for role in Role.MACHINE, Role.CLIENT, Role.AGENT:
        identity = session._authority.issue(role, f"{agent_id}-m99" if role is Role.MACHINE else "stranger")
        dialer = TlsDialer(host, int(port), agent_id, identity.session, (Role.AGENT,), client_context(identity))
        link = Link(session._reactor, dialer, name="intruder")
        try:
            methods = [name for name in vars(Conversing) if not name.startswith("_")]
            assert {"converse", "halts", "read_file", "stat_file", "write_file"} <= set(methods)
            for name in methods:
                call = link.submit(f"Supervisor@{machine.machine_id}.{name}", ("/etc/passwd",), {}, 20)
                with pytest.raises(AuthenticationError, match="only the driver"):
                    call.result(20)
        finally:
            link.close(ConnectionError("the test is over"))


def test_a_service_on_a_machine_reaches_no_shell_of_another(scene: Scene) -> None:
    code = (
        "from bigmachine import AuthenticationError\n"
        "other = session.dial({address!r})\n"
        "try:\n    await other.submit('Supervisor.read_file', '/etc/passwd')\n"
        "except AuthenticationError as error:\n    print('refused')"
    )
    address = scene.session.machines()[1].address
    assert scene.run("shell", "m1", "-c", code.replace("{address!r}", repr(address)))[0] == "refused\n"


def test_a_port_that_somebody_has_is_told(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        err = scene.run("debug", "m1", "--port", str(port), status=1)[1]
    told = f"bigmachine: port {port} of 127.0.0.1 is not to be had (Address already in use): without --port"
    assert err.startswith(told)
