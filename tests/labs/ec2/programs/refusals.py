"""What cannot be had is refused before anything is bought; each refusal is printed."""

import os
import threading
import time

import bigmachine
from bigmachine.errors import BigmachineError, ProvisionError
from bigmachine.systems.ec2 import EC2System, HostFile

IMAGE = os.environ["BIGMACHINE_EC2AMI"]
CASES: dict[str, dict[str, object]] = {
    "type": {"type": "x9.huge"},
    "region": {"region": "eu-south-2", "type": "m3.medium"},
    "ami": {"ami": "ami-00000000deadbeef"},
    "subnet": {"subnets": "subnet-00000000"},
    "group": {"groups": "sg-00000000"},
    "profile": {"profile": "nobody"},
    "key": {"keyname": "lost"},
    "zone": {"zones": "us-east-1q"},
    "price": {"spotonly": True, "maxprice": "0.0000001"},
    "budget": {"budget": "1"},
    "architecture": {"type": "m6g.large"},
}


def attempt(name: str, options: dict[str, object]) -> None:
    """Try one."""
    chosen: dict[str, object] = {"type": "m5.large", "ami": IMAGE, "ondemand": True, **options}
    system = EC2System(**chosen)  # type: ignore[arg-type]  # as from a table of options
    try:
        print(f"PLANNED {name} {system.plan(1)}")
    except ProvisionError as error:
        print(f"REFUSED {name} {error}".replace("\n", " "))
    finally:
        system.shutdown(1.0)


def image_for(arch: str) -> str:
    """Find an image for an architecture."""
    import boto3

    filters = [{"Name": "architecture", "Values": [arch]}]
    return str(boto3.client("ec2").describe_images(Filters=filters)["Images"][0]["ImageId"])


class Nothing:
    """A service."""


def start(name: str, **options: object) -> None:
    """Try to start three machines; says how long that took, too."""
    chosen: dict[str, object] = {"type": "m5.large,m5a.large,c5.large", "ami": IMAGE, **options}
    began = time.monotonic()
    try:
        with bigmachine.start(EC2System(**chosen)) as session:  # type: ignore[arg-type]  # as above
            session.start(3, services=[Nothing()])
        print(f"STARTED {name}")
    except BigmachineError as error:
        print(f"REFUSED {name} {error} [{time.monotonic() - began:.1f} s]".replace("\n", " "))


# The test has seen to it that the first question is refused, as are the first purchases.
attempt("expired", {})
threads = [threading.Thread(target=attempt, args=case) for case in CASES.items()]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
start("userdata", files=[HostFile("/etc/motd", "x" * 20000)])
start("capacity")
start("spot", spotonly=True)
# There is no package index here, nor anything that a driver has for another processor.
os.environ["UV_HTTP_RETRIES"] = "0"
start("processor", type="m6g.large", ami=image_for("arm64"))
for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    del os.environ[name]
attempt("credentials", {})
