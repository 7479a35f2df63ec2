"""The standard descriptors of a driver that has closed them, as daemons do.

The next files to be opened would get their numbers, 0 to 2. libuv takes that for a fault and ends the process
(SIGABRT), and a child's standard error would be a socket of ours. Rust's runtime does the same for each program.
"""

from __future__ import annotations

import os


def occupy_standard_descriptors() -> None:
    """Open the null device in the place of each standard descriptor that is closed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)  # children expect them
    os.close(descriptor)


__all__ = ["occupy_standard_descriptors"]
