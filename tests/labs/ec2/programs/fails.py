"""What is bought does not stay, wherever `start` fails after the purchase; each case says what was raised."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import bigmachine
from bigmachine.session import Session
from bigmachine.systems.ec2 import EC2System
from bigmachine.systems.ec2.api import Api
from bigmachine.systems.ec2.place import Raiser


class Nothing:
    """A service."""


class Broken(Exception):
    """It was made to fail."""


@contextmanager
def broken(owner: Any, name: str) -> Iterator[None]:
    """Have a method fail for a while."""

    def fail(*_: object, **__: object) -> None:
        raise Broken(name)

    kept = getattr(owner, name)
    setattr(owner, name, fail)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@contextmanager
def interrupted() -> Iterator[None]:
    """Have somebody press Ctrl-C once something has been bought."""
    bought = threading.Event()
    call = Api.call

    def watched(self: Api, action: str, **arguments: Any) -> dict[str, Any]:
        answer = call(self, action, **arguments)
        if action == "run_instances":
            bought.set()
        return answer

    def press() -> None:
        bought.wait(30)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    Api.call = watched  # type: ignore[method-assign]  # on purpose
    threading.Thread(target=press, daemon=True).start()
    try:
        yield
    finally:
        Api.call = call  # type: ignore[method-assign]


@contextmanager
def nothing() -> Iterator[None]:
    """Break nothing here: the test has seen to it that the answer to the purchase is lost."""
    yield


def attempt(name: str, case: Any) -> None:
    """Start, and say what came of it."""
    system = EC2System(
        type="m5.large",
        ondemand=True,
        ami=os.environ.get("BIGMACHINE_EC2AMI", ""),
        subnets=os.environ.get("BIGMACHINE_EC2SUBNETS", ""),
    )
    began = time.monotonic()
    try:
        with bigmachine.start(system) as session, case:
            session.start(2, services=[Nothing()])
    except BaseException as error:  # noqa: BLE001 (whatever it is)
        print("FAILED", name, type(error).__name__, f"{time.monotonic() - began:.1f}", flush=True)


def main() -> None:
    """Run them."""
    attempt("lost", nothing())
    attempt("raising", broken(Raiser, "raise_"))
    attempt("placing", broken(Session, "_place"))
    attempt("interrupt", interrupted())


if __name__ == "__main__":
    main()
