"""What the library offers to tests: of programs that use it, and of Systems that provide machines for it.

- `bigmachine.start("inprocess")` gives machines inside the test's own process, in milliseconds, with `kill()`.
- `inject_faults` makes calls get lost, late or cut off, by a seed.
- `pytest --bigmachine-system=NAME` runs the suite that every System must pass (`bigmachine.testing.conformance`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigmachine.testing.faults import Fault, FaultInjector, Injected, inject_faults

_FAULTS = ("Fault", "FaultInjector", "Injected", "inject_faults")


def __getattr__(name: str) -> object:
    # pytest loads the plug-in in every project that has the library installed, and machines load the suite's services:
    # neither needs this.
    if name in _FAULTS:
        from bigmachine.testing import faults

        value: object = getattr(faults, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Fault", "FaultInjector", "Injected", "inject_faults"]
