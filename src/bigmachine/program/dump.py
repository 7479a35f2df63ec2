"""What a machine tells of its memory when that runs short: a census of its heap, and its variables as plain data."""

from __future__ import annotations

import dataclasses
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def take_heap(headroom: int, done: Callable[[str], object]) -> None:
    """Write a census of the heap, in a thread of its own so that calls go on, and give it to `done`.

    `headroom`: the bytes that may still be used; a census that might take more than half of it is not taken.
    """
    threading.Thread(target=lambda: done(_heap(headroom)), name="bigmachine-dump", daemon=True).start()


def _heap(headroom: int) -> str:
    # The collector makes a list of its objects, eight bytes for each; of these there are fewer than of blocks.
    if (needed := 8 * sys.getallocatedblocks()) > headroom // 2:
        return f"# no census was taken: it might have needed {needed} bytes, of {headroom} that were left\n"
    try:
        from bigmachine.observe.heap import take_census

        return take_census().to_text()
    except MemoryError:
        return "# no census was taken: there was no memory left for it\n"


def plain(value: object) -> object:
    """Make what JSON can hold of variables, whose values may be records of ours."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return repr(value)


__all__ = ["plain", "take_heap"]
