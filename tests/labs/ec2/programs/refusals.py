"""What cannot be had is refused before anything is bought; each refusal is printed."""

import os
import threading

from bigmachine.errors import ProvisionError
from bigmachine.systems.ec2 import EC2System

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


threads = [threading.Thread(target=attempt, args=case) for case in CASES.items()]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
