"""What `bigmachine doctor` looks at on this computer, one function for each; none of them asks the network."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import resource
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bigmachine.frozen import frozen

_OLDEST: Final = (3, 11)
_NEEDED: Final = ("cloudpickle", "cryptography", "h11", "h2", "pathspec", "psutil", "rich", "zstandard")
_MB: Final = 2**20
_SHM: Final = "/dev/shm"  # noqa: S108 (nothing is written there)


@frozen
class Finding:
    """What was found. `state`: "ok", "note" (something could be better), "failed" (nothing works without it).

    `costs`: what is missing or slower; `remedy`: what to do about it.
    """

    name: str
    state: str
    text: str
    costs: str = ""
    remedy: str = ""


def python() -> Finding:
    """Look at this Python's version."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= _OLDEST:
        return Finding("Python", "ok", f"{version} at {sys.executable}")
    return Finding("Python", "failed", version, "nothing works", "use Python 3.11 or later")


def openssl() -> Finding:
    """Look for TLS 1.3."""
    if ssl.HAS_TLSv1_3:
        return Finding("OpenSSL", "ok", ssl.OPENSSL_VERSION)
    return Finding(
        "OpenSSL",
        "failed",
        f"{ssl.OPENSSL_VERSION} without TLS 1.3",
        "no connection can be made",
        "use a Python with OpenSSL 1.1.1 or later",
    )


def packages() -> Finding:
    """Look for what the library cannot do without."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        return Finding("packages", "ok", f"all {len(_NEEDED)} that are needed")
    return Finding("packages", "failed", f"missing: {', '.join(missing)}", "nothing works", "pip install bigmachine")


def uvloop() -> Finding:
    """Look for the fast event loop."""
    costs = "small calls take longer and fewer fit into a second: see docs/performance.md"
    return _optional("uvloop", "uvloop", costs, "pip install uvloop")


def aiofastnet() -> Finding:
    """Look for fast TLS."""
    costs = "large arguments and results travel more slowly: see docs/performance.md"
    return _optional("aiofastnet", "aiofastnet", costs, "pip install 'bigmachine[fast]'")


def _optional(name: str, module: str, costs: str, remedy: str) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(module))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "note", "not installed", costs, remedy)


def ptrace() -> Finding:
    """Try to look into another process, as profiles do."""
    from bigmachine.agent.watch import pyspy

    costs = "CPU profiles are taken by the machines themselves, and are biased; a machine that hangs shows no stacks"
    try:
        program = pyspy.program()
    except Exception as error:  # noqa: BLE001 (whatever it is, profiles have the same trouble)
        return Finding("ptrace", "note", str(error), costs, "pip install py-spy")
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        why = ["it failed"]
        try:
            for _ in range(20):  # until it is an interpreter
                done = subprocess.run(
                    [program, "dump", "--pid", str(child.pid)], capture_output=True, timeout=20, check=False
                )
                if not done.returncode:
                    return Finding("ptrace", "ok", "py-spy sees the stacks of other processes")
                why = done.stderr.decode("utf-8", "replace").strip().splitlines() or why
                time.sleep(0.1)
            text = f"py-spy cannot look into processes: {why[-1]}"
        except (OSError, subprocess.TimeoutExpired) as error:
            text = f"py-spy cannot be run: {error}"
        finally:
            child.kill()
    remedy = "sysctl kernel.yama.ptrace_scope=0 (or 1); in a container: --cap-add=SYS_PTRACE; on macOS: as root"
    return Finding("ptrace", "note", text, costs, remedy)


def control_groups() -> Finding:
    """Look whether machines can have control groups of their own."""
    costs = "a machine's memory is watched by process only, and what a dead machine started is found by its environment"
    if sys.platform != "linux":
        return Finding("cgroups", "note", f"{sys.platform} has none", costs, "use Linux")
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                place = Path("/sys/fs/cgroup", line[3:].lstrip("/"))
                if os.access(place, os.W_OK):
                    return Finding("cgroups", "ok", f"{place} can be written")
                remedy = "start the program by `systemd-run --user --scope -p Delegate=yes`"
                return Finding("cgroups", "note", f"{place} cannot be written", costs, remedy)
    return Finding("cgroups", "note", "version 2 is not mounted", costs, "mount cgroup2 at /sys/fs/cgroup")


def shared_memory() -> Finding:
    """Look at the memory that processes share."""
    if sys.platform != "linux":
        return Finding(_SHM, "ok", "not used here")
    costs = "libraries on the machines that share memory (multiprocessing, PyTorch's loaders) fail"
    try:
        found = os.statvfs(_SHM)
    except OSError as error:
        return Finding(_SHM, "note", str(error.strerror), costs, "mount a tmpfs there")
    free = found.f_bavail * found.f_frsize
    if not os.access(_SHM, os.W_OK) or free < 64 * _MB:
        return Finding(_SHM, "note", f"{free // _MB} MB free", costs, "in a container: --shm-size=1g")
    return Finding(_SHM, "ok", f"{free // _MB} MB free")


def files() -> Finding:
    """Look at how many files a process may have open: an agent needs three a machine, and one a connection."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    shown = "no limit" if hard == resource.RLIM_INFINITY else f"up to {hard}"
    if hard == resource.RLIM_INFINITY or hard >= 4096:
        return Finding("open files", "ok", shown)
    return Finding(
        "open files", "note", shown, "some hundred machines at most on one host", "raise `ulimit -Hn`, limits.conf"
    )


