"""What is left on EC2, told and taken away: boto3 is real, what it talks to is a few lines of EC2's interface here."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import parse_qs

import pytest

pytest.importorskip("boto3")

from bigmachine.cli.main import main

REGION = ("--region", "eu-central-1")


class Region(BaseHTTPRequestHandler):
    """An account with an instance that should be gone, and one that is in use, each with a launch template."""

    taken: ClassVar[list[tuple[str, str]]] = []
    refused: ClassVar[set[str]] = set()
    left: ClassVar[float] = -60.0  # seconds until the old ones have outlived themselves

    def do_POST(self) -> None:
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        action = asked["Action"][0]
        answer = {
            "DescribeRegions": "<regionInfo><item><regionName>eu-central-1</regionName></item></regionInfo>",
            "DescribeInstances": f"<reservationSet><item><instancesSet>{_instance('i-old', self.left)}"
            f"{_instance('i-new', 3600)}</instancesSet></item></reservationSet>",
            "DescribeLaunchTemplates": f"<launchTemplates><item><launchTemplateId>lt-old</launchTemplateId>"
            f"{_tags(self.left, 'old')}</item></launchTemplates>",
            "DescribeSecurityGroups": "<securityGroupInfo/>",
        }.get(action, "")
        if action in self.refused:
            error = "<Error><Code>UnauthorizedOperation</Code><Message>not you</Message></Error>"
            self._answer(403, f"<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>")
            return
        for name in ("InstanceId.1", "LaunchTemplateId"):
            if not action.startswith("Describe") and name in asked:
                self.taken.append((action, asked[name][0]))
        self._answer(200, f"<{action}Response>{answer}</{action}Response>")

    def _answer(self, status: int, text: str) -> None:
        body = f'<?xml version="1.0"?>{text}'.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _instance(name: str, left: float) -> str:
    launched = datetime.fromtimestamp(time.time() - 7200, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<item><instanceId>{name}</instanceId><instanceState><code>16</code><name>running</name></instanceState>"
        f"<instanceType>c5.large</instanceType><instanceLifecycle>spot</instanceLifecycle>"
        f"<launchTime>{launched}</launchTime>{_tags(left, name.removeprefix('i-'))}</item>"
    )


def _tags(left: float, session: str) -> str:
    expiry = datetime.fromtimestamp(time.time() + left, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    tags = {"bigmachine": "true", "bigmachine:session": session, "bigmachine:expiry": expiry, "bigmachine:user": "ada"}
    items = "".join(f"<item><key>{key}</key><value>{value}</value></item>" for key, value in tags.items())
    return f"<tagSet>{items}</tagSet>"


@pytest.fixture(autouse=True)
def region(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Region]]:
    Region.taken.clear()
    Region.refused.clear()
    server = HTTPServer(("127.0.0.1", 0), Region)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    yield Region
    server.shutdown()
    server.server_close()
    thread.join(10)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_ls_lists_what_is_there(capsys: pytest.CaptureFixture[str], region: type[Region]) -> None:
    found = told(capsys, "ls", "--ec2")["leftovers"]
    assert [(each["id"], each["overdue"]) for each in found] == [("i-old", True), ("i-new", False), ("lt-old", True)]
    assert main(["ls", "--ec2", "--region", "eu-central-1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:9] == ["eu-central-1", "instance", "i-old", "running", "c5.large", "spot", "2", "h", "0"]
    assert region.taken == []


def test_reap_says_what_would_go_and_does_nothing(capsys: pytest.CaptureFixture[str], region: type[Region]) -> None:
    assert main(["reap", "--region", "eu-central-1"]) == 0
    out = capsys.readouterr().out
    assert "i-old" in out
    assert "i-new" not in out
    assert "nothing was done; with --yes, these would be taken away" in out
    assert region.taken == []


def test_with_yes_it_does(capsys: pytest.CaptureFixture[str], region: type[Region]) -> None:
    document = told(capsys, "reap", "--yes", *REGION)
    assert document["taken"] is True
    assert [each["id"] for each in document["leftovers"]] == ["i-old", "lt-old"]
    assert region.taken == [("TerminateInstances", "i-old"), ("DeleteLaunchTemplate", "lt-old")]


def test_a_session_that_is_named_goes_before_its_time(capsys: pytest.CaptureFixture[str], region: type[Region]) -> None:
    assert [each["id"] for each in told(capsys, "reap", "--of", "new", "--yes", *REGION)["leftovers"]] == ["i-new"]
    assert region.taken == [("TerminateInstances", "i-new")]


def test_what_could_not_be_taken_away_is_an_error_and_the_rest_goes(
    capsys: pytest.CaptureFixture[str], region: type[Region]
) -> None:
    region.refused.add("TerminateInstances")
    assert main(["reap", "--yes", *REGION]) == 1
    told = capsys.readouterr()
    assert "were taken away" not in told.out
    assert "i-old could not be terminated: ec2: TerminateInstances was refused: UnauthorizedOperation" in told.err
    assert region.taken == [("DeleteLaunchTemplate", "lt-old")]


def test_what_was_done_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reap", "--yes", *REGION]) == 0
    assert capsys.readouterr().out.endswith("\nthese were taken away\n")


def test_a_session_of_which_nothing_is_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reap", "--of", "gone", *REGION]) == 0
    assert "there is nothing of gone; `bigmachine ls --ec2` shows what there is" in capsys.readouterr().out


def test_what_is_in_use_is_counted_where_nothing_is_overdue(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, region: type[Region]
) -> None:
    monkeypatch.setattr(region, "left", 60.0)
    assert main(["reap", *REGION]) == 0
    assert "nothing has outlived its maximum life; 3 more are there" in capsys.readouterr().out


def test_a_region_that_cannot_be_reached_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert main(["reap", "--region", "eu-central-1"]) == 1
    assert "credentials" in capsys.readouterr().err
