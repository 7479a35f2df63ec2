"""A session with a budget that one instance keeps, and two do not: spot instances cost next to nothing there."""

import os

import bigmachine
from bigmachine.errors import MachineStopped, ProvisionError
from bigmachine.systems.ec2 import EC2System


class Nothing:
    """A service."""


def main() -> None:
    """Run it."""
    system = EC2System(
        type="m5.large",
        spotonly=True,
        ami=os.environ.get("BIGMACHINE_EC2AMI", ""),
        zones="us-east-1a",  # where spot instances have a price
        budget=2.5e-7,
    )
    with bigmachine.start(system) as session:
        (machine,) = session.start(services=[Nothing()])
        machine.wait(timeout=60)
        receipt = session.cost()
        assert receipt is not None
        print("ONE", receipt.total < 2.5e-7, receipt.per_hour > 0, flush=True)
        for _ in range(2):
            try:
                session.start(services=[Nothing()])
            except ProvisionError as error:
                print("REFUSED", str(error).replace("\n", " "), flush=True)
        machine.wait(bigmachine.State.STOPPED, timeout=60)
        assert isinstance(machine.error, MachineStopped)
        print("STOPPED", machine.error.certificate.cause, machine.error, flush=True)


if __name__ == "__main__":
    main()
