"""Each process gets a directory of its own, in the right place, and what killed agents have left is found."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from bigmachine.agent.processes.scratch import Scratch, directory_environ, make_directory, remove_abandoned
from tests.cluster.processes import wait_for

OLD = 3600.0


def soon() -> float:
    return time.monotonic() + 10


@pytest.fixture
def parent() -> Iterator[Path]:
    """A directory whose path is short, as a host's own is."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


def made(scratch: Scratch, environ: Mapping[str, str], cwd: str = "/") -> str:
    """Assign a directory, and make it as the process does that it is for."""
    path = scratch.assign(environ, cwd)
    assert make_directory(path) == bool(path)
    return path


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    scratch = Scratch()
    yield scratch
    scratch.end(soon())


def abandon(parent: Path, *, age: float = OLD) -> Path:
    """Leave a directory behind as an agent does that is killed with its undertaker."""
    code = (
        "import os, sys; from bigmachine.agent.processes.scratch import Scratch, make_directory\n"
        "made = Scratch().assign({'TMPDIR': sys.argv[1]})\n"
        "make_directory(made); open(f'{made}/file', 'w').close(); print(made)"
    )
    made = subprocess.run([sys.executable, "-c", code, parent], check=True, capture_output=True, text=True).stdout
    base = Path(made.strip()).parent
    os.utime(base / ".host", (time.time() - age,) * 2)
    return base


def test_a_process_has_a_directory_that_only_its_user_may_see(scratch: Scratch, parent: Path) -> None:
    path = made(scratch, {"TMPDIR": str(parent)})
    assert Path(path).parents[1] == parent
    assert [stat.S_IMODE(os.stat(each).st_mode) for each in (path, os.path.dirname(path))] == [0o700, 0o700]


def test_no_two_have_the_same(scratch: Scratch, parent: Path) -> None:
    assert len({made(scratch, {"TMPDIR": str(parent)}) for _ in range(10)}) == 10


@pytest.mark.parametrize("name", ["TMPDIR", "TEMP", "TMP"])
def test_the_directory_that_the_program_was_given_is_the_parent(scratch: Scratch, parent: Path, name: str) -> None:
    assert Path(made(scratch, {name: str(parent)})).is_relative_to(parent)


def test_a_relative_one_is_relative_to_where_the_program_starts(scratch: Scratch, parent: Path) -> None:
    (parent / "here").mkdir()
    assert Path(made(scratch, {"TMPDIR": "here"}, str(parent))).is_relative_to(parent / "here")


def test_one_that_is_not_there_is_replaced_by_the_next(scratch: Scratch, parent: Path) -> None:
    assert Path(made(scratch, {"TMPDIR": str(parent / "no"), "TMP": str(parent)})).is_relative_to(parent)


def test_after_somebody_has_cleaned_up_there_is_a_new_one(scratch: Scratch, parent: Path) -> None:
    first = Path(made(scratch, {"TMPDIR": str(parent)}))
    subprocess.run(["rm", "-r", first.parent], check=True)
    second = Path(made(scratch, {"TMPDIR": str(parent)}))
    assert second.is_dir()
    assert second.is_relative_to(parent)


def test_where_a_socket_would_not_fit_any_more_there_is_none(scratch: Scratch, parent: Path) -> None:
    listener = "pymp-12345678/listener-12345678"
    for length in range(40, 107 - len(listener)):
        path = Path(str(parent) + "/" + "x" * (length - len(str(parent)) - 1))
        path.mkdir()
        directory = made(scratch, {"TMPDIR": str(path)})
        assert len(f"{directory or path}/{listener}") <= 107


def test_all_variables_name_it() -> None:
    assert directory_environ("/x") == {"TMPDIR": "/x", "TEMP": "/x", "TMP": "/x"}
    assert directory_environ("") == {}


def test_a_process_that_ends_takes_its_directory_along_and_no_other(scratch: Scratch, parent: Path) -> None:
    empty, full, other = (Path(made(scratch, {"TMPDIR": str(parent)})) for _ in range(3))
    (full / "sub").mkdir()
    (full / "sub/file").touch()
    scratch.drop(str(empty))
    scratch.drop(str(full))
    wait_for(lambda: not full.exists(), "the directory is removed")
    assert not empty.exists()
    assert other.exists()


def test_at_the_end_nothing_is_left(parent: Path) -> None:
    announced: list[str] = []
    scratch = Scratch(announced.append)
    path = made(scratch, {"TMPDIR": str(parent)})
    (Path(path) / "file").touch()
    assert announced == [os.path.dirname(path)]
    scratch.end(soon())
    assert not list(parent.iterdir())


def test_what_a_killed_agent_has_left_is_removed_by_the_next(scratch: Scratch, parent: Path) -> None:
    base = abandon(parent)
    made(scratch, {"TMPDIR": str(parent)})
    assert base.exists()
    scratch.end(soon())
    assert not list(parent.iterdir())


def test_what_another_agent_has_is_not_touched(scratch: Scratch, parent: Path) -> None:
    path = made(scratch, {"TMPDIR": str(parent)})
    os.utime(os.path.join(os.path.dirname(path), ".host"), (time.time() - OLD,) * 2)
    remove_abandoned(str(parent), soon())
    assert os.path.isdir(path)


def test_nor_what_is_just_being_made(parent: Path) -> None:
    base = abandon(parent, age=0)
    remove_abandoned(str(parent), soon())
    assert base.exists()


def test_nor_what_is_another_hosts(parent: Path) -> None:
    base = abandon(parent)
    (base / ".host").write_text("elsewhere")
    os.utime(base / ".host", (time.time() - OLD,) * 2)
    remove_abandoned(str(parent), soon())
    assert base.exists()


def test_nor_what_only_looks_like_it(parent: Path) -> None:
    (parent / "bm-123456").mkdir()
    (parent / "bm-123456/file").touch()
    base = abandon(parent)
    base.rename(parent / "bm-other")
    (parent / "bm-abcdef").symlink_to(parent / "bm-other")
    remove_abandoned(str(parent), soon())
    assert sorted(path.name for path in parent.iterdir()) == ["bm-123456", "bm-abcdef", "bm-other"]
    assert (parent / "bm-other/1/file").exists()
