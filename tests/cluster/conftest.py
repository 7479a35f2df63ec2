"""Fixtures of the tests that run real programs: each is bounded, and leaves no process behind."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.cluster.processes import Cluster
from tests.cluster.programs import (
    Outcome,
    Running,
    RunProgram,
    StartProgram,
    WriteProgram,
    assert_gone,
    kill_left,
    program_environment,
)


@pytest.fixture
def start_program(tmp_path: Path) -> Iterator[StartProgram]:
    """Start programs; at the end of the test none of their processes may be left."""
    marks: list[str] = []
    with contextlib.ExitStack() as cleanup:

        def start(
            *arguments: str | Path,
            cwd: Path | None = None,
            environ: Mapping[str, str] | None = None,
            stdin: str | int = "",
            terminal: int | None = None,
            executable: str | Path = sys.executable,
        ) -> Running:
            mark = uuid.uuid4().hex
            marks.append(mark)
            out, err, source = (cleanup.enter_context(tempfile.TemporaryFile()) for _ in range(3))
            if isinstance(stdin, str):
                source.write(stdin.encode())
                source.seek(0)
            process = subprocess.Popen(
                [executable, *arguments],
                cwd=cwd or tmp_path,
                env=program_environment(mark, environ),
                stdin=source if isinstance(stdin, str) else stdin,
                stdout=out if terminal is None else terminal,
                stderr=err if terminal is None else terminal,
                start_new_session=True,
            )
            cleanup.callback(process.wait)
            cleanup.callback(kill_left, mark)
            return Running(process, mark, out, err)

        yield start
        for mark in marks:
            assert_gone(mark)


@pytest.fixture
def run_program(start_program: StartProgram) -> RunProgram:
    """Run a program to its end."""

    def run(
        *arguments: str | Path,
        status: int | None = 0,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
        stdin: str = "",
        executable: str | Path = sys.executable,
        timeout: float = 30.0,
    ) -> Outcome:
        program = start_program(*arguments, cwd=cwd, environ=environ, stdin=stdin, executable=executable)
        outcome = program.wait(timeout)
        assert_gone(program.mark)
        if status is not None:
            assert outcome.status == status, f"it exited with {outcome.status}\n{outcome.out}\n{outcome.err}"
        return outcome

    return run


@pytest.fixture
def write(tmp_path: Path) -> WriteProgram:
    """Write files of programs below the test's own folder."""

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_file


@pytest.fixture(params=["agent", "machine"])
def called(request: pytest.FixtureRequest, cluster: Cluster) -> str:
    """Whom the stranger calls by TLS."""
    return cluster.agent_id if request.param == "agent" else cluster.machine_id
