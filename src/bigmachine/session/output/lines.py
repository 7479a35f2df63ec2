"""Cut what one stream of a machine wrote into lines. Pure.

A carriage return rewrites its line, as progress bars do: of such a line its last version counts, and only that is
kept. A return takes effect only when something follows it: the one in front of a newline does nothing. A line that
grows beyond a bound is given in pieces, so that no input makes this grow; nothing else is lost, whatever the bytes are.
"""

from __future__ import annotations

import re
from typing import Final

#: A line that grows beyond this is shown in pieces; in bytes.
LONGEST_LINE: Final = 1024 * 1024

_RETURNS_AT_END = re.compile(r"\r+\n")
_REWRITTEN = re.compile(r"[^\n]*\r")


class Lines:
    """One stream. `is_live`: its last line is being rewritten."""

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self.is_live = False
        self._longest = longest
        self._part = bytearray()

    def feed(self, data: bytes) -> str:
        """Take what was written; give the lines that are complete now, each with a newline at its end."""
        end = data.rfind(b"\n") + 1
        text = ""
        if end:
            self._part += data[:end]
            text = _decoded(self._part)
            self._part.clear()
            self.is_live = False
            if "\r" in text:
                text = _REWRITTEN.sub("", _RETURNS_AT_END.sub("\n", text))
            data = data[end:]
        if data:
            self._part += data
            if b"\r" in self._part:
                self._rewrite()
            if len(self._part) > self._longest:
                text += self._piece()
        return text

    def end(self) -> str:
        """Give the last line, if it has no end."""
        text = self.partial
        self.skip()
        return f"{text}\n" if text else ""

    def skip(self) -> None:
        """Forget the line that has not ended."""
        self._part.clear()
        self.is_live = False

    @property
    def live(self) -> str:
        """What stands in the line that is being rewritten."""
        return self.partial if self.is_live else ""

    @property
    def partial(self) -> str:
        """What stands in the line that has not ended."""
        return _decoded(self._part).rstrip("\r")

    def _rewrite(self) -> None:
        body = self._part.rstrip(b"\r")
        is_returned = len(body) < len(self._part)
        _, found, last = body.rpartition(b"\r")
        self.is_live = self.is_live or bool(found) or bool(is_returned and body)
        self._part = last + b"\r" if is_returned else last

    def _piece(self) -> str:
        # Not within a character: up to three bytes of one may stand at the end.
        cut = len(self._part)
        while cut > len(self._part) - 4 and self._part[cut - 1] & 0xC0 == 0x80:
            cut -= 1
        if self._part[cut - 1] >= 0xC0:
            cut -= 1
        else:
            cut = len(self._part)
        text = _decoded(self._part[:cut]).rstrip("\r")
        del self._part[:cut]
        return f"{text}\n"


def _decoded(data: bytearray) -> str:
    return data.decode("utf-8", "replace")
