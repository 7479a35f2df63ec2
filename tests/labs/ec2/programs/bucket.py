"""Three sessions with a bucket: one that fills it, one whose host fetches everything, and one whose bucket is gone."""

import os

import boto3

import bigmachine
from bigmachine.systems.ec2 import EC2System

BUCKET = "programs"


class Hello:
    """A service."""

    def hello(self) -> str:
        """Answer."""
        return "hello"


def attempt(name: str, bucket: str) -> None:
    """Run a machine, and say what was sent from here, and what the bucket has."""
    system = EC2System(
        type="m5.large",
        ondemand=True,
        ami=os.environ.get("BIGMACHINE_EC2AMI", ""),
        subnets=os.environ.get("BIGMACHINE_EC2SUBNETS", ""),
        bucket=bucket,
    )
    with bigmachine.start(system) as session:
        (machine,) = session.start(services=[Hello()])
        said = machine.call(Hello.hello)
        sent = sum(span.sent for span in session.timeline())
        kept = boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="cache/bigmachine/v1/").get("Contents", [])
        print(name, said, sent, len(kept), sum(each["Size"] for each in kept), flush=True)


if __name__ == "__main__":
    bigmachine.init()  # machines go no further
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    attempt("FILLED", f"{BUCKET}/cache")
    attempt("FETCHED", f"{BUCKET}/cache")
    attempt("WITHOUT", "no-such-bucket")
