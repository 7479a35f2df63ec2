"""Machines on hosts that one reaches by SSH, where nothing of ours is installed."""

from bigmachine.systems.ssh.hosts import SshHost, parse_host, parse_hosts
from bigmachine.systems.ssh.system import SSHSystem

__all__ = ["SSHSystem", "SshHost", "parse_host", "parse_hosts"]
