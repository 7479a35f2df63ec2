"""Machines come up on hosts where nothing of ours is, as the user's own configuration says."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from tests.labs.ssh.lab import PROJECT, Lab, Outcome


def machines(outcome: Outcome) -> list[dict[str, Any]]:
    """Return what the machines of `hello.py` said of themselves."""
    line = next(line for line in outcome.out.splitlines() if line.startswith("["))
    told: list[dict[str, Any]] = json.loads(line)
    return told


def test_machines_are_spread_over_hosts_and_run_the_program_from_their_own_files(lab: Lab) -> None:
    outcome = lab.run("hello.py", "5", hosts="{1}*2,lab@{2},lab@{3}*2")
    told = machines(outcome)
    assert sorted(each["hostname"] for each in told) == sorted(lab.name(host) for host in (1, 1, 2, 3, 3))
    for each in told:
        home = "/root" if each["hostname"] == lab.name(1) else "/home/lab"
        assert each["file"].startswith(f"{home}/.cache/bigmachine/v1/images/"), each
    procs = max(1, (os.cpu_count() or 1) // 2)
    line = next(line for line in outcome.out.splitlines() if line.startswith("MAXPROCS"))
    assert sorted(line.split()[1:]) == sorted(map(str, [procs] * 4 + [os.cpu_count() or 1]))


def test_a_file_of_a_host_is_read_from_here(lab: Lab) -> None:
    assert "READ True" in lab.run("hello.py", "1", hosts="lab@{2}").out


def test_machines_of_different_hosts_call_each_other(lab: Lab) -> None:
    assert f"PEERS {lab.name(3)}" in lab.run("hello.py", "2", "peers", hosts="lab@{2},lab@{3}").out


def test_the_users_own_configuration_counts(lab: Lab) -> None:
    """HostName, User, Port, IdentityFile and UserKnownHostsFile, all of which differ from what is the default."""
    lab.on(1, "sed 's/^ListenAddress.*/&:2222/' /etc/ssh/sshd_config >/tmp/2222; /usr/sbin/sshd -f /tmp/2222")
    folder = lab.user / ".ssh"
    folder.mkdir(mode=0o700)
    try:
        shutil.copy(lab.files / "id", folder / "another")
        (folder / "another").chmod(0o600)
        key = (lab.files / "h1/ssh/ssh_host_ed25519_key.pub").read_text()
        (folder / "those").write_text(f"[{lab.address(1)}]:2222 {key}")
        (folder / "config").write_text(
            f"Host alias\n  HostName {lab.address(1)}\n  User lab\n  Port 2222\n"
            "  IdentityFile ~/.ssh/another\n  UserKnownHostsFile ~/.ssh/missing ~/.ssh/those\n"
        )
        outcome = lab.run("hello.py", "1", hosts="alias", config="")
        assert machines(outcome)[0]["file"].startswith("/home/lab/")
    finally:
        shutil.rmtree(folder)
        lab.on(1, "pkill -f [s]shd.*2222; rm /tmp/2222")


def jumping(lab: Lab, tmp_path: Path) -> Path:
    config = tmp_path / "config"
    jump = f"Host {lab.name(2)}\n  ProxyJump lab@{lab.name(1)}\n"
    config.write_text(jump + lab.config.read_text())
    return config


def test_a_host_behind_another_is_reached_over_that(lab: Lab, tmp_path: Path) -> None:
    lab.netlab("split", "2", "0")
    outcome = lab.run("hello.py", "1", hosts="lab@{2}", config=jumping(lab, tmp_path))
    assert machines(outcome)[0]["hostname"] == lab.name(2)


def test_the_port_is_reached_through_the_login_where_it_is_closed(lab: Lab) -> None:
    for action in ("drop", "reject with tcp reset"):
        with lab.closed(3, action):
            assert machines(lab.run("hello.py", "2", hosts="lab@{3}*2"))[1]["hostname"] == lab.name(3)


def test_a_host_without_python_gets_the_drivers_and_the_authorities_that_came_with_it(lab: Lab) -> None:
    with lab.without_python(2):
        assert lab.on(2, "python3 -c 0 2>/dev/null || echo none", user="lab") == "none\n"
        told = machines(lab.run("hello.py", "2", hosts="lab@{2}*2"))
        again = machines(lab.run("hello.py", "1", hosts="lab@{2}"))
    for each in (*told, *again):
        assert each["cert"].startswith("/home/lab/.cache/bigmachine/v1/interpreters/")
        assert (lab.files / "h2" / each["cert"].lstrip("/")).read_text().count("BEGIN CERTIFICATE") > 10


def test_a_servers_defaults_let_in_many_logins_and_many_machines(lab: Lab, tmp_path: Path) -> None:
    """MaxStartups 10:30:100 and MaxSessions 10: twelve logins to one server, and twelve machines over one login."""
    config = tmp_path / "config"
    names = [f"name{number}" for number in range(12)]
    config.write_text(f"Host name*\n  HostName {lab.address(1)}\n  User lab\n{lab.config.read_text()}")
    assert len(machines(lab.run("hello.py", "12", hosts=",".join(names), config=config))) == 12
    assert len(machines(lab.run("hello.py", "12", hosts="lab@{1}*12"))) == 12


def test_an_address_of_ipv6(lab: Lab, tmp_path: Path) -> None:
    for host in (0, 1):
        lab.in_space(host, "ip", "addr", "add", f"fd77::{host + 10}/64", "dev", "eth0", "nodad")
    lab.on(1, "sed 's/^ListenAddress.*/ListenAddress [::]:2226/' /etc/ssh/sshd_config >/tmp/2226")
    lab.on(1, "/usr/sbin/sshd -f /tmp/2226")
    known, config = tmp_path / "known", tmp_path / "config"
    known.write_text(f"[fd77::11]:2226 {(lab.files / 'h1/ssh/ssh_host_ed25519_key.pub').read_text()}")
    config.write_text(f"Host *\n  UserKnownHostsFile {known}\n{lab.config.read_text()}")
    try:
        outcome = lab.run("hello.py", "1", "hostof", hosts="lab@[fd77::11]:2226", config=config)
        assert "HOSTS [fd77::11]:" in outcome.out
    finally:
        lab.on(1, "pkill -f [s]shd.*2226; rm /tmp/2226")


def test_the_examples_run_on_hosts(lab: Lab) -> None:
    examples = Path(shutil.copytree(PROJECT / "examples", lab.home / "examples"))
    pi = lab.run(examples / "bigpi.py", "-n", "200000", "--nmach", "3", hosts="lab@{1},lab@{2},lab@{3}")
    assert "3.1" in pi.out
    both = ("--cluster", "local:1", "--cluster", "ssh:2", "--duration", "1")
    table = lab.run(examples / "multisys.py", *both, hosts="lab@{1},lab@{2}").out
    assert re.search(r"^ssh +2 .* 3\.1", table, re.MULTILINE), table
