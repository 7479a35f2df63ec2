"""The driver's handle on a machine, and what drives it through its life."""

from bigmachine.machine.dialled import Pinger
from bigmachine.machine.handle import Machine, receive_with
from bigmachine.machine.host import Host
from bigmachine.machine.life import Phase, State
from bigmachine.machine.owned import Fate, Owner, Settle
from bigmachine.machine.routes import Address

__all__ = ["Address", "Fate", "Host", "Machine", "Owner", "Phase", "Pinger", "Settle", "State", "receive_with"]
