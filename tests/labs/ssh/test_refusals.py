"""A host that cannot be used is an error that names it, what was tried and what to do, in bounded time."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labs.ssh.lab import Lab


def fails(
    lab: Lab,
    host: str,
    *,
    config: Path | None = None,
    within: float = 20.0,
    count: int = 1,
    environ: dict[str, str] | None = None,
) -> tuple[str, str]:
    """Ask a host for machines; gives the error and its text. Nothing may be left of the attempt, anywhere."""
    outcome = lab.run("attempt.py", str(count), hosts=host, config=config, environ=environ)
    failed = re.search(r"^FAILED (\w+) ([\d.]+) (.*?)^LEFT (\[.*\]) (-?\d+)$", outcome.out, re.MULTILINE | re.DOTALL)
    assert failed is not None, outcome.out + outcome.err
    assert float(failed[2]) < within, outcome.out
    assert failed[4] == "[]", outcome.out
    assert int(failed[5]) <= 0, outcome.out
    return failed[1], failed[3]


@pytest.fixture
def config(lab: Lab, tmp_path: Path) -> Path:
    """A configuration that a test may change; what stands first in it holds."""
    path = tmp_path / "config"
    path.write_text(lab.config.read_text())
    return path


def first(config: Path, line: str) -> None:
    config.write_text(f"Host *\n  {line}\n" + config.read_text())


def test_a_host_key_that_changed_is_refused(lab: Lab, config: Path, tmp_path: Path) -> None:
    keys = (lab.files / "known_hosts").read_text().splitlines()
    first_key, second_key = (line.split(" ", 1)[1] for line in keys[:2])
    known = tmp_path / "known"
    known.write_text("\n".join(keys).replace(first_key, second_key))
    first(config, f"UserKnownHostsFile {known}")
    kind, text = fails(lab, "lab@{1}", config=config)
    assert kind == "AuthenticationError"
    assert f"lab@{lab.name(1)}" in text
    assert "logging in" in text
    assert "somebody may stand in between" in text


@pytest.mark.parametrize("known", ["none", "/dev/null", "/does/not/exist"])
def test_a_host_whose_key_is_not_known_is_refused_whatever_the_configuration_says(
    lab: Lab, config: Path, known: str
) -> None:
    first(config, f"UserKnownHostsFile {known}\n  StrictHostKeyChecking no")
    kind, text = fails(lab, "lab@{1}", config=config)
    assert kind == "AuthenticationError"
    assert "none is known" in text


def test_the_key_of_a_host_to_jump_over_is_verified_too(lab: Lab, config: Path) -> None:
    config.write_text(
        f"Host {lab.name(1)}\n  UserKnownHostsFile none\nHost {lab.name(2)}\n  ProxyJump {lab.name(1)}\n"
        + config.read_text()
    )
    kind, text = fails(lab, "lab@{2}", config=config)
    assert kind == "AuthenticationError"
    assert f"ssh host {lab.name(1)} " in text


def test_a_key_that_the_host_does_not_know_is_refused(lab: Lab, config: Path, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    config.write_text(config.read_text().replace(str(lab.files / "id"), str(tmp_path / "other")))
    kind, text = fails(lab, "lab@{1}", config=config)
    assert kind == "AuthenticationError"
    assert "refused to log us in" in text
    assert "must work without a question" in text


def test_a_key_that_is_not_there_does_not_count(lab: Lab, config: Path) -> None:
    first(config, "IdentityFile ~/.ssh/of-another-computer")
    assert "RUNNING" in lab.run("attempt.py", "1", hosts="lab@{1}", config=config).out


def test_an_agent_that_is_damaged_on_its_host_is_named_with_the_remedy(lab: Lab) -> None:
    lab.run("attempt.py", "1", hosts="lab@{1}")
    kits = "/home/lab/.cache/bigmachine/v1/kits"
    lab.on(
        1, f"f=$(ls {kits}/*/site/bigmachine/agent/main.py) && chmod u+w $f && echo 'raise ValueError' >$f", user="lab"
    )
    lab.on(1, f"rm -f {kits}/*/site/bigmachine/agent/__pycache__/main.*", user="lab")
    try:
        kind, text = fails(lab, "lab@{1}")
    finally:
        lab.on(1, f"rm -rf {kits}", user="lab")
    assert kind == "ProvisionError"
    assert f"ssh host lab@{lab.name(1)} (starting its agent)" in text
    assert f"{kits} or" in text
    assert "ValueError" in text


def test_without_any_key_nobody_gets_in(lab: Lab, config: Path) -> None:
    lines = [line for line in config.read_text().splitlines() if "IdentityFile" not in line]
    config.write_text("\n".join(lines))
    assert fails(lab, "lab@{1}", config=config)[0] == "AuthenticationError"


def test_a_key_with_a_passphrase_is_not_asked_for(lab: Lab, config: Path, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(tmp_path / "locked")], check=True)
    config.write_text(config.read_text().replace(str(lab.files / "id"), str(tmp_path / "locked")))
    kind, text = fails(lab, "lab@{1}", config=config)
    assert kind == "AuthenticationError"
    assert "ssh-agent" in text


def test_a_user_that_is_not_there_is_refused(lab: Lab) -> None:
    kind, text = fails(lab, "nobody-there@{1}")
    assert kind == "AuthenticationError"
    assert f"nobody-there@{lab.name(1)}" in text


def test_a_name_that_does_not_exist(lab: Lab) -> None:
    kind, text = fails(lab, "no-such-host.invalid")
    assert kind == "ProvisionError"
    assert "no-such-host.invalid" in text
    assert "spelt" in text


def test_a_host_without_a_server(lab: Lab) -> None:
    kind, text = fails(lab, "{1}:4711")
    assert kind == "ProvisionError"
    assert f"{lab.name(1)}:4711" in text


def test_a_host_that_is_down(lab: Lab) -> None:
    lab.netlab("drop", "1")
    kind, text = fails(lab, "lab@{1}")
    assert kind == "ProvisionError"
    assert "is the host up" in text


@pytest.fixture
def mute(lab: Lab) -> Iterator[int]:
    """A port of host 1 that accepts connections, and never says a word."""
    code = (
        "import socket, time; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); "
        "s.bind(('', 4712)); s.listen(); print('up', flush=True); k = []\nwhile True: k.append(s.accept())"
    )
    command = ["nsenter", f"--net=/run/netns/{lab.name(1)}", "python3", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield 4712
        process.kill()


def test_a_host_that_accepts_and_never_answers(lab: Lab, mute: int) -> None:
    outcome = lab.drive("attempt.py", "1", hosts=f"lab@{{1}}:{mute}").wait(40)
    assert "FAILED ProvisionError" in outcome.out, outcome.out + outcome.err
    assert "no answer in time" in outcome.out
    assert "LEFT [] 0" in outcome.out


def test_hosts_that_work_are_used_and_the_others_are_named(lab: Lab) -> None:
    outcome = lab.run("attempt.py", "2", hosts="{1}:4711,lab@{2},lab@{3}")
    assert "RUNNING" in outcome.out
    assert f"{lab.name(1)}:4711" in outcome.err


def test_when_no_host_works_each_is_named(lab: Lab) -> None:
    kind, text = fails(lab, "{1}:4711,{2}:4712")
    assert kind == "ProvisionError"
    assert f"{lab.name(1)}:4711" in text
    assert f"{lab.name(2)}:4712" in text


def test_a_closed_port_that_the_server_does_not_forward_either(lab: Lab) -> None:
    lab.on(
        3, "sed 's/^ListenAddress.*/&:2223/' /etc/ssh/sshd_config >/tmp/2223; echo AllowTcpForwarding no >>/tmp/2223"
    )
    lab.on(3, "/usr/sbin/sshd -f /tmp/2223")
    rule = "table inet closed { chain in { type filter hook input priority 0; tcp dport != { 22, 2223 } drop; }; }"
    lab.in_space(3, "nft", rule)
    try:
        kind, text = fails(lab, "lab@{3}:2223")
        assert kind == "ProvisionError"
        assert "AllowTcpForwarding" in text
    finally:
        lab.in_space(3, "nft", "delete", "table", "inet", "closed")
        lab.on(3, "pkill -f [s]shd.*2223; rm /tmp/2223")
