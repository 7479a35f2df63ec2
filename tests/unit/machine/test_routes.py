"""An address says where a machine is and which one it is, and survives being printed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.errors import InvalidCall
from bigmachine.machine import Address


@pytest.mark.parametrize(
    ("text", "address", "agent_id", "name"),
    [
        ("127.0.0.1:41023/h1a2b3c-m3", Address("127.0.0.1", 41023, "h1a2b3c-m3"), "h1a2b3c", "m3"),
        ("[::1]:80/h1-m12", Address("::1", 80, "h1-m12"), "h1", "m12"),
        ("node-7.example.org:1/i-0abc-m1", Address("node-7.example.org", 1, "i-0abc-m1"), "i-0abc", "m1"),
        ("inprocess:0/i1-m1", Address("inprocess", 0, "i1-m1"), "i1", "m1"),
    ],
)
def test_an_address_has_these_parts(text: str, address: Address, agent_id: str, name: str) -> None:
    parsed = Address.parse(text)
    assert parsed == address
    assert str(parsed) == text
    assert (parsed.agent_id, parsed.name) == (agent_id, name)
    assert parsed.agent == Address(address.host, address.port, agent_id)


def test_an_agents_own_address_is_its_agents() -> None:
    agent = Address("127.0.0.1", 1, "h1")
    assert agent.agent_id == "h1"
    assert agent.agent == agent


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1",
        "127.0.0.1:80",
        "127.0.0.1/h1-m1",
        "127.0.0.1:80/",
        "127.0.0.1:80/h1",
        ":80/h1-m1",
        "127.0.0.1:x/h1-m1",
        "127.0.0.1:65536/h1-m1",
        "127.0.0.1:-1/h1-m1",
        "::1:80/h1-m1",
        "127.0.0.1:80/h1-m1/x",
        " 127.0.0.1:80/h1-m1",
        "127.0.0.1:80/h1-m1\n",
        "127.0.0.1:\u0661/h1-m1",
    ],
)
def test_what_is_no_address_is_refused_with_an_example_of_one(text: str) -> None:
    with pytest.raises(InvalidCall, match=r"127\.0\.0\.1:41023/h1a2b3c-m3"):
        Address.parse(text)


@pytest.mark.parametrize("odd", [None, 7, b"127.0.0.1:80/h1-m1"])
def test_what_is_no_text_is_refused_in_the_same_way(odd: object) -> None:
    with pytest.raises(InvalidCall, match="is no machine's address"):
        Address.parse(odd)  # type: ignore[arg-type]  # on purpose


@given(
    host=st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True) | st.ip_addresses().map(str),
    port=st.integers(0, 65535),
    agent=st.from_regex(r"[a-z][0-9a-f]{1,8}", fullmatch=True),
    number=st.integers(1, 10**6),
)
def test_an_address_survives_being_printed(host: str, port: int, agent: str, number: int) -> None:
    address = Address(host, port, f"{agent}-m{number}")
    assert Address.parse(str(address)) == address
