"""Machines inside the driver's own process: no sockets, no processes, for users' unit tests [Go: testsystem].

Everything above the transport is real: calls are frames, values are pickled, leases run, a killed machine's calls
fail as those of a killed process do. What differs from real machines: output is this process's own, the program's
module state is the driver's, a handle sent to a machine arrives as the driver's own handle, and a plain method that
runs when its machine is killed runs on, for no thread can be killed.
"""

from bigmachine.systems.inprocess.machine import InprocessMachine
from bigmachine.systems.inprocess.system import InprocessSystem

__all__ = ["InprocessMachine", "InprocessSystem"]
