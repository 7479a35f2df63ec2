"""`Image(python=...)`: machines run on the host's Python of that name, with the program's packages, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.labs.ssh.lab import Lab


@pytest.fixture
def another(lab: Lab) -> Iterator[str]:
    """The host's own Python at a place of its own, and an environment made from that; it has no packages."""
    lab.on(1, "mkdir -p /home/another/bin; cp $(readlink -f /usr/bin/python3) /home/another/bin/python3")
    lab.on(1, "/home/another/bin/python3 -m venv --without-pip /home/another/env")
    yield "/home/another"
    shutil.rmtree(lab.files / "h1" / "home" / "another")


@pytest.mark.parametrize("name", ["bin/python3", "env/bin/python3"])
def test_a_machine_runs_on_the_hosts_own_that_was_named_with_the_programs_packages(
    lab: Lab, another: str, name: str
) -> None:
    outcome = lab.run("named_python.py", f"{another}/{name}", hosts="{1}")
    assert outcome.out.startswith("WHICH"), outcome.out
    _, executable, _, prefix, package, standard = outcome.out.split()
    assert executable == f"{another}/bin/python3"
    kept = f"{lab.on(1, 'echo ~').strip()}/.cache/bigmachine/v1/"
    assert prefix.startswith(f"{kept}images/")
    assert package.startswith(kept), "from the program's image"
    assert not standard.startswith(kept), "the standard library is the host's"


def test_one_that_is_not_there_or_does_not_fit_is_named_with_its_host(lab: Lab) -> None:
    told = lab.run("named_python.py", "/nope/python3", hosts="{1}").out
    assert told.startswith("FAILED MachineStopped"), told
    assert "/nope/python3 of Image(python=...) is not there" in told
    assert f"{lab.name(1)}: the Python" in told
    with lab.saying(1, "perl", "bigmachine: 3.2.1 cpython-32mu /usr/bin/python3.2"):
        told = lab.run("named_python.py", "perl", hosts="{1}").out
    assert "is Python 3.2.1 (cpython-32mu), and the program's packages are for Python 3." in told
