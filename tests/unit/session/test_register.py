"""The register of a user's sessions."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bigmachine.session import register
from bigmachine.session.register import HIDDEN, KEPT, Ended, Record


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty runtime directory, and a home beside it."""
    place = tmp_path / "runtime"
    place.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return place


def record(ident: str, pid: int = 0, **fields: object) -> Record:
    pid = pid or os.getpid()
    known = Record(ident, pid, register.born(pid), register.here(), name="a name", started=time.time())
    return replace(known, **fields)  # type: ignore[arg-type]  # whatever a test wants


def file_of(ident: str) -> Path:
    return Path(register.made_folder(), f"{ident}.json")


class TestFolder:
    def test_only_its_user_can_look_into_it(self, runtime: Path) -> None:
        folder = register.made_folder()
        assert Path(folder).parent == runtime
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700

    def test_what_is_made_on_the_way_is_private_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        before = os.umask(0)
        try:
            place = Path(register.made_folder())
            register.save(str(place), record("aaaa1111"))
        finally:
            os.umask(before)
        made = [place, place.parent, tmp_path / "cache", place / "aaaa1111.json"]
        assert [stat.S_IMODE(each.stat().st_mode) for each in made] == [0o700, 0o700, 0o700, 0o600]

    def test_one_that_others_could_look_into_is_closed(self, runtime: Path) -> None:
        (runtime / "bigmachine").mkdir(0o777)
        (runtime / "bigmachine").chmod(0o777)
        assert stat.S_IMODE(os.stat(register.made_folder()).st_mode) == 0o700

    def test_a_link_is_not_followed(self, runtime: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (runtime / "bigmachine").symlink_to(tmp_path / "elsewhere")
        assert register.made_folder() == str(tmp_path / "cache" / "bigmachine" / "sessions")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can make something another user's")
    def test_another_users_is_not_believed(self, runtime: Path, tmp_path: Path) -> None:
        (runtime / "bigmachine").mkdir()
        os.chown(runtime / "bigmachine", 4712, -1)
        os.makedirs(tmp_path / "cache")
        os.chown(tmp_path / "cache", 4712, -1)
        assert Path(register.made_folder()).parent == tmp_path / "temporary"
        assert not (tmp_path / "cache" / "bigmachine").exists()

    def test_without_a_runtime_directory_it_is_in_the_cache(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "not-there"))
        assert register.made_folder() == str(tmp_path / "cache" / "bigmachine" / "sessions")
        assert not (tmp_path / "not-there").exists()


