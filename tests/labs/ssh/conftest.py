"""The lab of the tests of ssh: it comes up once, with the values that a server has if nobody sets others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.ssh.lab import Lab, NoLab, bring_up

#: OpenSSH's own defaults, which the lab would raise.
_DEFAULTS = "MaxSessions 10\nMaxStartups 10:30:100"


@pytest.fixture(scope="session")
def whole_lab() -> Iterator[Lab]:
    """Three hosts."""
    try:
        lab = bring_up(3, _DEFAULTS)
    except NoLab as reason:
        pytest.skip(str(reason))
    yield lab
    lab.down()


@pytest.fixture
def lab(whole_lab: Lab) -> Iterator[Lab]:
    """The hosts, healthy before and after; nothing may be left on them."""
    yield whole_lab
    for host in range(1, whole_lab.count + 1):
        whole_lab.netlab("heal", str(host))
    whole_lab.check_quiet()
