"""The environment of a machine on another host: what was ordered, what is the host's, and what its packages set."""

from __future__ import annotations

from tests.labs.ssh.lab import Lab


def test_what_a_pth_file_sets_is_there_and_what_was_ordered_stands(lab: Lab) -> None:
    (site,) = lab.driver_python.parent.parent.glob("lib/python*/site-packages")
    line = "import os; os.environ['SET_BY_PTH'] = os.path.basename(os.path.dirname(__import__('site').__file__)); "
    pth = site / "sets_environ.pth"
    pth.write_text(line + "os.environ['ORDERED'] = 'by pth'\n")
    try:
        told = lab.run("environ.py", "SET_BY_PTH", "ORDERED", "DRIVERS_OWN", hosts="{1}", environ={"DRIVERS_OWN": "1"})
    finally:
        pth.unlink()
    assert told.out.strip().split("|")[2:] == ["ORDERED=by start", "DRIVERS_OWN=None"], told.out
    assert told.out.split("|")[1].startswith("SET_BY_PTH=python3."), told.out
