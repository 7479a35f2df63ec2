"""The contract between the library and those who provide machines."""

from bigmachine.system.contract import Keepalive, Launched, System, Ticket
from bigmachine.system.registry import create, names, register_system

__all__ = ["Keepalive", "Launched", "System", "Ticket", "create", "names", "register_system"]
