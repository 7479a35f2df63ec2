"""What machines write arrives on the driver: whole, in order, to the last byte, however they end."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from pathlib import Path

import pytest

from tests.cluster.programs import RunProgram, StartProgram, WriteProgram

LAST_WORDS = """
import ctypes, os, sys, bigmachine

class Service:
    def exit(self):
        print("before the exit")
        sys.stdout.write("no newline"); sys.stdout.flush()
        os._exit(3)
    def segfault(self):
        print("before the fault")
        ctypes.string_at(0)
    def kill(self):
        os.write(2, b"bytes \\xff\\x00 that are no text\\n")
        os.kill(os.getpid(), 9)
    def long(self):
        print("x" * 3_000_000)
        print("after")

with bigmachine.start("local") as session:
    machines = session.start(4, services=[Service()])
    for machine, method in zip(machines, ("exit", "segfault", "kill", "long")):
        try:
            machine.call(f"Service.{method}")
        except bigmachine.MachineStopped:
            pass
"""


def test_no_death_takes_the_last_line_with_it(run_program: RunProgram, write: WriteProgram) -> None:
    err = run_program(write("words.py", LAST_WORDS)).err
    lines = err.splitlines()
    assert "m1: before the exit" in lines
    assert "m1: no newline" in lines
    told = next(number for number, line in enumerate(lines) if "machine m1 stopped (exited)" in line)
    assert lines.index("m1: no newline") < told
    assert "m2: before the fault" in lines
    assert "m2: Fatal Python error: Segmentation fault" in lines
    assert "m3: bytes \ufffd\0 that are no text" in lines
    # The standard library may show a long line in pieces; none of them is missing.
    assert sum(line.count("x") for line in lines if re.fullmatch("m4: x+", line)) == 3_000_000
    assert "m4: after" in lines


UNTIL_THE_END = """
import os, sys, threading, time, bigmachine

class Talker:
    def talk(self, path):
        self.file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.truncate(path, 16)
        for name in ("stdout", "stderr"):
            threading.Thread(target=self.run, args=(name,), daemon=True).start()
    def run(self, name):
        number = 0
        while True:
            print(f"{name} {number}", file=getattr(sys, name))
            number += 1
            os.pwrite(self.file, number.to_bytes(8, "big"), 0 if name == "stdout" else 8)

with bigmachine.start("local") as session:
    machines = session.start(5, services=[Talker()])
    for machine in machines:
        machine.call(Talker.talk, machine.name)
    time.sleep(0.3)
"""


def test_shutdown_under_load_loses_no_line(run_program: RunProgram, write: WriteProgram, tmp_path: Path) -> None:
    err = run_program(write("talkers.py", UNTIL_THE_END)).err
    shown: dict[tuple[str, str], list[int]] = {}
    for line in err.splitlines():
        if match := re.fullmatch(r"(m\d): (stdout|stderr) (\d+)", line):
            shown.setdefault((match[1], match[2]), []).append(int(match[3]))
    assert len(shown) == 10
    for (machine, stream), numbers in shown.items():
        assert numbers == list(range(len(numbers))), f"{machine} {stream}"
        data = (tmp_path / machine).read_bytes()
        written = int.from_bytes(data[:8] if stream == "stdout" else data[8:], "big")
        assert len(numbers) >= written > 100, f"{machine} {stream}"


CHILDREN = """
import multiprocessing, os, subprocess, sys, bigmachine

def child():
    print("a forked child")

class Service:
    def start(self):
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        subprocess.run(["sh", "-c", "echo a shell; echo its error >&2"])
        subprocess.run(["sh", "-c", "echo another session"], start_new_session=True)
        os.system("printf 'no newline'")

with bigmachine.start("local") as session:
    session.start(1, services=[Service()])[0].call(Service.start)
"""


def test_what_a_machines_own_processes_print_arrives_too(run_program: RunProgram, write: WriteProgram) -> None:
    err = run_program(write("children.py", CHILDREN)).err
    expected = ["a forked child", "a shell", "its error", "another session", "no newline"]
    assert sorted(err.splitlines()) == sorted(f"m1: {text}" for text in expected)


BURST = """
import sys, bigmachine

class Service:
    def burst(self, megabytes):
        line = "%07d " + "x" * 91 + "\\n"
        for start in range(0, megabytes * 10_000, 1000):
            sys.stdout.write("".join([line % number for number in range(start, start + 1000)]))
        sys.stdout.flush()
        open("done", "w").close()

with bigmachine.start("local") as session:
    session.start(1, services=[Service()])[0].call(Service.burst, 40)
