from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.ec2.lab import Region, bring_up


@pytest.fixture(scope="module")
def region() -> Iterator[Region]:
    yield from bring_up()
