"""Identities as files, for curl and the like."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest

from bigmachine.trust import Authority, Credentials, Role, server_context, write_credentials
from tests.unit.trust.handshakes import Outcome, converse

AUTHORITY = Authority("12ab34cd")
CLIENT = AUTHORITY.issue(Role.CLIENT, "curl")
MACHINE = AUTHORITY.issue(Role.MACHINE, "m1")


def test_the_files_are_all_that_a_foreign_client_needs(tmp_path: Path) -> None:
    files = write_credentials(CLIENT, tmp_path / "new" / "credentials")
    context = ssl.create_default_context(cafile=files.ca)
    context.load_cert_chain(files.certificate, files.key)
    assert converse(server_context(MACHINE), context, "m1") == Outcome(server=CLIENT.peer, client=MACHINE.peer)


def test_nobody_else_can_read_them(tmp_path: Path) -> None:
    directory = tmp_path / "credentials"
    files = write_credentials(CLIENT, directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} == {0o600}
    assert sorted(directory.iterdir()) == sorted([files.ca, files.certificate, files.key])


def test_what_was_there_is_replaced_with_neither_its_mode_nor_its_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    directory = tmp_path / "credentials"
    directory.mkdir(mode=0o755)
    (directory / "key.pem").symlink_to(elsewhere)
    (directory / "certificate.pem").touch(mode=0o644)
    files = write_credentials(CLIENT, directory)
    assert elsewhere.read_bytes() == b""
    assert not files.key.is_symlink()
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} == {0o600}
    assert files == Credentials(directory / "ca.pem", directory / "certificate.pem", directory / "key.pem")
    assert files.key.read_bytes() == CLIENT.key


def test_a_file_that_cannot_be_put_in_place_leaves_no_key_aside(tmp_path: Path) -> None:
    (tmp_path / "key.pem" / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match=r"key\.pem"):
        write_credentials(CLIENT, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ca.pem", "certificate.pem", "key.pem"]
