"""A driver that is killed while its machines run."""

import os
import time

import bigmachine
from bigmachine.system import Keepalive
from bigmachine.systems.ec2 import EC2System

LEASE = 5.0


class Nothing:
    """A service."""


print("PID", os.getpid(), flush=True)
system = EC2System(
    type="m5.large",
    ami=os.environ.get("BIGMACHINE_EC2AMI", ""),
    ondemand=True,
    subnets=os.environ.get("BIGMACHINE_EC2SUBNETS", ""),
    keepalive=Keepalive(interval=1, timeout=30, lease=LEASE, first_contact=15),
)
with bigmachine.start(system) as session:
    for machine in session.start(2, services=[Nothing()]):
        machine.wait(timeout=60)
    print("RUNNING", os.getpid(), flush=True)
    time.sleep(600)
