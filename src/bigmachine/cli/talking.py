"""`bigmachine pdb`, `attach` and `shell`: conversations with a machine's program; see `bigmachine.agent.conversations`.

What is typed is read by the main thread, with Python's own line editing where it is a terminal; what is said comes by
another one, which interrupts the reading when the conversation is over.
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from bigmachine.agent.conversations import ASKS, DONE, END, FAILED, HERE, INTERRUPT
from bigmachine.cli.choosing import chosen
from bigmachine.cli.client import FAILED as FAILED_CODE
from bigmachine.cli.client import INTERRUPTED, MISSING, OK, Conversation, Failure, ask, open_conversation
from bigmachine.cli.printing import ago, plain, say, warn, write

if TYPE_CHECKING:
    from bigmachine.session.register import Entry

#: Pressed again within this time, with nothing said between, Ctrl-C leaves.
_TWICE: Final = 2.0
_MARKS: Final = ASKS + DONE + FAILED + HERE
_AGAIN: Final = 0.05
#: A program takes up a conversation within 15 s, or its agent says that it does not; an attached pdb within 60.
_BEGINNING: Final = 75.0


def add_pdb(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument(
        "machine", nargs="?", metavar="MACHINE", help="by name or address; unneeded if only one waits in breakpoint()"
    )
    parser.add_argument("-n", "--number", type=int, help="which one, if several of its threads wait")


def run_pdb(args: argparse.Namespace) -> int:
    """Talk to a debugger that waits."""
    entry = chosen(args.session)
    name = args.machine or _only_one(entry)
    return _talk(entry, machine=name, kind="pdb", number=args.number)


def _only_one(entry: Entry) -> str:
    waiting = ask(entry, "halts")["halts"]
    if not waiting:
        raise Failure("no machine waits in breakpoint(); `bigmachine attach MACHINE` stops one where it is", MISSING)
    if len({each["machine"] for each in waiting}) > 1:
        for each in waiting:
            say(f"{plain(each['machine'])}  {plain(each['where'])}  for {ago(time.time() - each['since'])}")
        raise Failure("several machines wait in breakpoint(): name one", MISSING)
    return str(waiting[0]["machine"])


def add_attach(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument("machine", metavar="MACHINE", help="by name or address")


def run_attach(args: argparse.Namespace) -> int:
    """Stop a machine's program, and debug it."""
    return _talk(chosen(args.session), machine=args.machine, kind="attach")


def add_shell(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument("machine", metavar="MACHINE", help="by name or address")
    parser.add_argument("-c", dest="code", metavar="CODE", help="run this, and leave; `await` works")


def run_shell(args: argparse.Namespace) -> int:
    """Be a Python on a machine."""
    if args.code is not None and not args.code.strip():
        return OK
    return _talk(chosen(args.session), machine=args.machine, kind="shell", code=args.code)


def _talk(entry: Entry, **request: Any) -> int:
    with open_conversation(entry, "converse", timeout=_BEGINNING, **request) as conversation:
        return _Person(conversation, is_asked=request.get("code") is None).talk()


class _Over(Exception):
    """The conversation is over, while a line was being typed."""


class _Person:
    """The person at this terminal."""

    def __init__(self, conversation: Conversation, *, is_asked: bool) -> None:
        self._conversation = conversation
        self._is_asked = is_asked
        #: Prompts for which a line is wanted; None at the end.
        self._asked: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._code: int | None = None
        self._is_typing = False
        self._is_over = False
        self._line = ""  # what has been said since the last newline
        self._said = 0
        self._interrupted = (0.0, -1)

    def talk(self) -> int:
        """Talk until the end, and give the exit code."""
        if self._is_asked and sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 (it edits lines from now on)
        before = signal.signal(signal.SIGUSR1, self._end_typing)
        listening = threading.Thread(target=self._listen, name="listening", daemon=True)
        listening.start()
        try:
            while (code := self._step()) is None:
                pass
            return code
        except _Over:  # just as a line was finished
            return self._end()
        finally:
            if self._is_over:  # it may be about to interrupt what is not typed any more
                listening.join()
            signal.signal(signal.SIGUSR1, before)

    def _step(self) -> int | None:
        """Answer one question; gives the exit code at the end."""
        try:
            prompt = self._asked.get()
            if prompt is None:
                return self._end()
            self._send(self._typed(prompt))
        except _Over:
            return self._end()
        except KeyboardInterrupt:
            if self._is_enough():
                return INTERRUPTED
            self._send(INTERRUPT.decode() + "\n")
        except ConnectionError:
            return self._end()
        return None

    def _typed(self, prompt: str) -> str:
        self._is_typing = True
        try:
            if self._is_over:  # before anybody could be interrupted
                raise _Over
            return input(prompt) + "\n"
        except EOFError:
            say()
            return END.decode() + "\n"
        finally:
            self._is_typing = False

    def _send(self, text: str) -> None:
        self._conversation.write(text.encode("utf-8", "surrogateescape"))

    def _is_enough(self) -> bool:
        """Tell whether Ctrl-C was pressed twice in a row: what it should interrupt does not obey."""
        at, said = self._interrupted
        now = time.monotonic()
        self._interrupted = (now, self._said)
        return now - at < _TWICE and said == self._said

    def _end(self) -> int:
        if self._code is None:
            warn("the machine has ended, or its session: see `bigmachine status`, `bigmachine ls`")
            return FAILED_CODE
        return self._code

    def _end_typing(self, *_: object) -> None:
        if self._is_typing:
            self._is_typing = False
            raise _Over

    # the thread that listens

    def _listen(self) -> None:
        try:
            while data := self._conversation.read():
                self._take(data)
        except (OSError, Failure):
            pass  # the session has ended: the main thread says so
        self._flush()
        self._is_over = True
        self._asked.put(None)
        # A signal that comes just before the terminal is waited for does not end that waiting: the next one does.
        while self._is_typing:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            time.sleep(_AGAIN)

    def _take(self, data: bytes) -> None:
        if DONE in data:
            self._code = OK
        if FAILED in data:
            self._code = FAILED_CODE
        asks = data.count(ASKS)
        self._said += 1
        text = self._line + self._decoded(data.translate(None, _MARKS))
        whole, newline, self._line = text.rpartition("\n")
        write(_clean(whole) + newline)
        if asks:
            self._asked.put(_clean(self._line))
            self._line = ""
        elif self._code is not None or not self._is_asked:
            self._flush()
        sys.stdout.flush()

    def _decoded(self, data: bytes) -> str:
        return data.decode("utf-8", "replace")

    def _flush(self) -> None:
        write(_clean(self._line))
        sys.stdout.flush()
        self._line = ""


def _clean(text: str) -> str:
    return "".join(line if line == "\n" else plain(line) for line in text.splitlines(keepends=True)) if text else ""


__all__ = ["add_attach", "add_pdb", "add_shell", "run_attach", "run_pdb", "run_shell"]
