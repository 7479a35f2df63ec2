"""Standard error, files and functions get machines' lines, each in its way."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from bigmachine.errors import InvalidCall
from bigmachine.session.output import OutputLine, display_for
from bigmachine.session.output.destinations import ToFiles, ToFunction, ToStderr


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def stderr(monkeypatch: pytest.MonkeyPatch, encoding: str | None = None) -> io.StringIO | io.TextIOWrapper:
    stream = io.StringIO() if encoding is None else io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def said(stream: io.StringIO | io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


# standard error that is no terminal


def test_lines_are_written_with_their_machines_names_when_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, to = stderr(monkeypatch), ToStderr()
    to.write("m1", "stdout", "one\ntwo\n")
    to.write("m2", "stderr", "three\n")
    assert said(stream) == ""
    assert to.flush() is None
    assert said(stream) == "m1: one\nm1: two\nm2: three\n"


def test_standard_error_is_what_it_is_at_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr(monkeypatch)
    to = ToStderr()
    for _ in range(2):
        stream = stderr(monkeypatch)
        to.write("m1", "stdout", "hello\n")
        to.flush()
        assert said(stream) == "m1: hello\n"


def test_a_missing_or_closed_standard_error_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        to = ToStderr()
        to.write("m1", "stdout", "hello\n")
        to.flush()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_the_encoding_does_not_have_is_escaped(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    stream, to = stderr(monkeypatch, encoding), ToStderr()
    to.write("m1", "stdout", "日\n")
    to.flush()
    assert said(stream) == "m1: \\u65e5\n"


def test_a_bar_that_moves_says_so_from_time_to_time(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    stream, to = stderr(monkeypatch), ToStderr(clock)
    for percent in range(100):
        to.rewrite("m1", "stderr", f"{percent} %")
        clock.now += 0.3
    to.flush()
    lines = said(stream).splitlines()
    assert lines == ["m1: 34 %", "m1: 68 %"]


def test_a_short_bar_says_nothing_before_its_end(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    stream, to = stderr(monkeypatch), ToStderr(clock)
    for _ in range(5):
        for percent in range(10):
            to.rewrite("m1", "stderr", f"{percent} %")
            clock.now += 0.5
        to.rewrite("m1", "stderr", "")
    to.flush()
    assert said(stream) == ""


# files


@pytest.fixture
def files(tmp_path: Path) -> Iterator[ToFiles]:
    files = ToFiles(str(tmp_path / "logs"), "")
    yield files
    files.close()


def test_each_machine_has_a_file_that_only_this_user_reads(files: ToFiles, tmp_path: Path) -> None:
    files.write("m1", "stdout", "one\n")
    files.write("m2", "stdout", "two\n")
    files.write("m1", "stderr", "thrée\n")
    assert (tmp_path / "logs/m1.log").read_text(encoding="utf-8") == "one\nthrée\n"
    assert (tmp_path / "logs/m2.log").read_text() == "two\n"
    assert stat.S_IMODE((tmp_path / "logs/m1.log").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "logs").stat().st_mode) == 0o700


def test_a_file_is_closed_with_its_machine_and_appended_to_by_the_next(files: ToFiles, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for text in ("one\n", "two\n"):
        files.write("m1", "stdout", text)
        files.end("m1")
    assert len(os.listdir("/proc/self/fd")) == before
    assert (tmp_path / "logs/m1.log").read_text() == "one\ntwo\n"


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", ".hidden", "a b\n", "x" * 500])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    files = ToFiles(str(tmp_path / "logs"), name)
    files.write("m1", "stdout", "one\n")
    files.close()
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    (path,) = (tmp_path / "logs").iterdir()
    assert path.read_text() == "one\n"
    assert not path.name.startswith(".")


def test_a_link_in_a_files_place_is_not_followed_and_that_is_told_once(
    files: ToFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs/m1.log").symlink_to(tmp_path / "elsewhere")
    for machine in ("m1", "m2", "m1"):
        files.write(machine, "stdout", "one\n")
    assert not (tmp_path / "elsewhere").exists()
    assert (tmp_path / "logs/m2.log").read_text() == "one\n"
    assert len(caplog.records) == 1
    assert "output of m1 is lost" in caplog.text


# functions


def test_a_function_gets_each_line() -> None:
    lines: list[OutputLine] = []
    ToFunction(lines.append).write("m1", "stderr", "one\n\ntwo\n")
    assert lines == [OutputLine("m1", "stderr", text) for text in ("one", "", "two")]


def test_a_function_that_fails_is_told_once_and_called_on(caplog: pytest.LogCaptureFixture) -> None:
    lines: list[str] = []

    def function(line: OutputLine) -> None:
        lines.append(line.text)
        raise ValueError("no luck")

    ToFunction(function).write("m1", "stdout", "one\ntwo\n")
    assert lines == ["one", "two"]
    assert len(caplog.records) == 1
    assert "no luck" in caplog.text


# the choice


def test_what_says_nothing_is_refused() -> None:
    for target in ("strem", "files:", "", "stream;drop", "off,", cast(str, 7)):
        with pytest.raises(InvalidCall, match="output="):
            display_for(target, "")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file/logs", f"files:{tmp_path}/file/logs", tmp_path / "file"):
        with pytest.raises(InvalidCall, match=r"output=.* cannot be made"):
            display_for(target, "")


def test_a_path_and_its_word_are_the_same(tmp_path: Path) -> None:
    targets: list[Path | str] = [tmp_path / "0", f"files:{tmp_path}/1", f"files:{tmp_path}/2,drop"]
    for number, target in enumerate(targets):
        display = display_for(target, "big")
        display.wrote("m1", "stdout", b"one\n")
        display.close(10, 10)
        assert (tmp_path / f"{number}/big-m1.log").read_text() == "one\n"
