"""Packages that only machines are to have (`Image(packages=...)`) and that cannot be had: said at the start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
#: The host's address is one that nobody answers at; a driver that tried to log in would not end so soon.
PROGRAM = """
import sys
import bigmachine
from bigmachine.errors import BigmachineError
from bigmachine.systems.ssh import SSHSystem

class Nothing:
    pass

if __name__ == "__main__":
    try:
        with bigmachine.start(SSHSystem("nobody@127.0.0.1:9")) as session:
            session.start(1, services=[Nothing()], image=bigmachine.Image(program=__file__, packages=sys.argv[1:]))
    except BigmachineError as error:
        print("FAILED", type(error).__name__, error)
"""


def drive(folder: Path, package: str, **environ: str) -> str:
    pytest.importorskip("asyncssh")
    if shutil.which("uv", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}") is None:
        pytest.skip("needs uv (pip install uv)")
    program = folder / "program.py"
    program.write_text(PROGRAM)
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    settings = {name: value for name, value in os.environ.items() if not name.startswith("BIGMACHINE_")}
    settings |= {"PATH": path, "PYTHONPATH": str(PROJECT / "src"), "XDG_CACHE_HOME": str(folder / "cache"), **environ}
    done = subprocess.run(
        [sys.executable, str(program), package], env=settings, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_index_that_is_not_reached_is_said_before_any_login(tmp_path: Path) -> None:
    """Also where its name is not known, which nothing is installed against."""
    none = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_INDEX_URL": "http://127.0.0.1:9/simple"}
    told = drive(tmp_path, "no-such-thing", **none, UV_CACHE_DIR=str(tmp_path / "uv"), UV_HTTP_RETRIES="0")
    assert told.startswith("FAILED ImageError resolve: no-such-thing cannot be looked up for "), told
    assert "since the package index was not reached" in told


@pytest.mark.parametrize("package", ["six==99.1", "docopt"])
def test_what_no_host_can_have_is_said_before_any_login(tmp_path: Path, package: str) -> None:
    told = drive(tmp_path, package)
    if "index was not reached" in told:
        pytest.skip("needs a package index that uv can reach")
    assert told.startswith(f"FAILED ImageError resolve: {package} "), told
    assert "Image(packages=...)" in told
    assert "without" not in told


def test_what_other_platforms_may_have_is_left_to_the_hosts(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("it can be had here")
    told = drive(tmp_path, "pywin32")
    if "index was not reached" in told:
        pytest.skip("needs a package index that uv can reach")
    assert "FAILED ProvisionError" in told or "FAILED NetworkError" in told, told
