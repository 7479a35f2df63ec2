"""The room's face: its public names, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import bigmachine.trust


def test_the_public_names_are_these() -> None:
    assert bigmachine.trust.__all__ == [
        "WAITING_ALPN",
        "Authority",
        "Credentials",
        "Identity",
        "Peer",
        "Refused",
        "Role",
        "blank_server_context",
        "check_peer",
        "client_context",
        "peer_of",
        "server_context",
        "stage0_context",
        "waiting_context",
        "warm_up",
        "write_credentials",
    ]
    assert all(hasattr(bigmachine.trust, name) for name in bigmachine.trust.__all__)


def test_importing_it_loads_neither_cryptography_nor_anything_else_that_is_slow() -> None:
    source = str(Path(bigmachine.trust.__file__).parents[2])
    program = f"""if True:
        import sys
        sys.path.insert(0, {source!r})
        from bigmachine.trust import *
        slow = {{"cryptography", "asyncio", "datetime", "email", "pathlib", "tempfile", "threading", "subprocess"}}
        print(sorted(slow & set(sys.modules)))
    """
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
