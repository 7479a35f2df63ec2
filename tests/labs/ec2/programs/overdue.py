"""A host on which nothing of ours works, and whose driver is killed: it has a minute to live."""

import os

import bigmachine
from bigmachine.systems.ec2 import EC2System, HostFile


class Nothing:
    """A service."""


print("PID", os.getpid(), flush=True)
system = EC2System(
    type="m5.large",
    ondemand=True,
    ami=os.environ.get("BIGMACHINE_EC2AMI", ""),
    subnets=os.environ.get("BIGMACHINE_EC2SUBNETS", ""),
    files=[HostFile("/opt/bigmachine/stage0.py", "import time\ntime.sleep(600)\n")],
    life=1 / 60,
)
with bigmachine.start(system) as session:
    session.start(services=[Nothing()])
