"""Fuzz one target with atheris: `python -m tests.fuzz TARGET [--folder=DIR] [libFuzzer's options]`.

Without options it goes on until it finds something. What it finds lies in the folder (by default a new one, which is
told) as `crash-...`, and is shown again by giving that file instead of options. Without atheris, `--without` has the
target take mutations of its seeds, chosen by chance, for the seconds that `-max_total_time=` says. `all` is every
target in turn.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_MOST = 4096


def targets() -> dict[str, tuple[Callable[[bytes], None], list[bytes]]]:
    """Give each target with its seeds."""
    from tests.fuzz import targets_agent as agent
    from tests.fuzz import targets_image as image
    from tests.fuzz import targets_rpc as rpc

    seeds = rpc.seeds_rpc() | agent.seeds_agent() | image.seeds_image()
    functions: dict[str, Callable[[bytes], None]] = {
        "wire": rpc.wire,
        "channel": rpc.channel,
        "link": rpc.link,
        "errors": rpc.errors,
        "control": agent.control,
        "hello": agent.hello,
        "stage0": agent.stage_zero,
        "head": image.head,
        "listing": image.listing,
        "frame": image.frame,
    }
    names = list(functions)
    by_byte = [bytes([number]) + seed for number, name in enumerate(names) for seed in seeds[name]]

    def together(data: bytes) -> None:
        """Have the first byte choose."""
        functions[names[data[0] % len(names)] if data else names[0]](data[1:])

    return {name: (function, seeds[name]) for name, function in functions.items()} | {"all": (together, by_byte)}


def mutate(target: Callable[[bytes], None], seeds: list[bytes], seconds: float, seed: int) -> int:
    """Give a target its seeds, and then mutations of them; return how many inputs it took.

    Raises: what the target raises, with the input as a note.
    """
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    count = 0
    while count < len(seeds) or time.monotonic() < end:
        data = bytearray(seeds[count % len(seeds)])
        if count >= len(seeds):
            for _ in range(chance.randrange(1, 20)):
                at = chance.randrange(len(data) + 1)
                how = chance.randrange(3)
                data[at : at + (how > 0)] = chance.randbytes(1 if how < 2 else chance.randrange(20))
        try:
            target(bytes(data[:_MOST]))
        except BaseException as exc:
            exc.add_note(f"the input was {bytes(data[:_MOST])!r}")
            raise
        count += 1
    return count


def main() -> None:
    name, *options = sys.argv[1:]
    given = next((option for option in options if option.startswith("--folder=")), "")
    folder = Path(given.partition("=")[2] or tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    options = [option for option in options if option != given]
    if "--without" in options:
        seconds = next((float(o.partition("=")[2]) for o in options if o.startswith("-max_total_time=")), 60.0)
        target, seeds = targets()[name]
        print(f"{name}: {mutate(target, seeds, seconds, time.time_ns())} inputs")
        return
    import atheris

    # Only what is looked at counts as a new way through the code; it has to be imported in here for that.
    with atheris.instrument_imports(include=["bigmachine", "tests.fuzz"], enable_loader_override=False):
        target, seeds = targets()[name]
    print(f"what is found comes to {folder}", file=sys.stderr)
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    own = [f"-artifact_prefix={folder}/", f"-max_len={_MOST}", "-timeout=20", "-rss_limit_mb=1024", "-close_fd_mask=0"]
    places = [] if any(not option.startswith("-") for option in options) else [str(corpus)]
    atheris.Setup([sys.argv[0], *own, *options, *places], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
