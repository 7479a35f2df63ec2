"""What machines wrote last is kept, and bounded; who follows it hears each line once."""

from __future__ import annotations

import asyncio
import threading

from bigmachine.session.output import Display, Nowhere
from bigmachine.session.output.recent import Piece, Recent
from bigmachine.session.tail import Tail


def test_the_oldest_goes_first() -> None:
    recent = Recent(kept=400)
    for number in range(100):
        recent.add(Piece(number, "m1", "stdout", f"{number:09}\n"))
    assert [piece.at for piece in recent.pieces()] == list(range(60, 100))


def test_of_a_large_piece_the_last_whole_lines_are_kept() -> None:
    recent = Recent(kept=400)
    recent.add(Piece(0, "m1", "stdout", "".join(f"{number:09}\n" for number in range(1000))))
    (piece,) = recent.pieces()
    assert piece.block.startswith("000000991\n")
    assert piece.block.endswith("000000999\n")


def test_a_line_without_end_is_cut() -> None:
    recent = Recent(kept=400)
    recent.add(Piece(0, "m1", "stdout", "x" * 10_000))
    assert len(recent.pieces()[0].block) == 100


def test_empty_lines_are_bounded_too() -> None:
    recent = Recent()
    for _ in range(30_000):
        recent.add(Piece(0, "m1", "stdout", ""))
    assert len(recent.pieces()) <= 10_000


def test_who_joins_while_machines_write_hears_each_line_once() -> None:
    display = Display(Nowhere())
    heard: list[str] = []
    begun = threading.Event()

    def write() -> None:
        for number in range(3000):
            display.wrote("m1", "stdout", f"{number}\n".encode())
            if number == 1000:
                begun.set()

    display._gate.up("m1")
    writer = threading.Thread(target=write)
    writer.start()
    begun.wait(10)
    pieces, leave = display.recall(lambda _name, _stream, block: heard.append(block))
    writer.join(10)
    assert display.wait(10)
    leave()
    display.close(1, 1)
    assert "".join([*(piece.block for piece in pieces), *heard]) == "".join(f"{number}\n" for number in range(3000))


def test_who_does_not_take_lines_loses_the_oldest_and_is_told() -> None:
    async def follow() -> list[dict[str, object]]:
        tail = Tail()
        block = "x" * 999 + "\n"
        for _ in range(2000):
            tail.note("m1", "stdout", block)
        tail.note("m1", "stdout", "last\n")
        return await asyncio.wait_for(tail.next(), 5)

    lines = asyncio.run(follow())
    (dropped, *others) = lines
    assert dropped == {"dropped": 2001 - len(others)}
    assert 1000 < len(others) < 1100
    assert others[-1]["text"] == "last"


def test_the_end_ends_it_after_the_last_line() -> None:
    async def follow() -> list[list[dict[str, object]]]:
        tail = Tail(["m1"], "stderr")
        tail.note("m1", "stderr", "one\ntwo\n")
        tail.note("m1", "stdout", "not this\n")
        tail.note("m2", "stderr", "nor this\n")
        tail.finish()
        return [await asyncio.wait_for(tail.next(), 5) for _ in range(2)]

    first, second = asyncio.run(follow())
    assert [line["text"] for line in first] == ["one", "two"]
    assert second == []
