"""Three machines: one is given notice, one is terminated from outside, one loses its power."""

import json
import os
import time
import urllib.request

import bigmachine
from bigmachine.errors import MachineStopped
from bigmachine.system import Keepalive
from bigmachine.systems.ec2 import EC2System
from bigmachine.systems.ec2.place import instance_of


class Worker:
    """A service that is told when its host goes."""

    def where(self) -> str:
        """Say what runs this host."""
        with open("/proc/1/comm") as file:
            return file.read().strip()

    def drain(self) -> None:
        """Finish."""
        print("DRAINED", flush=True)


def lab(path: str, **ask: object) -> None:
    """Ask the lab for something."""
    request = urllib.request.Request(os.environ["AWS_ENDPOINT_URL"] + path, json.dumps(ask).encode())
    urllib.request.urlopen(request).close()


def tags_of(instance: str) -> list[dict[str, str]]:
    """Ask for the tags of an instance."""
    import boto3

    (reservation,) = boto3.client("ec2").describe_instances(InstanceIds=[instance])["Reservations"]
    tags: list[dict[str, str]] = reservation["Instances"][0]["Tags"]
    return tags


def stopped(machine: bigmachine.Machine, began: float) -> None:
    """Say how a machine ended, and how soon."""
    machine.wait(bigmachine.State.STOPPED, timeout=40)
    assert isinstance(machine.error, MachineStopped)
    print(f"STOPPED {machine.name} {machine.error.certificate.cause} {time.monotonic() - began:.2f}", flush=True)


def main() -> None:
    """Run it."""
    system = EC2System(
        type="m5.large",
        ondemand=True,
        ami=os.environ.get("BIGMACHINE_EC2AMI", ""),
        subnets=os.environ.get("BIGMACHINE_EC2SUBNETS", ""),
        keepalive=Keepalive(interval=1, timeout=60, lease=60),
    )
    told: list[str] = []
    with bigmachine.start(system, events=lambda event: told.append(event.kind)) as session:
        began = time.monotonic()
        machines = session.start(3, services=[Worker()])
        for machine in machines:
            machine.wait(timeout=60)
        print(f"RUNNING {time.monotonic() - began:.2f}", flush=True)
        print("WHERE", *(machine.call(Worker.where) for machine in machines), flush=True)
        print("PHASES", *dict.fromkeys(span.phase.replace(" ", "-") for span in session.timeline()), flush=True)
        sent = [span.sent for span in session.timeline() if span.phase == "bringing up its agent"]
        print("SENT", *sent, flush=True)
        with system.read(machines[0], "/etc/sysctl.d/90-bigmachine.conf") as file:
            print("READ", file.readline().decode().strip(), flush=True)
        log = system.tail(machines[0])
        print("TAIL", next(line for line in log if '"stage": 0' in line), flush=True)
        log.close()  # type: ignore[attr-defined]  # a generator
        receipt = session.cost()
        assert receipt is not None
        uses = [receipt.of(machine.machine_id) for machine in machines]
        print("PRICE", *(use.type for use in uses if use is not None and use.ended is None), flush=True)
        tags = {tag["Key"]: tag["Value"] for tag in tags_of(receipt.uses[0].id)}
        print("TAGS", json.dumps(tags), flush=True)
        noticed, ended, unplugged = machines
        instances = [instance_of(machine.machine_id.partition("-")[0]) for machine in machines]
        began = time.monotonic()
        lab("/lab/spot", id=instances[0], notice=6)
        while "notice" not in told and time.monotonic() < began + 20:
            time.sleep(0.01)
        print(f"NOTICED {time.monotonic() - began:.2f} {noticed.preempted_at is not None}", flush=True)
        began = time.monotonic()
        import boto3

        boto3.client("ec2").terminate_instances(InstanceIds=[instances[1]])
        stopped(ended, began)
        began = time.monotonic()
        lab("/lab/unplug", id=instances[2])
        stopped(unplugged, began)
        stopped(noticed, began)
        print(f"COST {len(system.cost().uses)}", flush=True)


if __name__ == "__main__":
    main()
