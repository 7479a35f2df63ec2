"""An identity as files, for programs that take them only so: `curl --cert`, browsers, clients in other languages.

The one place where a key touches a file system, and only because the user asked for it: the files stay until the user
removes them, and whoever can read them is that client until the session ends.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from pathlib import Path  # not at run time: it costs 2 ms in every machine, and only a driver comes here

    from bigmachine.trust.identity import Identity


@frozen
class Credentials:
    """Where `write_credentials` put an identity; the arguments of `curl --cacert`, `--cert` and `--key`, all PEM."""

    ca: Path
    certificate: Path
    key: Path


def write_credentials(identity: Identity, directory: Path) -> Credentials:
    """Write `identity` into `directory` (made for this user only, if absent) as three files of mode 0600.

    Files of an earlier call are replaced, each in one step. The caller removes them; prefer an identity with the role
    client, issued for as short as will do, to the driver's own.

    Raises:
        OSError: if they cannot be written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = Credentials(directory / "ca.pem", directory / "certificate.pem", directory / "key.pem")
    _replace(files.ca, identity.authority)
    _replace(files.certificate, identity.certificate)
    _replace(files.key, identity.key)
    return files


def _replace(path: Path, data: bytes) -> None:
    # Written aside and renamed, so that neither the mode nor a symbolic link of a file already there counts.
    aside = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
