"""The suite that every System must pass, on hosts by ssh."""

from __future__ import annotations

import re

from tests.labs.ssh.lab import Lab


def test_the_suite_of_every_system_passes(lab: Lab) -> None:
    folder = lab.home / "conformance"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    environ = {
        "BIGMACHINE_HOSTS": ",".join(f"lab@{lab.name(host)}*8" for host in (1, 2, 3)),
        "BIGMACHINE_SSH_CONFIG": str(lab.config),
    }
    plugin = ("-p", "bigmachine.testing.plugin", "-p", "no:cacheprovider", "--bigmachine-system=ssh")
    done = lab.python("-m", "pytest", "-q", *plugin, cwd=folder, environ=environ).wait(110)
    passed = re.search(r"^(\d+) passed(, \d+ skipped)? in", done.out, re.MULTILINE)
    assert done.status == 0, done.out + done.err
    assert passed is not None, done.out
    assert int(passed[1]) > 40
    assert passed[2] is None, "nothing of it is beyond a system of hosts"
