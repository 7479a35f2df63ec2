"""Which hosts get an image together and from whom, and how hosts that start together find each other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from bigmachine.agent import Onward
from bigmachine.image.manifest import File, Layer
from bigmachine.image.plan import Wanted
from bigmachine.session.broadcast import LINE, Gathering, Lead, Peer, arrange, lacked, together

MEGABYTE = 1 << 20


def layer(name: str, size: int, *contents: str) -> Layer:
    """A layer of so many megabytes; `contents` make it a tree with files that have them, in equal parts."""
    if not contents:
        return Layer(name, "dist", name, files=[File("site/file", "0" * 64, size * MEGABYTE)])
    files = [File(f"file-{content}", content, size * MEGABYTE // len(contents)) for content in contents]
    return Layer(name, "tree", name, files=files)


LAYERS = [layer("a", 100), layer("b", 100), layer("c", 100), layer("tiny", 1), layer("t", 40, "s1", "s2", "s3", "s4")]


def peers(n: int) -> list[Peer]:
    return [Peer("h", 1000 + at, f"h{at}", "python") for at in range(n)]


def lacking(name: str, layers: str, *, here: Iterable[str] = (), arrived: Iterable[tuple[str, str]] = ()) -> Peer:
    wanted = Wanted(False, "root", tuple(layers.split()), frozenset(here), (), frozenset(arrived))
    return Peer("h", 1000, name, "python", wanted)


def depth(tree: Onward) -> int:
    return 1 + max((depth(each) for each in tree.onward), default=0)


def widest(tree: Onward) -> int:
    return max([len(tree.onward), *map(widest, tree.onward)])


def ids(groups: Iterable[Iterable[Peer]]) -> list[str]:
    return [" ".join(peer.agent_id for peer in group) for group in groups]


@pytest.mark.parametrize("n", [1, 2, 8, 9, 10, 50, 200, 1000])
def test_every_host_is_reached_once_and_none_serves_more_than_two(n: int) -> None:
    tree = arrange(peers(n))
    assert sorted(tree.all_ids()) == sorted(peer.agent_id for peer in peers(n))
    assert widest(tree) <= 2
    assert depth(tree) <= LINE + 8  # a line, and the tree's ten levels for a thousand


def test_nobody_is_no_tree() -> None:
    with pytest.raises(ValueError, match="at least one"):
        arrange([])


# hosts that lack different parts


@pytest.mark.parametrize(
    ("hosts", "groups"),
    [
        ({"x": "a b", "y": "a b"}, ["x y"]),
        ({"x": "a", "y": "a b c", "z": "b"}, ["y x z"]),  # who lacks the most comes first
        ({"x": "a b", "y": "b c", "z": "a c"}, ["x y z"]),
        ({"x": "a", "y": "b"}, ["x", "y"]),  # nothing in common
        ({"x": "a tiny", "y": "b tiny"}, ["x", "y"]),  # next to nothing
        ({"x": "a b c tiny t", "y": "t"}, ["x", "y"]),  # it would wait for eight times as much
        ({"x": "a b c tiny t", "y": "t a"}, ["x y"]),
    ],
)
def test_hosts_that_lack_much_of_the_same_get_it_together(hosts: dict[str, str], groups: list[str]) -> None:
    assert ids(together([lacking(name, layers) for name, layers in hosts.items()], LAYERS)) == groups


def test_what_is_sent_is_what_any_of_them_lacks_and_no_more() -> None:
    one = lacking("x", "a t", here=["s1", "s2"], arrived=[("a", "site/1"), ("a", "site/2")])
    two = lacking("y", "b a t", here=["s2", "s3"], arrived=[("a", "site/2"), ("b", "site/3")])
    sent = lacked([one, two], LAYERS)
    assert sent.layers == ("a", "b", "t")  # in the image's order
    assert sent.here == {"s2"}
    assert sent.arrived == {("a", "site/2"), ("b", "site/3")}


def test_a_content_that_only_hosts_have_which_lack_nothing_of_its_tree_is_sent() -> None:
    one, two = lacking("x", "a"), lacking("y", "a t", here=["s1"])
    assert lacked([one, two], LAYERS).here == {"s1"}
    assert lacked([one, two, lacking("z", "t")], LAYERS).here == set()


def reach(tree: Onward, sent: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Give the layers that come to each host of a tree."""
    come = sent - set(tree.skipped)
    yield tree.agent_id, come
    for each in tree.onward:
        yield from reach(each, come)


