from __future__ import annotations

from pathlib import Path

import pytest

from bigmachine.errors import ProvisionError
from bigmachine.systems.ssh import SshHost, parse_host, parse_hosts


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("node1", SshHost("node1")),
        (" node-1.example.org ", SshHost("node-1.example.org")),
        ("me@node1:2222*4", SshHost("node1", "me", 2222, 4)),
        ("node1*16", SshHost("node1", machines=16)),
        ("10.0.0.7:22", SshHost("10.0.0.7", port=22)),
        ("fd00::7", SshHost("fd00::7")),
        ("me@[fd00::7]:2222*2", SshHost("fd00::7", "me", 2222, 2)),
        ("[fe80::1%eth0]", SshHost("fe80::1%eth0")),
        ("me.too-1@a_b", SshHost("a_b", "me.too-1")),
    ],
)
def test_a_host_is_a_user_a_name_a_port_and_a_number_of_machines(text: str, host: SshHost) -> None:
    assert parse_host(text) == host
    assert parse_host(str(host)) == SshHost(host.name, host.user, host.port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "me@",
        "a b",
        "a:0",
        "a:65536",
        "a:ssh",
        "a*0",
        "a*-1",
        "a*x",
        "-oProxyCommand=x",
        "me@-x",
        "a@b@c",
    ],
)
def test_what_is_no_host_is_named(text: str) -> None:
    with pytest.raises(ProvisionError) as caught:
        parse_host(text, "hosts.txt, line 3,")
    assert "hosts.txt, line 3," in str(caught.value)
    assert repr(text) in str(caught.value)


def test_a_file_has_a_host_on_each_line(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# ours\nnode1*2   # the big one\n\nme@node2:22\nnode1\n")
    hosts = parse_hosts([f"@{path}", "node3"])
    assert hosts == [SshHost("node1", machines=2), SshHost("node2", "me", 22), SshHost("node3")]


def test_a_wrong_line_of_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("node1\nnode 2\n")
    with pytest.raises(ProvisionError, match="hosts, line 2,"):
        parse_hosts([f"@{path}"])
    with pytest.raises(ProvisionError, match="cannot be read"):
        parse_hosts([f"@{tmp_path}/missing"])


def test_no_host_at_all_is_an_error_that_shows_how_to_name_some() -> None:
    with pytest.raises(ProvisionError, match=r"--bigm\.hosts=node1"):
        parse_hosts([])
