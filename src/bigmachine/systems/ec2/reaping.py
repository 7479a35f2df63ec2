"""What this library has left in an account, found by its tags, and taken away: for `bigmachine ls` and `reap`.

Normally that is nothing: instances end by themselves. What can stay is an instance whose first start failed before
anything of ours ran, a launch template or a security group whose driver was killed, and what other
drivers still use is there, too: so only what has outlived its own maximum life is forgotten, unless a session is named.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from bigmachine.errors import ProvisionError
from bigmachine.frozen import frozen
from bigmachine.systems.ec2.api import Api
from bigmachine.systems.ec2.ending import terminate
from bigmachine.systems.ec2.failures import Refused
from bigmachine.systems.ec2.tags import DRIVER, MARK, PROGRAM, SESSION, USER, expiry, read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: An instance in one of these costs something, or may again.
_ALIVE: Final = ("pending", "running", "stopping", "stopped")
_IN_USE: Final = " (instances that are still ending use it)"
_MARKED: Final = [{"Name": f"tag:{MARK}", "Values": ["true"]}]


@frozen
class Leftover:
    """Something of ours in an account. `expiry`: seconds since the epoch; `kind`: "instance", "template" or "group"."""

    region: str
    kind: str
    id: str
    state: str = ""
    type: str = ""
    market: str = ""
    began: float | None = None
    expiry: float | None = None
    session: str = ""
    driver: str = ""
    user: str = ""
    program: str = ""

    def is_overdue(self, now: float) -> bool:
        """Whether it has outlived itself."""
        return self.expiry is not None and now > self.expiry

    def __str__(self) -> str:
        kind = " ".join(part for part in (self.type, self.market, self.state) if part)
        whose = f"{self.user}@{self.driver} {self.program}, session {self.session}"
        return f"{self.region} {self.kind} {self.id}{f' ({kind})' if kind else ''}: {whose}"


def regions(session: Any = None) -> list[str]:
    """List the regions that are enabled for the account.

    Raises:
        ProvisionError: if that cannot be found out.
    """
    api = Api(session, "" if session is not None else _home())
    try:
        return sorted(each["RegionName"] for each in api.call("describe_regions")["Regions"])
    except Refused as refused:
        raise refused.told() from refused
    finally:
        api.close()


def _home() -> str:
    import os

    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def leftovers(where: Iterable[str], session: Any = None) -> list[Leftover]:
    """Find all that is ours in these regions; `session` is a boto3 Session.

    Raises:
        ProvisionError: if a region cannot be asked.
    """
    found: list[Leftover] = []
    for region in where:
        api = Api(session, region)
        try:
            found += _in_region(api)
        except Refused as refused:
            raise refused.told() from refused
        finally:
            api.close()
    return found


def _in_region(api: Api) -> Iterator[Leftover]:
    states = [{"Name": "instance-state-name", "Values": [*_ALIVE]}]
    for reservation in api.pages("describe_instances", "Reservations", Filters=[*_MARKED, *states]):
        for each in reservation["Instances"]:
            market = "spot" if each.get("InstanceLifecycle") == "spot" else "on-demand"
            launched = each.get("LaunchTime")
            began = None if launched is None else launched.timestamp()
            yield _leftover(
                api,
                "instance",
                each["InstanceId"],
                each,
                each["State"]["Name"],
                each.get("InstanceType", ""),
                market,
                began,
            )
    for each in api.pages("describe_launch_templates", "LaunchTemplates", Filters=_MARKED):
        yield _leftover(api, "template", each["LaunchTemplateId"], each)
    for each in api.pages("describe_security_groups", "SecurityGroups", Filters=_MARKED):
        yield _leftover(api, "group", each["GroupId"], each)


def _leftover(
    api: Api,
    kind: str,
    name: str,
    facts: Mapping[str, Any],
    state: str = "",
    type_: str = "",
    market: str = "",
    began: float | None = None,
) -> Leftover:
    tags = read(facts.get("Tags", []))
    whose = [tags.get(key, "") for key in (SESSION, DRIVER, USER, PROGRAM)]
    return Leftover(api.region, kind, name, state, type_, market, began, expiry(tags), *whose)


def forgotten(found: Iterable[Leftover], now: float, sessions: Sequence[str] = ()) -> list[Leftover]:
    """Choose what is to go: what has outlived itself, or all of the sessions that are named."""
    if sessions:
        return [each for each in found if each.session in sessions]
    return [each for each in found if each.is_overdue(now)]


def reap(
    where: Iterable[str], sessions: Sequence[str] = (), *, dry_run: bool = True, session: Any = None
) -> list[Leftover]:
    """Take away what is forgotten in these regions (see `forgotten`), and give it; `dry_run`: only say what would go.

    Raises:
        ProvisionError: if a region cannot be asked, or something could not be taken away; the rest was.
    """
    chosen = forgotten(leftovers(where, session), time.time(), sessions)
    if not dry_run:
        take_away(chosen, session)
    return chosen


def take_away(chosen: Sequence[Leftover], session: Any = None) -> None:
    """Terminate and delete these; `session` is a boto3 Session.

    Raises:
        ProvisionError: if some could not be taken away; the others were.
    """
    failed: list[str] = []
    for region in sorted({each.region for each in chosen}):
        api = Api(session, region)
        try:
            failed += _take_away(api, [each for each in chosen if each.region == region])
        finally:
            api.close()
    if failed:
        lines = "".join(f"\n  {each}" for each in failed)
        raise ProvisionError(f"ec2: not all could be taken away; try again in a minute:{lines}", temporary=True)


def _take_away(api: Api, chosen: Sequence[Leftover]) -> list[str]:
    """Give those that stay, and why."""
    instances = [each.id for each in chosen if each.kind == "instance"]
    failed = [f"{api.region}: {why}" for why in terminate(api, instances)] if instances else []
    for each in chosen:
        try:
            if each.kind == "template":
                api.call("delete_launch_template", LaunchTemplateId=each.id)
            elif each.kind == "group":
                api.call("delete_security_group", GroupId=each.id)
        except (Refused, ProvisionError) as error:
            failed.append(f"{each}: {error}{_IN_USE if getattr(error, 'code', '') == 'DependencyViolation' else ''}")
    return failed


__all__ = ["Leftover", "forgotten", "leftovers", "reap", "regions", "take_away"]
