"""A host's own Python that a program names: it is found there, or refused with what it is."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from bigmachine.agent.named_python import find
from bigmachine.agent.processes.reaper import Reaper
from bigmachine.errors import ImageError
from bigmachine.image.platforms import this_platform

OURS = this_platform()


def found(named: str, minor: str = OURS.minor, abi: str = OURS.abi) -> str:
    async def ask() -> str:
        reaper = Reaper(asyncio.get_running_loop())
        try:
            return await find(reaper, named, minor, abi)
        finally:
            reaper.close()

    return asyncio.run(ask())


def test_an_interpreter_that_fits_is_found_behind_its_environment() -> None:
    expected = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    assert os.path.realpath(found(sys.executable)) == expected


def test_a_name_is_looked_up_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours").symlink_to(os.path.realpath(sys.executable))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert os.path.isabs(found("ours"))
    with pytest.raises(ImageError, match=r"theirs of Image\(python=\.\.\.\) is not there on the PATH \("):
        found("theirs")


def test_one_that_is_not_there_is_named_with_the_host() -> None:
    with pytest.raises(ImageError, match=rf"^{os.uname().nodename}: the Python /nope/python3 of .* is not there"):
        found("/nope/python3")


@pytest.mark.parametrize(("minor", "abi"), [("3.2", OURS.abi), (OURS.minor, "cpython-32mu")])
def test_one_of_another_version_or_build_is_refused(minor: str, abi: str) -> None:
    with pytest.raises(ImageError, match=rf"is Python {OURS.python} \(.*packages are for Python {minor} \({abi}\)"):
        found(sys.executable, minor, abi)


def test_what_is_no_python_is_told_apart() -> None:
    with pytest.raises(ImageError, match=r"/bin/false of .* does not run as a Python"):
        found("/bin/false")
    with pytest.raises(ImageError, match=r"/bin/true of .* does not run as a Python"):
        found("/bin/true")
