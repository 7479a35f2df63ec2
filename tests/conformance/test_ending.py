"""Every System of the library passes this part of the suite."""

from __future__ import annotations

from bigmachine.testing.conformance.ending import *  # noqa: F403 (the tests are there)
