"""The library's own Systems go through the suite that it ships; what else is installed, by --bigmachine-system."""

from __future__ import annotations

import pytest

from bigmachine.testing.conformance.fixtures import machine, machines, pair, patience, session, watched

__all__ = ["machine", "machines", "pair", "patience", "session", "watched"]


@pytest.fixture(params=["inprocess", "local"], scope="session")
def bigmachine_system(request: pytest.FixtureRequest) -> str:
    """The name of the System under test."""
    name: str = request.param
    return name
