"""Which host gets an image from whom, and how hosts that start together find each other."""

import asyncio

import pytest

from bigmachine.agent import Onward
from bigmachine.session.broadcast import LINE, Gathering, Peer, arrange


def peers(n: int) -> list[Peer]:
    return [Peer("h", 1000 + at, f"h{at}", "python") for at in range(n)]


def depth(tree: Onward) -> int:
    return 1 + max((depth(each) for each in tree.onward), default=0)


def widest(tree: Onward) -> int:
    return max([len(tree.onward), *map(widest, tree.onward)])


@pytest.mark.parametrize("n", [1, 2, 8, 9, 10, 50, 200, 1000])
def test_every_host_is_reached_once_and_none_serves_more_than_two(n: int) -> None:
    tree = arrange(peers(n))
    assert sorted(tree.all_ids()) == sorted(peer.agent_id for peer in peers(n))
    assert widest(tree) <= 2
    assert depth(tree) <= LINE + 8  # a line, and the tree's ten levels for a thousand


def test_nobody_is_no_tree() -> None:
    with pytest.raises(ValueError, match="at least one"):
        arrange([])


def test_hosts_that_lack_the_same_are_served_by_the_first() -> None:
    async def scene() -> None:
        gathering = Gathering(4)
        one, two, three, four = peers(4)
        waiting = [asyncio.create_task(gathering.join(each, "a")) for each in (one, two, three)]
        other = asyncio.create_task(gathering.join(four, "b"))
        joined = await waiting[0]
        assert not isinstance(joined, str)
        others, settle = joined
        assert others == [two, three]
        settle("h1", "")
        settle("h2", "it broke")
        settle("h2", "too late")
        settle("nobody", "")
        assert (await waiting[1], await waiting[2]) == ("", "it broke")
        alone = await other
        assert not isinstance(alone, str)
        assert alone[0] == []

    asyncio.run(asyncio.wait_for(scene(), 5))


def test_nobody_waits_for_hosts_that_lack_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmachine.session.broadcast.GATHER", 60.0)

    async def scene() -> None:
        gathering = Gathering(3)
        task = asyncio.create_task(gathering.join(peers(1)[0], "a"))
        await asyncio.sleep(0)
        gathering.skip()
        gathering.skip()
        assert not isinstance(await task, str)

    asyncio.run(asyncio.wait_for(scene(), 5))


def test_a_host_that_never_says_anything_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmachine.session.broadcast.GATHER", 0.05)

    async def scene() -> None:
        assert not isinstance(await Gathering(2).join(peers(1)[0], "a"), str)

    asyncio.run(asyncio.wait_for(scene(), 5))
