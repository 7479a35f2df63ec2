"""Read what the kernel tells as text."""

from __future__ import annotations


def text_of(path: str) -> str:
    """Give the text of a file, empty if it cannot be read: it is gone with its process or group, or never was there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


__all__ = ["text_of"]
