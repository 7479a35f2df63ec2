"""`bigmachine doctor`: is there all on this computer that machines, profiles and providers want?"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

from bigmachine.cli import health
from bigmachine.cli.client import FAILED, OK
from bigmachine.cli.health import CHECKS, Finding
from bigmachine.cli.printing import painted, plain, say, say_json

_SIGNS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "failed": ("FAILED", "red")}


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument("--aws", action="store_true", help="ask AWS, too, whose credentials these are")


def run_doctor(args: argparse.Namespace) -> int:
    """Look at all, and tell; the exit code says whether something is missing that nothing works without."""
    found = []
    for finding in findings(ask_aws=args.aws):
        found.append(finding)
        if not args.json:
            _tell(finding)
    if args.json:
        say_json({"findings": [asdict(finding) for finding in found]})
    return FAILED if any(finding.state == "failed" for finding in found) else OK


def findings(*, ask_aws: bool = False) -> Iterator[Finding]:
    """Give what is found, as it is; a check that fails itself is a note."""
    for check in CHECKS:
        look: Callable[[], Finding] = partial(health.aws, ask=True) if ask_aws and check is health.aws else check
        try:
            yield look()
        except Exception as error:  # noqa: BLE001 (the others count)
            yield Finding(check.__name__, "note", f"it could not be looked at: {type(error).__name__}: {error}")


def _tell(finding: Finding) -> None:
    sign, colour = _SIGNS[finding.state]
    say(f"{painted(f'{sign:6}', colour)} {finding.name}: {plain(finding.text)}")
    if finding.costs:
        say(f"       costs: {plain(finding.costs)}")
    if finding.remedy:
        say(f"       remedy: {plain(finding.remedy)}")


__all__ = ["add_doctor", "findings", "run_doctor"]
