"""The suite that every System must pass, the library's own and anybody's: `pytest --bigmachine-system=NAME`.

It uses a System as a session does, and asks only for what a program can see: machines come up, are told what they
should be, answer, are kept alive, and end, with the right cause, leaving nothing. What a System cannot show is skipped
with the reason; a System whose machines are inside the driver's process has no environment of theirs, for instance.

A System that has a method `kill(machine)` is asked to kill by it; otherwise a machine kills itself.
"""

from __future__ import annotations

#: The files of the suite.
MODULES = ("starting", "calling", "clocks", "ending")
