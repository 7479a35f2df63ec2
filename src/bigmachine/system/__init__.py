"""The contract between the library and those who provide machines."""

from bigmachine.system.contract import Guest, Keepalive, Launched, MakeDialer, Runtime, System, Ticket
from bigmachine.system.registry import create, names, register_system

__all__ = [
    "Guest",
    "Keepalive",
    "Launched",
    "MakeDialer",
    "Runtime",
    "System",
    "Ticket",
    "create",
    "names",
    "register_system",
]
