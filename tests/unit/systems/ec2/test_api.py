"""What is asked again and what is not, with botocore's own stub in the service's place."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from bigmachine.errors import ProvisionError
from bigmachine.systems.ec2 import api as _api
from bigmachine.systems.ec2.api import Api
from bigmachine.systems.ec2.catalogue import ondemand_prices
from bigmachine.systems.ec2.failures import Refused
from bigmachine.systems.ec2.image import Ami
from bigmachine.systems.ec2.options import Options
from bigmachine.systems.ec2.plan import Offer, Rung, Where
from bigmachine.systems.ec2.request import Bought, Wanted, climb

boto3 = pytest.importorskip("boto3")
stub = pytest.importorskip("botocore.stub")

OFFERS = [Rung("on-demand", (Offer(name, Where(), 0.1),)) for name in ("m5.large", "c5.large")]
WANTED = Wanted(Options(("m5.large",)), Ami("ami-1", "/dev/xvda", 8, "x86_64"), "data", ("sg-1",))


class Stubbed:
    """A session whose clients are stubbed."""

    region_name = "us-east-1"

    def __init__(self) -> None:
        self._session = boto3.session.Session("AKIDEXAMPLE", "secret", region_name=self.region_name)
        self.stubs: dict[str, Any] = {}
        for service in ("ec2", "pricing"):
            client = self._session.client(service)
            self.stubs[service] = stub.Stubber(client)
            self.stubs[service].activate()

    def client(self, service: str, **_: Any) -> Any:
        return self.stubs[service].client


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubbed]:
    monkeypatch.setattr(_api, "_PAUSE", 0.001)
    monkeypatch.setattr(_api, "RATE", 1e6)
    session = Stubbed()
    yield session
    for each in session.stubs.values():
        each.assert_no_pending_responses()


def run(names: list[str]) -> dict[str, Any]:
    return {"Instances": [{"InstanceId": name, "InstanceType": "m5.large"} for name in names]}


def take(n: int, session: Stubbed) -> tuple[list[str], list[str]]:
    bought: list[Bought] = []
    tried = climb(Api(session), n, WANTED, OFFERS, lambda token: {"bigmachine": "true"}, bought.append)
    return [each.id for each in bought], [str(each) for each in tried]


def test_a_throttled_request_is_asked_again(session: Stubbed) -> None:
    ec2 = session.stubs["ec2"]
    for _ in range(2):
        ec2.add_client_error("run_instances", "RequestLimitExceeded", http_status_code=503)
    ec2.add_response("run_instances", run(["i-1", "i-2"]))
    assert take(2, session)[0] == ["i-1", "i-2"]


def test_a_lost_answer_is_asked_for_with_the_same_token(session: Stubbed) -> None:
    ec2, tokens = session.stubs["ec2"], []
    ec2.client.meta.events.register(
        "before-parameter-build.ec2.RunInstances", lambda params, **_: tokens.append(params["ClientToken"])
    )
    ec2.add_client_error("run_instances", "InternalError", http_status_code=500)
    for name in ("i-1", "i-2"):
        ec2.add_response("run_instances", run([name]))
    assert take(1, session)[0] == ["i-1"]
    assert len(tokens) == 2
    assert len(set(tokens)) == 1
    take(1, session)
    assert tokens[2] != tokens[1]  # another request is another purchase


def test_a_lack_of_capacity_is_asked_for_elsewhere_at_once(session: Stubbed) -> None:
    ec2 = session.stubs["ec2"]
    ec2.add_client_error("run_instances", "InsufficientInstanceCapacity", "none left.", http_status_code=500)
    ec2.add_response("run_instances", run(["i-1"]))
    bought, tried = take(1, session)
    assert bought == ["i-1"]
    assert tried == [
        "on-demand m5.large in any zone: 0 of 1 (InsufficientInstanceCapacity: none left)",
        "on-demand c5.large in any zone: 1 of 1",
    ]


def test_a_partial_success_is_kept_and_the_rest_is_asked_for_on_the_next_rung(session: Stubbed) -> None:
    ec2 = session.stubs["ec2"]
    ec2.add_client_error("run_instances", "InsufficientInstanceCapacity", "not so many", http_status_code=500)
    ec2.add_response("run_instances", run(["i-1"]))
    ec2.add_response("run_instances", run(["i-2", "i-3"]))
    bought, tried = take(3, session)
    assert bought == ["i-1", "i-2", "i-3"]
    assert tried[0].endswith("1 of 3 (InsufficientInstanceCapacity: not so many)")


def test_what_holds_everywhere_is_told_at_once(session: Stubbed) -> None:
    session.stubs["ec2"].add_client_error(
        "run_instances", "UnauthorizedOperation", "You may not.", http_status_code=403
    )
    with pytest.raises(ProvisionError, match="let the account's administrator allow this action"):
        take(1, session)


def test_every_request_ends_its_instances_hides_their_credentials_and_is_tagged(session: Stubbed) -> None:
    asked: list[dict[str, Any]] = []
    session.stubs["ec2"].client.meta.events.register(
        "before-parameter-build.ec2.RunInstances", lambda params, **_: asked.append(dict(params))
    )
    session.stubs["ec2"].add_response("run_instances", run(["i-1"]))
    take(1, session)
    (request,) = asked
    assert request["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert request["MetadataOptions"] == {
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
        "HttpEndpoint": "enabled",
    }
    assert request["TagSpecifications"][0] == {
        "ResourceType": "instance",
        "Tags": [{"Key": "bigmachine", "Value": "true"}],
    }


def test_a_call_that_is_always_throttled_ends_in_time(session: Stubbed) -> None:
    for _ in range(40):
        session.stubs["ec2"].add_client_error("describe_regions", "RequestLimitExceeded")
    with pytest.raises(Refused, match="RequestLimitExceeded"):
        Api(session).call("describe_regions", timeout=0.05)
    session.stubs["ec2"]._queue.clear()


def test_the_price_of_an_hour_is_found_in_the_price_list(session: Stubbed) -> None:
    free = {"unit": "Hrs", "pricePerUnit": {"USD": "0.0000000000"}}
    paid = {"unit": "Hrs", "pricePerUnit": {"USD": "0.0960000000"}}
    offers = [{"terms": {"OnDemand": {"x": {"priceDimensions": {"y": each}}}}} for each in (free, paid)]
    session.stubs["pricing"].add_response("get_products", {"PriceList": [json.dumps(each) for each in offers]})
    assert ondemand_prices(Api(session), ["m5.large"]) == {"m5.large": 0.096}


def test_without_a_price_there_is_none(session: Stubbed) -> None:
    session.stubs["pricing"].add_client_error("get_products", "AccessDeniedException", http_status_code=400)
    assert ondemand_prices(Api(session), ["m5.large"]) == {}


@pytest.fixture
def proxy() -> Iterator[str]:
    """An HTTP server that answers everything with a page; gives its address."""

    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(500)
            self.end_headers()
            self.wfile.write(b"<!doctype html><html lang=en><p>try later")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_an_answer_that_cannot_be_read_is_asked_for_again_and_told(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_api, "_PAUSE", 0.001)
    monkeypatch.setattr(_api, "RATE", 1e6)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy)
    api = Api(boto3.session.Session("AKIDEXAMPLE", "secret", region_name="us-east-1"))
    with pytest.raises(ProvisionError, match=r"DescribeRegions: the API's answer cannot be read .* a proxy") as caught:
        api.call("describe_regions")
    assert caught.value.temporary
    assert "\n" not in str(caught.value)
    api.close()


def test_without_credentials_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    api = Api(region="us-east-1")
    try:
        with pytest.raises(ProvisionError, match=r"no credentials for AWS .*set AWS_PROFILE, or log in"):
            api.call("describe_regions")
    finally:
        api.close()


def test_without_a_region_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(ProvisionError, match=r"set --bigm\.ec2region, AWS_REGION"):
        Api()