@pytest.mark.parametrize("n", [2, 8, 30])
def test_each_host_gets_what_it_lacks_and_only_what_it_or_one_behind_it_lacks(n: int) -> None:
    lacks = [" ".join("abc"[at] for at in range(3) if (number >> at) % 2 or number % 8 == 0) for number in range(n)]
    hosts = [lacking(f"h{number}", layers) for number, layers in enumerate(lacks)]
    tree = arrange(hosts, "abc")
    reached = dict(reach(tree, frozenset("abc")))
    for host in hosts:
        assert reached[host.agent_id] >= set(host.wanted.layers)
    behind = {}

    def note(each: Onward) -> None:
        behind[each.agent_id] = {
            ident for host in hosts if host.agent_id in each.all_ids() for ident in host.wanted.layers
        }
        for child in each.onward:
            note(child)

    note(tree)
    assert reached == behind


# finding each other


def test_hosts_that_lack_the_same_are_served_by_one_of_them() -> None:
    async def scene() -> None:
        gathering = Gathering(4)
        one, two, three, four = (replace(peer, wanted=lacking("", "a").wanted) for peer in peers(4))
        waiting = [asyncio.create_task(gathering.join(each, "a", LAYERS)) for each in (one, two, three)]
        other = asyncio.create_task(gathering.join(four, "b", LAYERS))
        lead = await waiting[0]
        assert isinstance(lead, Lead)
        assert lead.others == ("h1", "h2")
        assert list(lead.onward[0].all_ids()) == ["h1", "h2"]
        lead.settle("h1", "")
        lead.settle("h2", "it broke")
        lead.settle("h2", "too late")
        lead.settle("nobody", "")
        assert (await waiting[1], await waiting[2]) == ("", "it broke")
        alone = await other
        assert isinstance(alone, Lead)
        assert (alone.onward, alone.others) == ((), ())

    asyncio.run(asyncio.wait_for(scene(), 5))


def test_the_host_that_lacks_the_most_leads_whoever_came_first() -> None:
    async def scene() -> None:
        gathering = Gathering(3)
        part, whole, other = lacking("part", "b"), lacking("whole", "a b"), lacking("other", "c")
        tasks = [asyncio.create_task(gathering.join(each, "image", LAYERS)) for each in (part, whole, other)]
        lead, alone = await tasks[1], await tasks[2]
        assert isinstance(lead, Lead)
        assert isinstance(alone, Lead)
        assert lead.wanted.layers == ("a", "b")
        (onward,) = lead.onward
        assert (onward.agent_id, onward.skipped) == ("part", ("a",))
        assert (alone.wanted.layers, alone.onward) == (("c",), ())
        lead.settle("part", "")
        assert await tasks[0] == ""

    asyncio.run(asyncio.wait_for(scene(), 5))


def test_nobody_waits_for_hosts_that_lack_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmachine.session.broadcast.GATHER", 60.0)

    async def scene() -> None:
        gathering = Gathering(3)
        task = asyncio.create_task(gathering.join(peers(1)[0], "a", LAYERS))
        await asyncio.sleep(0)
        gathering.skip()
        gathering.skip()
        assert isinstance(await task, Lead)

    asyncio.run(asyncio.wait_for(scene(), 5))


def test_a_host_that_never_says_anything_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmachine.session.broadcast.GATHER", 0.05)

    async def scene() -> None:
        assert isinstance(await Gathering(2).join(peers(1)[0], "a", LAYERS), Lead)

    asyncio.run(asyncio.wait_for(scene(), 5))
