"""`bigmachine profile`, `heap` and `stack`: profiles of the machines of a session."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from bigmachine.cli.choosing import chosen
from bigmachine.cli.client import OK, USAGE, Failure, open_conversation
from bigmachine.cli.numbers import seconds as a_time
from bigmachine.cli.numbers import whole
from bigmachine.cli.printing import natural, plain, say, say_json, warn, write
from bigmachine.session.register import Entry

#: What the name of a file says about its format.
_SUFFIXES: Final = {
    ".pb.gz": "pprof",
    ".pprof": "pprof",
    ".svg": "svg",
    ".json": "speedscope",
    ".folded": "folded",
    ".txt": "text",
}
_FORMATS: Final = ("pprof", "folded", "speedscope", "svg", "text")
_SAMPLED: Final = {"hertz": int, "native": bool, "idle": bool}
#: Beyond the seconds that are sampled: for machines, and for what they tell to be merged.
_PATIENCE: Final = 90.0
_SECONDS: Final = 30.0


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument("kind", nargs="?", default="cpu", choices=("cpu", "gil", "mutex"), help="what to look at (cpu)")
    parser.add_argument("--seconds", type=a_time, metavar="S", help=f"how long to sample ({_SECONDS:g})")
    parser.add_argument("--hertz", type=whole(1), metavar="N", help="samples a second (100)")
    parser.add_argument("--native", action="store_true", help="frames in C, too; stops the process for each sample")
    parser.add_argument("--idle", action="store_true", help="threads that wait, too")
    _add_common(parser)


def add_heap(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument("--seconds", type=a_time, metavar="S", help="note what is allocated for so long (a census)")
    parser.add_argument("--gc", action="store_true", help="collect garbage before")
    parser.add_argument("--mode", choices=("types", "tracemalloc", "memray"), help="how to find it out (what is best)")
    _add_common(parser)


def add_stack(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument("--full", action="store_true", help="each thread and task by itself, not equal ones together")
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", "--machine", action="append", metavar="MACHINE", help="only this one; may be repeated")
    parser.add_argument("--driver", action="store_true", help="the driver's own process, too")
    parser.add_argument("--format", choices=_FORMATS, help="what to write (as FILE is called, else text)")
    parser.add_argument("-o", "--out", metavar="FILE", help="write it there, - for standard output")


def run_profile(args: argparse.Namespace) -> int:
    """Profile them."""
    options = {name: getattr(args, name) for name in _SAMPLED if getattr(args, name)}
    return _run(args, args.kind, options, seconds=args.seconds)


def run_heap(args: argparse.Namespace) -> int:
    """Show what memory holds."""
    options = {name: getattr(args, name) for name in ("gc", "mode") if getattr(args, name)}
    return _run(args, "heap", options, seconds=args.seconds)


def run_stack(args: argparse.Namespace) -> int:
    """Show where threads and tasks are."""
    return _run(args, "goroutine", {}, debug=2 if args.full else 1)


def format_of(args: argparse.Namespace) -> str:
    """Give the format that is asked for, or that the file's name says.

    Raises:
        Failure: if the name says nothing, or a terminal would get what it cannot show.
    """
    out = args.out
    if args.format:
        if args.format == "pprof" and out in (None, "-") and (args.json or sys.stdout.isatty()):
            raise Failure("pprof is no text: write it to a file (--out cpu.pb.gz)", USAGE)
        return str(args.format)
    if out in (None, "-"):
        return "text"
    found = next((format_ for suffix, format_ in _SUFFIXES.items() if out.endswith(suffix)), None)
    if found is None:
        raise Failure(f"{out}: say the --format, or end the name with one of {', '.join(_SUFFIXES)}", USAGE)
    return found


def _run(
    args: argparse.Namespace, kind: str, options: Mapping[str, Any], *, seconds: float | None = None, debug: int = 0
) -> int:
    format_ = format_of(args)
    if args.json and args.out == "-":
        raise Failure("standard output is either the profile (--out -) or JSON (--json)", USAGE)
    entry = chosen(args.session)
    length = seconds if seconds is not None else _SECONDS if kind in ("cpu", "gil") else 0.0
    if length and sys.stderr.isatty():
        warn(f"sampling for {length:g} s")
    told, data = _collected(
        entry,
        length + _PATIENCE,
        kind=kind,
        seconds=seconds,
        machines=args.machine or [],
        driver=args.driver,
        format=format_,
        debug=debug if format_ == "text" else 0,
        options=dict(options),
    )
    for name, why in told["missing"].items():
        warn(f"{name} is missing: {why}")
    if args.out not in (None, "-"):
        _save(args.out, data)
    if args.json:
        _say_json(args, told, data)
    elif args.out in (None, "-"):
        _write(data, format_)
    else:
        say(f"{args.out}: {kind} of {', '.join(sorted(told['taken'], key=natural))}, {len(data):,} bytes of {format_}")
    return OK


def _collected(entry: Entry, timeout: float, **arguments: Any) -> tuple[dict[str, Any], bytes]:
    with open_conversation(entry, "profile", timeout=timeout, **arguments) as conversation:
        return conversation.told, conversation.read_exactly(conversation.told["bytes"])


def _say_json(args: argparse.Namespace, told: Mapping[str, Any], data: bytes) -> None:
    document = {name: told[name] for name in ("kind", "format", "taken", "missing", "comments", "bytes")}
    document["file"] = args.out
    if args.out is None:
        document["profile"] = data.decode("utf-8", "replace")
    say_json(document)


def _write(data: bytes, format_: str) -> None:
    if format_ == "text":
        write("".join(f"{plain(line)}\n" for line in data.decode("utf-8", "replace").split("\n")[:-1]))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _save(path: str, data: bytes) -> None:
    """Write a file; what stands there stays until the new one is whole. A profile tells what a program holds."""
    with _beside(path) as fresh:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
        os.replace(fresh, path)


@contextlib.contextmanager
def _beside(path: str) -> Iterator[str]:
    fresh = f"{path}.{os.getpid()}.part"
    try:
        yield fresh
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise Failure(f"{path} could not be written: {error.strerror}") from error


__all__ = ["add_heap", "add_profile", "add_stack", "format_of", "run_heap", "run_profile", "run_stack"]
