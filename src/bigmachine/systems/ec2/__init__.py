"""Machines on Amazon's EC2, in your own account; needs the extra `ec2` (boto3)."""

from __future__ import annotations

from bigmachine.systems.ec2.options import HostFile, Unit
from bigmachine.systems.ec2.system import EC2System

__all__ = ["EC2System", "HostFile", "Unit"]
