"""A person's own tools call services: curl and httpx, with the credentials that the session writes for them."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from bigmachine import State
from bigmachine.trust.credentials import Credentials
from tests.cluster.fault_services import Target
from tests.cluster.processes import LIMIT, Cluster, cluster_in, wait_for


@dataclass(frozen=True)
class Reply:
    """What came back: version of HTTP, status, decoded body."""

    version: str
    status: int
    value: Any


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_in(tmp_path_factory.mktemp("scratch"), 2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def files(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return cluster.session.write_credentials(tmp_path_factory.mktemp("credentials"))


class Curl:
    """The curl binary."""

    def close(self) -> None:
        """Nothing: each call has a process of its own."""

    def __init__(self, cluster: Cluster, files: Credentials, version: str) -> None:
        self._version = "--http1.1" if version == "1.1" else "--http2"
        self._places = {
            machine.address.partition("/")[2]: machine.address.partition("/")[0] for machine in cluster.machines
        }
        self._proof = ["--cacert", str(files.ca), "--cert", str(files.certificate), "--key", str(files.key)]

    def post(self, machine_id: str, method: str, body: object, **headers: str) -> Reply:
        told = self.run(
            machine_id,
            f"/bigrpc/{method}",
            *("--json", json.dumps(body), "--write-out", "\n%{http_version} %{http_code}"),
            *(
                option
                for name, value in headers.items()
                for option in ("--header", f"{name.replace('_', '-')}: {value}")
            ),
        )
        value, _, last = told.rpartition("\n")
        version, status = last.split()
        return Reply(version, int(status), json.loads(value))

    def run(self, machine_id: str, path: str, *options: str) -> str:
        connect = ["--connect-to", f"{machine_id}:443:{self._places[machine_id]}"]
        command = ["curl", "--silent", "--show-error", "--max-time", "10", self._version, *self._proof, *connect]
        return subprocess.check_output([*command, *options, f"https://{machine_id}{path}"], text=True, timeout=LIMIT)


class Httpx:
    """The httpx library, which names the machine in TLS and connects to its host."""

    def __init__(self, cluster: Cluster, files: Credentials, version: str) -> None:
        self._context = ssl.create_default_context(cafile=str(files.ca))
        self._context.load_cert_chain(files.certificate, files.key)
        self._place = "{}:{}".format(*cluster.place)
        self._is_http2 = version == "2"
        self._client: httpx.Client | None = None

    def post(self, machine_id: str, method: str, body: object, **headers: str) -> Reply:
        if self._client is None:
            http2 = self._is_http2
            self._client = httpx.Client(http1=not http2, http2=http2, verify=self._context, timeout=LIMIT)
        reply = self._client.post(
            f"https://{self._place}/bigrpc/{method}",
            json=body,
            headers={name.replace("_", "-"): value for name, value in headers.items()} | {"host": machine_id},
            extensions={"sni_hostname": machine_id},
        )
        return Reply(reply.http_version.removeprefix("HTTP/"), reply.status_code, reply.json())

    def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            self._client.close()
            self._client = None


def reason_to_skip_curl() -> str:
    if shutil.which("curl") is None:
        return "there is no curl on this host"
    told = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    return "" if "HTTP2" in told.split() else "the curl of this host was built without HTTP/2"


@pytest.fixture(params=["curl 1.1", "curl 2", "httpx 1.1", "httpx 2"])
def client(request: pytest.FixtureRequest, cluster: Cluster, files: Credentials) -> Iterator[Curl | Httpx]:
    tool, version = request.param.split()
    if tool == "curl" and (reason := reason_to_skip_curl()):
        pytest.skip(reason)
    it = Curl(cluster, files, version) if tool == "curl" else Httpx(cluster, files, version)
    yield it
    it.close()


def test_a_call_returns_what_the_method_returned(
    cluster: Cluster, client: Curl | Httpx, request: pytest.FixtureRequest
) -> None:
    with cluster.unharmed():
        reply = client.post(cluster.machine_id, "Target.add", [40, 2])
        assert (reply.status, reply.value) == (200, 42)
        assert f" {reply.version}" in request.node.name
        assert client.post(cluster.machine_id, "Target.add", {"a": 1, "b": 2}).value == 3
        assert client.post(cluster.machine_id, "Target.echo", [{"deep": [None, True, 1.5, "ä"]}]).value == {
            "deep": [None, True, 1.5, "ä"]
        }
        client.close()


def test_each_machine_is_reached_by_its_own_name(cluster: Cluster, client: Curl | Httpx) -> None:
    ids = [machine.address.partition("/")[2] for machine in cluster.machines]
    found = []
    for machine_id in ids:
        found.append(client.post(machine_id, "Target.pid", []).value)
        client.close()  # httpx keeps its connections by host and port, whatever they were named in TLS
    assert found == [machine.call(Target.pid) for machine in cluster.machines]
    assert len(set(found)) == 2


def test_the_agent_answers_for_its_machines_but_ends_none(cluster: Cluster, files: Credentials) -> None:
    client = Httpx(cluster, files, "2")
    victim, agent = cluster.machine_id, cluster.agent_id
    with cluster.unharmed():
        assert client.post(agent, f"Supervisor@{victim}.ping", [5]) == Reply("2", 200, 5)
        for method in (f"Supervisor@{victim}.shutdown", f"Supervisor@{victim}.exec", "Agent.end", "Agent.events"):
            reply = client.post(agent, method, [])
            assert (reply.status, reply.value["error"]["type"]) == (403, "AuthenticationError")
        client.close()
        assert client.post(victim, "Supervisor.register", ["x", 1]).status == 403
        client.close()
    assert cluster.machine.state is State.RUNNING


@pytest.mark.parametrize(
    ("method", "body", "status", "kind", "words"),
    [
        ("Target.ech", [1], 404, "InvalidCall", "did you mean 'echo'?"),
        ("Nothing.echo", [1], 404, "InvalidCall", "no service 'Nothing'"),
        ("Target.echo", [], 400, "InvalidCall", "missing a required argument"),
        ("Target.add", ["one"], 590, "TypeError", "can only concatenate"),
        ("Target.leave", [3], 590, "RuntimeError", "SystemExit: 3"),
        ("Target.lock", [], 500, "", "lock"),
    ],
)
def test_an_error_is_told_by_name(
    cluster: Cluster, client: Curl | Httpx, method: str, body: object, status: int, kind: str, words: str
) -> None:
    with cluster.unharmed():
        reply = client.post(cluster.machine_id, method, body)
        client.close()
    assert reply.status == status
    assert kind in reply.value["error"]["type"]
    assert words in reply.value["error"]["message"]


def test_a_deadline_ends_the_method(cluster: Cluster, client: Curl | Httpx) -> None:
    with cluster.unharmed():
        reply = client.post(cluster.machine_id, "Target.hold", ["http"], bigmachine_timeout="0.1")
        client.close()
        assert reply.status == 504
        assert reply.value["error"]["type"] == "DeadlineExceeded"
        wait_for(lambda: cluster.machine.call(Target.tasks) == cluster.machines[1].call(Target.tasks), "it has ended")


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_a_client_that_leaves_ends_the_method(cluster: Cluster, files: Credentials, version: str) -> None:
    if reason := reason_to_skip_curl():
        pytest.skip(reason)
    curl = Curl(cluster, files, version)
    with cluster.unharmed(), pytest.raises(subprocess.CalledProcessError):
        curl.run(cluster.machine_id, "/bigrpc/Target.hold", "--json", '["left"]', "--max-time", "0.3")


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_a_stream_comes_line_by_line_and_ends_with_its_reader(
    cluster: Cluster, files: Credentials, version: str, tmp_path: Path
) -> None:
    if reason := reason_to_skip_curl():
        pytest.skip(reason)
    curl = Curl(cluster, files, version)
    with cluster.unharmed(), pytest.raises(subprocess.CalledProcessError) as caught:
        curl.run(cluster.machine_id, "/bigrpc/Target.count", "--json", "[]", "--no-buffer", "--max-time", "0.5")
    lines = caught.value.output.splitlines()
    assert lines[:5] == ["0", "1", "2", "3", "4"]
