"""The contract between the library and those who provide machines."""

from bigmachine.system.contract import (
    Foreseen,
    Guest,
    HasMachineId,
    Keepalive,
    Launched,
    MakeDialer,
    Runtime,
    System,
    Ticket,
    agent_id_of,
    lines,
)
from bigmachine.system.registry import create, names, register_system

__all__ = [
    "Foreseen",
    "Guest",
    "HasMachineId",
    "Keepalive",
    "Launched",
    "MakeDialer",
    "Runtime",
    "System",
    "Ticket",
    "agent_id_of",
    "create",
    "lines",
    "names",
    "register_system",
]
