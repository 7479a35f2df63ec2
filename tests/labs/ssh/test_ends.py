"""Whatever ends a driver, a login, an agent or a machine: nothing of it stays on the hosts."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.labs.ssh.lab import Driver, Lab

#: The end of a stream is noticed at once; on a busy computer a process takes a moment to be gone.
AT_ONCE = 3.0


def waiting(lab: Lab, *verbs: str, hosts: str = "lab@{1},{2}", count: int = 2) -> Driver:
    """Start a driver with machines, and have it wait."""
    driver = lab.drive("hello.py", str(count), *(verbs or ("wait",)), hosts=hosts)
    driver.expect("THINKING" if "think" in verbs else "WAITING")
    return driver


def pids(lab: Lab, host: int, word: str) -> list[int]:
    """Find processes of a host by a word of their commands."""
    return [pid for pid, command in lab.processes(host).items() if word in command]


def test_a_driver_that_is_killed_takes_everything_along(lab: Lab) -> None:
    """As root and as an ordinary user, with a child in a session of its own that ignores signals."""
    driver = waiting(lab, "hide", "wait")
    for host in (1, 2):
        assert lab.processes(host)
    assert pids(lab, 1, "trap") or pids(lab, 2, "trap")
    driver.process.kill()
    driver.process.wait()
    assert lab.wait_quiet(1, 2, timeout=AT_ONCE) < AT_ONCE
    driver.wait()
    lab.check_quiet()


def test_a_session_of_sshd_that_is_killed_takes_everything_along(lab: Lab) -> None:
    driver = waiting(lab, "hide", "think", hosts="lab@{1}", count=1)
    for pid in sessions(lab, 1):
        os.kill(pid, signal.SIGKILL)
    assert lab.wait_quiet(1, timeout=AT_ONCE) < AT_ONCE
    assert "DIED" in driver.wait(20).out


def sessions(lab: Lab, host: int) -> list[int]:
    """Find the processes of sshd that serve a login."""
    found = [pid for pid in lab.pids(host) if is_session(pid)]
    assert found
    return found


def is_session(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return command.startswith(b"sshd: ") and not command.startswith(b"sshd: /usr")


def test_an_agent_that_is_killed_takes_its_machines_along(lab: Lab) -> None:
    driver = waiting(lab, "hide", "think", hosts="lab@{1}", count=1)
    (agent,) = [pid for pid in pids(lab, 1, "agent.main") if parent(pid) not in pids(lab, 1, "agent.main")]
    os.kill(agent, signal.SIGKILL)
    died = driver.expect("DIED", 20)
    assert "MachineStopped" in died or "MachineLost" in died, died
    lab.wait_quiet(1)
    driver.wait()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_machine_that_is_killed_is_an_error_that_says_so(lab: Lab) -> None:
    driver = lab.drive("hello.py", "1", "think", hosts="lab@{1}")
    told = json.loads(driver.expect("hostname"))
    driver.expect("THINKING")
    os.kill(told[0]["pid"], signal.SIGKILL)
    died = driver.expect("DIED", 20)
    assert "MachineStopped" in died
    assert "SIGKILL" in died
    assert driver.wait().status == 0
    lab.check_quiet()


def test_a_driver_that_stands_still_loses_its_machines_and_one_that_goes_on_in_time_does_not(lab: Lab) -> None:
    driver = lab.drive("hello.py", "1", "wait", "short", hosts="lab@{1}")
    driver.expect("WAITING")
    driver.process.send_signal(signal.SIGSTOP)
    time.sleep(1.0)
    assert lab.processes(1), "a lease of 4 s is over after 1 s"
    lab.wait_quiet(1, timeout=12)
    driver.process.send_signal(signal.SIGCONT)
    driver.tell()
    driver.wait()
    lab.check_quiet()


@pytest.mark.parametrize("hosts", ["lab@{1}"])
def test_on_a_host_that_is_cut_off_the_lease_ends_everything(lab: Lab, hosts: str) -> None:
    driver = lab.drive("hello.py", "1", "think", "short", hosts=hosts)
    driver.expect("THINKING")
    lab.netlab("drop", "1")
    assert lab.wait_quiet(1, timeout=12) > 1.0
    died = driver.expect("DIED", 30)
    assert "Machine" in died
    assert driver.wait(30).status == 0
    lab.netlab("heal", "1")
    lab.check_quiet()


def test_nothing_secret_can_be_read_on_a_host(lab: Lab) -> None:
    """In arguments, environments and files, while machines run and afterwards."""
    driver = waiting(lab, "wait", hosts="lab@{1},{1}", count=2)
    for pid in lab.pids(1):
        for name in ("cmdline", "environ"):
            told = Path(f"/proc/{pid}/{name}").read_bytes()
            assert b"PRIVATE KEY" not in told, (pid, name)
            assert b"BEGIN CERT" not in told, (pid, name)
    look(lab)
    driver.tell()
    assert driver.wait().status == 0
    look(lab)


def look(lab: Lab) -> None:
    """Search all that a host has of its own for private keys, and for what others may read or write."""
    for top in ("home/lab", "root", "tmp", "vartmp"):
        for path in (lab.files / "h1" / top).rglob("*"):
            if path.is_symlink() or not path.is_file():
                continue
            # The library itself has the words, as the program has that makes keys.
            if path.suffix not in (".py", ".pyc", ".so") and ".so." not in path.name and path.stat().st_size < 1 << 20:
                assert b"PRIVATE KEY-----" not in path.read_bytes(), path
        cache = lab.files / "h1" / top / ".cache" / "bigmachine"
        if cache.exists():
            assert cache.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_driver_that_is_ended_leaves_no_folder(lab: Lab, number: int) -> None:
    driver = waiting(lab, "wait", hosts="lab@{1}", count=1)
    driver.process.send_signal(number)
    assert driver.wait().status == -number
    lab.check_quiet()


def test_what_a_killed_driver_leaves_of_a_tunnel_the_next_one_removes(lab: Lab) -> None:
    with lab.closed(1, "drop"):
        driver = waiting(lab, "wait", hosts="lab@{1}", count=1)
        driver.process.kill()
        driver.wait()
        lab.wait_quiet(0, 1)
        (left,) = lab.user.glob("bm-*")
        lately = time.time() - 120  # what was made just now may be somebody's who has not locked it yet
        os.utime(left / ".host", (lately, lately))
        lab.run("hello.py", "1", hosts="lab@{1}")
