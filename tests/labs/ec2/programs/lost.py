"""Two machines whose hosts go while the program is on its way there: one is terminated, the test unplugs the other."""

import os
import time

import boto3

import bigmachine
from bigmachine.errors import MachineStopped
from bigmachine.machine import Phase
from bigmachine.systems.ec2 import EC2System
from bigmachine.systems.ec2.place import instance_of


class Nothing:
    """A service that takes its time."""

    def init(self, session: object) -> None:
        """Be slow."""
        time.sleep(60)


def main() -> None:
    """Run it."""
    system = EC2System(
        type="m5.large",
        ondemand=True,
        ami=os.environ.get("BIGMACHINE_EC2AMI", ""),
        subnets=os.environ.get("BIGMACHINE_EC2SUBNETS", ""),
    )
    with bigmachine.start(system) as session:
        machines = session.start(2, services=[Nothing()])
        ended, unplugged = (instance_of(machine.machine_id.partition("-")[0]) for machine in machines)
        end = time.monotonic() + 20
        while machines[0].phase is Phase.REACHING and time.monotonic() < end:
            time.sleep(0.005)
        print("SHIPPING", unplugged, flush=True)
        boto3.client("ec2").terminate_instances(InstanceIds=[ended])
        began = time.monotonic()
        for machine in machines:
            machine.wait(bigmachine.State.STOPPED, timeout=60)
            assert isinstance(machine.error, MachineStopped)
            print("STOPPED", machine.error.certificate.cause, f"{time.monotonic() - began:.2f}", flush=True)


if __name__ == "__main__":
    main()