class TestRecords:
    def test_what_is_written_is_read(self) -> None:
        written = record(
            "aaaa1111", argv=["x", "--n=1"], machines=[{"name": "m1"}], cost={"per_hour": 1.0, "total": 2.0}
        )
        register.save(register.made_folder(), written)
        assert [entry.record for entry in register.sessions()] == [written]
        assert stat.S_IMODE(file_of("aaaa1111").stat().st_mode) == 0o600

    def test_a_session_whose_process_is_there_runs(self) -> None:
        register.save(register.made_folder(), record("aaaa1111"))
        assert [entry.is_running for entry in register.sessions()] == [True]

    def test_one_whose_process_is_gone_was_killed(self) -> None:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        folder = register.made_folder()
        register.save(folder, record("aaaa1111", process.pid))
        Path(folder, "aaaa1111.sock").touch()
        process.kill()
        process.wait()
        for _ in range(2):  # the second time as it was noted
            (entry,) = register.sessions()
            assert entry.record.ended is not None
            assert (entry.is_running, entry.record.ended.why) == (False, "gone")
        assert os.listdir(folder) == ["aaaa1111.json"]

    def test_a_process_that_is_not_reaped_yet_is_gone(self) -> None:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        known = record("aaaa1111", process.pid)
        assert register.is_alive(known)
        assert process.stdin is not None
        process.stdin.close()
        end = time.monotonic() + 10
        while register.is_alive(known) and time.monotonic() < end:
            time.sleep(0.005)
        assert not register.is_alive(known)
        process.wait()

    def test_another_process_with_the_same_number_is_not_it(self) -> None:
        register.save(register.made_folder(), record("aaaa1111", born="1"))
        assert [entry.is_running for entry in register.sessions()] == [False]

    def test_sessions_of_another_computer_are_neither_shown_nor_judged(self) -> None:
        register.save(register.made_folder(), record("aaaa1111", pid=1, place="elsewhere", born="1"))
        assert register.sessions() == []
        assert json.loads(file_of("aaaa1111").read_bytes())["ended"] is None

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            "\xff",
            '{"id": "aaaa1111"}',
            '{"id": "aaaa1111", "pid": 1, "born": "", "place": "", "ended": {"at": 1}}',
        ],
    )
    def test_what_is_no_record_is_passed_over(self, text: str) -> None:
        file_of("aaaa1111").write_bytes(text.encode("latin-1"))
        register.save(register.made_folder(), record("bbbb2222"))
        assert [entry.record.id for entry in register.sessions()] == ["bbbb2222"]

    def test_what_a_later_version_adds_does_no_harm(self) -> None:
        told = {**record("aaaa1111").told(), "later": 1}
        file_of("aaaa1111").write_text(json.dumps(told))
        assert [entry.record.id for entry in register.sessions()] == ["aaaa1111"]

    def test_a_link_in_the_place_of_a_record_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "other.json").write_text(json.dumps(record("aaaa1111").told()))
        file_of("aaaa1111").symlink_to(tmp_path / "other.json")
        assert register.sessions() == []

    def test_of_those_that_have_ended_the_last_are_kept(self) -> None:
        folder = register.made_folder()
        now = time.time()
        for number in range(KEPT + 7):
            register.save(folder, record(f"{number:08}", ended=Ended(now - number, "finished", "")))
        register.save(folder, record("running0"))
        assert {entry.record.id for entry in register.sessions()} == {
            "running0",
            *(f"{number:08}" for number in range(KEPT)),
        }
        assert len(os.listdir(folder)) == KEPT + 1

    def test_what_ended_a_week_ago_is_forgotten(self) -> None:
        register.save(register.made_folder(), record("aaaa1111", ended=Ended(time.time() - 8 * 86_400, "error", "x")))
        assert register.sessions() == []
        assert os.listdir(register.made_folder()) == []

    def test_a_full_disk_leaves_the_record_as_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        register.save(register.made_folder(), record("aaaa1111"))

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(OSError, match="No space"):
                register.save(register.made_folder(), record("aaaa1111", name="another"))
        assert os.listdir(register.made_folder()) == ["aaaa1111.json"]
        assert [entry.record.name for entry in register.sessions()] == ["a name"]


def test_a_socket_is_reached_however_deep_its_folder_is(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        with register.reachable(str(folder), "aaaa1111") as path:
            listener.bind(path)
        listener.listen()
        with register.reachable(str(folder), "aaaa1111") as path:
            client.connect(path)
    assert os.listdir(folder) == ["aaaa1111.sock"]


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["p.py", "-n", "5"], ["p.py", "-n", "5"]),
        (["p.py", "--password", "hunter2"], ["p.py", "--password", HIDDEN]),
        (["p.py", "--api-key=hunter2", "x"], ["p.py", f"--api-key={HIDDEN}", "x"]),
        (["p.py", "TOKEN=hunter2"], ["p.py", f"TOKEN={HIDDEN}"]),
        (["p.py", "--secret", "--verbose"], ["p.py", "--secret", "--verbose"]),
        (["p.py", "postgres://me:hunter2@host/base"], ["p.py", HIDDEN]),
        (["p.py", "x" * 1000], ["p.py", f"{'x' * 200}…"]),
    ],
)
def test_of_a_command_line_secrets_are_not_told(argv: list[str], shown: list[str]) -> None:
    assert register.without_secrets(argv) == shown


def test_a_long_command_line_is_cut() -> None:
    assert len(register.without_secrets(["x"] * 10_000)) < 100
