"""A host whose stage 0 does not start: it ends, and the driver is shown its console."""

import os

import bigmachine
from bigmachine.errors import ProvisionError
from bigmachine.systems.ec2 import EC2System, HostFile


class Nothing:
    """A service."""


system = EC2System(
    type="m5.large",
    ami=os.environ.get("BIGMACHINE_EC2AMI", ""),
    ondemand=True,
    subnets=os.environ.get("BIGMACHINE_EC2SUBNETS", ""),
    files=[HostFile("/opt/bigmachine/stage0.py", "raise SystemExit(3)\n")],
)
with bigmachine.start(system) as session:
    try:
        session.start(services=[Nothing()])
    except ProvisionError as error:
        print("REFUSED", error)
        print("NOTES", " ".join("\n".join(error.__notes__).split()))