def cache() -> Finding:
    """Look at the folder in which programs are kept that came here."""
    from bigmachine.image.scan.cache import cache_directory

    place = Path(cache_directory())
    there = place
    while not there.exists():
        there = there.parent
    found = os.statvfs(there)
    free = found.f_bavail * found.f_frsize
    costs = "programs that are sent to this host are sent and unpacked anew each time, or cannot be"
    remedy = "set XDG_CACHE_HOME to a folder on a disk that has room and lets programs run"
    text = f"{place}: {_size(place) // _MB} MB, {free // _MB} MB free"
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding("cache", "note", f"{place} cannot be written", costs, remedy)
    if found.f_flag & os.ST_NOEXEC:
        return Finding("cache", "note", f"{text}; nothing can be executed there (noexec)", costs, remedy)
    if free < 1024 * _MB:
        return Finding("cache", "note", text, costs, remedy)
    return Finding("cache", "ok", text)


def _size(place: Path) -> int:
    """Add up what files take on the disk, those with several names once; gives up after five seconds."""
    seen: set[tuple[int, int]] = set()
    size, end = 0, time.monotonic() + 5
    for folder, _, names in os.walk(place):
        for name in names:
            with contextlib.suppress(OSError):
                found = os.lstat(os.path.join(folder, name))
                if (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    size += found.st_blocks * 512
        if time.monotonic() > end:
            break
    return size


def aws(*, ask: bool = False) -> Finding:
    """Look for credentials of AWS; with `ask`, ask AWS whose they are."""
    costs = "no machines on EC2"
    if importlib.util.find_spec("boto3") is None:
        return Finding("AWS", "note", "boto3 is not installed", costs, "pip install 'bigmachine[ec2]'")
    import boto3

    before = os.environ.get("AWS_EC2_METADATA_DISABLED")
    if not ask:
        os.environ["AWS_EC2_METADATA_DISABLED"] = "true"  # it would ask the network
    try:
        session = boto3.Session()
        found = session.get_credentials()
        if found is None:
            return Finding(
                "AWS", "note", "no credentials", costs, "aws configure, or AWS_PROFILE, or AWS_ACCESS_KEY_ID"
            )
        text = f"credentials from {found.method}, region {session.region_name or 'not set'}"
        if ask:
            text += f", {session.client('sts', region_name='us-east-1').get_caller_identity()['Arn']}"
        return Finding("AWS", "ok", text)
    except Exception as error:  # noqa: BLE001 (botocore's many, of no common class)
        return Finding("AWS", "note", f"{type(error).__name__}: {error}", costs, "aws configure; aws sso login")
    finally:
        if before is None:
            os.environ.pop("AWS_EC2_METADATA_DISABLED", None)
        else:
            os.environ["AWS_EC2_METADATA_DISABLED"] = before


def ssh() -> Finding:
    """Look for keys of SSH."""
    home = Path(os.path.expanduser("~"), ".ssh")
    keys = sorted(path.name for path in home.glob("id_*") if path.suffix != ".pub") if home.is_dir() else []
    agent = os.environ.get("SSH_AUTH_SOCK", "")
    has_agent = bool(agent) and os.path.exists(agent)
    parts = [*keys, *(["an agent"] if has_agent else []), *(["config"] if (home / "config").exists() else [])]
    if importlib.util.find_spec("asyncssh") is None:
        return Finding(
            "SSH", "note", "asyncssh is not installed", "no machines by SSH", "pip install 'bigmachine[ssh]'"
        )
    if not keys and not has_agent:
        text = f"no key in {home}, and no agent"
        return Finding("SSH", "note", text, "hosts that want a key do not let you in", "ssh-keygen, or ssh-add")
    return Finding("SSH", "ok", ", ".join(parts))


def clock() -> Finding:
    """Look whether something keeps this computer's clock right; what clocks show on a slip is monotonic time."""
    monotonic = time.get_clock_info("monotonic")
    if not monotonic.monotonic or monotonic.adjustable:
        return Finding("clock", "failed", f"{monotonic.implementation} can go back", "leases and deadlines are wrong")
    if sys.platform != "linux":
        return Finding("clock", "ok", f"{monotonic.implementation} is monotonic")
    with contextlib.suppress(OSError, AttributeError):
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
        if state == 5:  # TIME_ERROR, see adjtimex(2)
            costs = "certificates may not be valid yet or any more on other hosts, times of their logs do not fit"
            return Finding("clock", "note", "nothing keeps it right", costs, "run chrony or systemd-timesyncd")
    return Finding("clock", "ok", "monotonic, and kept right")


def leftovers() -> Finding:
    """Look for processes of sessions that are gone."""
    left = [f"{name} ({pid})" for pid, name in _orphans()]
    if not left:
        return Finding("leftovers", "ok", "no process of a session that is gone")
    remedy = "they end by themselves within their lease, a minute; after that: kill them, and report it"
    return Finding("leftovers", "note", ", ".join(left), "memory and processors", remedy)


def _orphans() -> Iterator[tuple[int, str]]:
    import psutil

    for process in psutil.process_iter(["pid", "ppid", "name", "uids"]):
        name, uids = process.info["name"] or "", process.info["uids"]
        if name.startswith("bigm-agent") and process.info["ppid"] == 1 and uids and uids.real == os.getuid():
            yield process.info["pid"], name


CHECKS: Final[tuple[Callable[[], Finding], ...]] = (
    python,
    openssl,
    packages,
    uvloop,
    aiofastnet,
    ptrace,
    control_groups,
    shared_memory,
    files,
    cache,
    aws,
    ssh,
    clock,
    leftovers,
)

__all__ = ["CHECKS", "Finding"]
