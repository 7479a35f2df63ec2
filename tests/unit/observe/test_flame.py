"""Profiles as pictures: speedscope's file, and a flame graph that is well-formed and drawn to scale."""

import json
import xml.etree.ElementTree as ET

from bigmachine.observe.flame import speedscope, svg
from bigmachine.observe.profile import from_folded, merge

SVG = "{http://www.w3.org/2000/svg}"
ONE = from_folded("<main> (a.py:1);hot (a.py:2) 30\n<main> (a.py:1);cold<&> (a.py:9) 10\n", hertz=100)


def test_speedscope_has_all_and_each_machine() -> None:
    both = merge([ONE.labelled(machine="m1"), ONE.labelled(machine="m2")])
    told = json.loads(speedscope(both, "cpu"))
    assert [profile["name"] for profile in told["profiles"]] == ["all", "machine m1", "machine m2"]
    assert told["profiles"][0]["endValue"] == 2 * told["profiles"][1]["endValue"] == 800_000_000
    names = [told["shared"]["frames"][at]["name"] for at in told["profiles"][1]["samples"][0]]
    assert names == ["<main>", "hot"]
    assert len(json.loads(speedscope(ONE.labelled(machine="m1"), "cpu"))["profiles"]) == 1


def test_the_graph_is_drawn_to_scale() -> None:
    tree = ET.fromstring(svg(ONE, "cpu <1 s>"))
    widths = {
        box.findtext(f"{SVG}title", "").partition(" (")[0]: float(rect.get("width", ""))
        for box in tree.iter(f"{SVG}g")
        if (rect := box.find(f"{SVG}rect")) is not None
    }
    assert widths["<main>"] > 1190
    assert abs(widths["hot"] / widths["cold<&>"] - 3) < 0.05


def test_comments_stand_above_it_and_within_it() -> None:
    profile = from_folded("<main> (a.py:1);hot (a.py:2) 30\n", hertz=100)
    profile.comments = [f"missing: {', '.join(f'm{n}' for n in range(80))}: <it hangs>", "biased"]
    tree = ET.fromstring(svg(profile, "cpu"))
    texts = [text for text in tree.findall(f"{SVG}text") if text.text]
    assert " ".join(str(text.text) for text in texts) == f"cpu {profile.comments[0]} biased"
    assert all(len(str(text.text)) * 7.2 < float(tree.get("width", "")) for text in texts)
    boxes = [float(rect.get("y", "")) for rect in tree.iter(f"{SVG}rect") if rect.get("y")]
    assert max(float(text.get("y", "")) for text in texts) < min(boxes)


def test_nothing_measured_is_a_picture_too() -> None:
    ET.fromstring(svg(from_folded("", hertz=100), "cpu"))
    assert json.loads(speedscope(from_folded("", hertz=100), "cpu"))["profiles"] == []