"""


def test_a_burst_arrives_whole(run_program: RunProgram, write: WriteProgram) -> None:
    lines = run_program(write("burst.py", BURST)).err.splitlines()
    assert len(lines) == 400_000
    assert all(line.startswith(f"m1: {number:07d} ") and len(line) == 103 for number, line in enumerate(lines))


def begin_burst(start_program: StartProgram, path: Path, output: str, patience: float) -> tuple[bytes, bool]:
    """Run the burst with a standard error that nobody reads for so long; give that, and whether the machine waited."""
    read, written = os.pipe()
    try:
        program = start_program(path, environ={"BIGMACHINE_OUTPUT": output}, terminal=written)
        os.close(written)
        with open(read, "rb", closefd=False) as pipe:
            data = pipe.read(1)  # it has begun
            end = time.monotonic() + patience
            while not (path.parent / "done").exists() and time.monotonic() < end:
                time.sleep(0.01)
            has_waited = not (path.parent / "done").exists()
            data += pipe.read()
        assert program.wait().status == 0
        return data, has_waited
    finally:
        os.close(read)


def test_a_reader_that_stops_makes_machines_wait(start_program: StartProgram, write: WriteProgram) -> None:
    data, has_waited = begin_burst(start_program, write("burst.py", BURST), "stream", 1.0)
    assert has_waited
    assert data.count(b"\n") == 400_000


def test_who_prefers_it_has_lines_dropped_and_no_machine_waits(
    start_program: StartProgram, write: WriteProgram
) -> None:
    data, has_waited = begin_burst(start_program, write("burst.py", BURST), "stream,drop", 20.0)
    assert not has_waited
    lines = data.decode().splitlines()
    dropped = [int(match[1]) for line in lines if (match := re.fullmatch(r"m1: \.\.\. (\d+) lines of .*", line))]
    assert dropped
    assert sum(dropped) + len(lines) - len(dropped) == 400_000
    assert all(re.fullmatch(r"m1: \d{7} x{91}", line) for line in lines if " lines of " not in line)


BOOT = """
import logging, os, sys, bigmachine
print("top level")
if not bigmachine.is_driver() and "FAIL" in os.environ:
    sys.exit("it fails")
if "DEBUG" in os.environ:
    logging.getLogger("bigmachine").setLevel(logging.DEBUG)

class Service:
    def init(self, session):
        print("init")
    def call(self):
        print("call")

with bigmachine.start("local") as session:
    for _ in range(6):
        (machine,) = session.start(1, services=[Service()])
        try:
            machine.call(Service.call)
        except bigmachine.MachineStopped:
            pass
        machine.shutdown()
"""


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("", [*["init", "call"] * 6]),
        ("DEBUG", [*["top level", "init", "call"] * 6]),
        ("FAIL", ["top level", "it fails"]),
    ],
)
def test_a_start_is_shown_at_debug_level_or_after_five_failures(
    run_program: RunProgram, write: WriteProgram, setting: str, shown: list[str]
) -> None:
    outcome = run_program(write("boot.py", BOOT), environ={setting: "1"} if setting else {})
    assert re.findall(r"^m\d: (.*)", outcome.err, re.MULTILINE) == shown
    assert outcome.out == "top level\n"
    assert ("m6 shows what it writes" in outcome.err) == (setting == "FAIL")


FILES = """
import sys, bigmachine

class Service:
    def call(self, text):
        print(text)
        print("error of", text, file=sys.stderr)
    def die(self):
        sys.stdout.write("last words")
        sys.stdout.flush()
        import os
        os.kill(os.getpid(), 9)

with bigmachine.driver.start() as session:
    one, other = session.start(2, services=[Service()])
    one.call(Service.call, "one")
    other.call(Service.call, "other")
    try:
        one.call(Service.die)
    except bigmachine.MachineStopped:
        pass
"""


def test_files_and_events_are_chosen_by_flags(run_program: RunProgram, write: WriteProgram, tmp_path: Path) -> None:
    outcome = run_program(write("files.py", FILES), "--bigm.output=files:logs", "--bigm.events", "events.jsonl")
    assert not re.search("^m[12]: ", outcome.err, re.MULTILINE)
    assert sorted((tmp_path / "logs/m1.log").read_text().splitlines()) == ["error of one", "last words", "one"]
    assert sorted((tmp_path / "logs/m2.log").read_text().splitlines()) == ["error of other", "other"]
    assert stat.S_IMODE((tmp_path / "logs/m1.log").stat().st_mode) == 0o600
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    of_one = [event for event in events if event["machine"] == "m1"]
    assert [event["kind"] for event in of_one] == ["start", "alive", "error", "stop"]
    assert [event["kind"] for event in events if event["machine"] == "m2"] == ["start", "alive", "stop"]
    assert of_one[2]["certificate"]["signal"] == 9
    assert of_one[2]["certificate"]["peak_memory"] > 0
    assert 0 < of_one[1]["duration_s"] < of_one[3]["duration_s"] < 30
    assert events[-1]["cause"] == "shutdown"
