"""What hosts need that are not there yet: found out, and made ready, before anybody pays for them.

What a host will turn out to be is not all known: its image may be anybody's. What is not known refuses nothing here;
the host itself says it later, and then the same is asked once more.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from bigmachine.agent.bare.fitting import check_libc, interpreter_for, is_fit
from bigmachine.errors import ImageError
from bigmachine.image.bundles.kit import kit_bundle
from bigmachine.image.manifest import Platform
from bigmachine.image.platforms import this_platform, usual_machine

if TYPE_CHECKING:
    from pathlib import Path

    from bigmachine.system import Foreseen

_log = logging.getLogger("bigmachine")
#: What is taken for a C library that is not known: the newest that packages are built for.
_NEWEST: Final = "glibc 2.40"
_SYSTEM: Final = "Linux"


def platform_of(hosts: Foreseen, *, cache: Path | None = None) -> Platform:
    """Say which platform programs on such hosts will be for; an interpreter that they need lies ready then.

    Raises:
        ImageError: there is none for them; the text names the hosts and what to do.
    """
    own = _own(hosts)
    if hosts.python and is_fit(own, this_platform(), openssl=True, lacks=()):
        return own
    try:
        return interpreter_for(hosts.what, own.system, own.machine, own.libc, cache=cache)[1]
    except ImageError as error:
        if hosts.python:
            raise
        # Its own may fit.
        _log.warning("unless it has Python %s, nothing can start there: %s", own.minor, error)
        return own


def _own(hosts: Foreseen) -> Platform:
    """Return the platform of the Python that they have; of one like the driver's, where that is not known."""
    ours = this_platform()
    is_alike = (_SYSTEM, usual_machine(hosts.machine)) == (ours.system, usual_machine(ours.machine))
    libc = hosts.libc or (ours.libc if is_alike else _NEWEST)
    if is_alike and not hosts.python:
        return replace(ours, libc=libc)
    build = "-".join(ours.abi.split("-")[:2])
    if hosts.python:
        build = "cpython-" + "".join(hosts.python.split(".")[:2])
    abi = f"{build}-{hosts.machine}-linux-{'musl' if 'musl' in libc else 'gnu'}"
    return Platform(hosts.python or ours.python, abi, _SYSTEM, hosts.machine, libc)


def make_kit(hosts: Foreseen, platform: Platform, *, cache: Path | None = None) -> None:
    """Have what an agent needs there lie ready.

    Raises:
        ImageError: a package cannot be had for that platform; the text names it, the hosts and what to do.
    """
    try:
        kit = kit_bundle(platform, cache=cache)
    except ImageError as error:
        raise ImageError(f"{hosts.what}: {error}") from error
    check_libc(kit, "the agent", hosts.what, platform.libc)


__all__ = ["make_kit", "platform_of"]
