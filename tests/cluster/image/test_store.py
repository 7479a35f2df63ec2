"""Images arrive in a host's store: once, whole, verified; what is wrong with what comes is said, and is not used."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import shutil
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bigmachine.errors import ImageError
from bigmachine.image.manifest import File, Layer, Manifest, layer_id
from bigmachine.image.pack_cache import PackCache, Warming
from bigmachine.image.packs import BYTECODE, FIRST, LISTING, PACK, Edited, close_pack, frame, frames, open_pack, verify
from bigmachine.image.plan import Wanted, encode_head, pack, rows
from bigmachine.image.platforms import this_platform
from bigmachine.image.scan.scanned import Scan
from bigmachine.image.store.collect import collect
from bigmachine.image.store.store import Built, Store
from tests.cluster.image import sent
from tests.cluster.image.installed import Environment, sha256, unprivileged, write

#: So long at most is waited for another process.
TIMEOUT = 60.0
LARGE = 9 << 20


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    """Two packages and a project; one has a file of several packs."""
    env = Environment(tmp_path)
    env.install("small", {f"small/module_{number}.py": f"x = {number}\n" * 50 for number in range(20)})
    env.install("large", {"large/__init__.py": "x = 7\n", "large/table.txt": os.urandom(LARGE // 2).hex()})
    write(tmp_path / "project", {"pyproject.toml": "", "app.py": "x = 1\n", "empty.txt": ""})
    return env


@pytest.fixture
def scan(env: Environment, tmp_path: Path) -> Scan:
    return env.scan(env.site, tmp_path / "project")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Store]:
    with sent.store(tmp_path / "host") as host:
        yield host


def nothing_is_used(host: Store) -> bool:
    """Whether there is neither an image nor anything of one."""
    return not [path for path in (host.root / "images").iterdir() if path.is_dir()]


def of_kind(kind: bytes, sent: list[bytes]) -> list[int]:
    return [at for at, each in enumerate(sent) if verify(each)[0] == kind]


def made(*files: File, name: str = "evil", mount: str = "") -> tuple[bytes, list[bytes]]:
    """Make the head and the listing of an image of one layer of these files."""
    layer = Layer(layer_id(files), "tree" if mount else "dist", name, "1", files, mount=mount)
    listing = frame(LISTING, pack({"layer": layer.id, "files": rows(files)}))
    return encode_head(Manifest(this_platform(), (layer,))), [listing]


def packed(ident: str, parts: list[tuple[int, int, int]], content: bytes) -> bytes:
    return frame(PACK, close_pack({"layer": ident, "parts": parts}, content))


# what is right


def test_an_image_is_brought_once(scan: Scan, host: Store, tmp_path: Path) -> None:
    assert not sent.wanted(scan, host).is_built
    built = sent.send(scan, host, tmp_path / "packs")
    assert built.digest == scan.manifest.digest
    again = sent.wanted(scan, host)
    assert (again.is_built, again.root, again.layers) == (True, built.root, ())
    assert Path(built.root, "lib64").is_symlink()


def test_an_edit_of_one_line_moves_that_file_only(env: Environment, scan: Scan, host: Store, tmp_path: Path) -> None:
    before = sent.send(scan, host, tmp_path / "packs")
    (tmp_path / "project/app.py").write_text("x = 2\n")
    found = env.scan(env.site, tmp_path / "project")
    frames_ = sent.packed(found, host, tmp_path / "packs")
    after = sent.receive(found, host, iter(frames_))
    assert after.taken == len("x = 2\n")
    assert sum(map(len, frames_)) < 1000
    (old,), (new,) = (list(Path(each.root).glob("roots/*/app.py")) for each in (before, after))
    assert (old.read_text(), new.read_text()) == ("x = 1\n", "x = 2\n")


@pytest.mark.parametrize("how", ["written to", "removed", "replaced"])
def test_a_file_that_was_changed_on_the_host_is_named_and_not_run(
    scan: Scan, host: Store, tmp_path: Path, how: str
) -> None:
    built = sent.send(scan, host, tmp_path / "packs")
    (changed,) = Path(built.root).resolve().glob("roots/*/app.py")
    if how == "written to":
        changed.chmod(0o644)
        changed.write_text("x = 3\n")
        changed.chmod(0o444)
    else:
        changed.resolve().parent.chmod(0o755)
        changed.unlink()
        if how == "replaced":
            changed.write_text("x = 1\n")
    with pytest.raises(ImageError, match=f"{re.escape(str(changed.resolve()))} was changed or removed on the host"):
        sent.wanted(scan, host)


def test_a_kept_file_that_was_written_to_is_in_no_other_image(
    env: Environment, scan: Scan, host: Store, tmp_path: Path
) -> None:
    write(tmp_path / "project", {"other.py": "y = 1\n"})
    before = sent.send(env.scan(env.site, tmp_path / "project"), host, tmp_path / "packs")
    (kept,) = Path(before.root).glob("roots/*/other.py")
    kept.chmod(0o644)
    kept.write_text("y = 9\n")
    (tmp_path / "project/app.py").write_text("x = 2\n")
    after = sent.send(env.scan(env.site, tmp_path / "project"), host, tmp_path / "packs")
    (other,) = Path(after.root).glob("roots/*/other.py")
    assert other.read_text() == "y = 1\n"


def test_an_edit_in_a_large_tree_moves_that_file_and_the_list(env: Environment, host: Store, tmp_path: Path) -> None:
    """Its files are named in a second round trip, and only to a host that may have some of them."""
    project = write(tmp_path / "project", {f"data/file{number}.txt": f"{number}\n" * 500 for number in range(300)})
    found = env.scan(env.site, project)
    assert not host.offer(encode_head(found.manifest), sys.executable).unlisted
    sent.send(found, host, tmp_path / "packs")
    (project / "data/file7.txt").write_text("edited\n")
    found = env.scan(env.site, project)
    assert host.offer(encode_head(found.manifest), sys.executable).unlisted
    frames_ = sent.packed(found, host, tmp_path / "packs")
    assert len(of_kind(PACK, frames_)) == 1
    after = sent.receive(found, host, iter(frames_))
    assert after.taken == len("edited\n")
    (new,) = Path(after.root).glob("roots/*/data")
    assert {path.name: path.read_text() for path in new.iterdir()} == {
        path.name: path.read_text() for path in (project / "data").iterdir()
    }


def test_a_package_that_was_added_is_all_that_moves(env: Environment, scan: Scan, host: Store, tmp_path: Path) -> None:
    sent.send(scan, host, tmp_path / "packs")
    env.install("more", {"more.py": "x = 1\n"})
    found = env.scan(env.site, tmp_path / "project")
    assert [layer.name for layer in found.manifest.layers if layer.id in sent.wanted(found, host).layers] == ["more"]
    built = sent.send(found, host, tmp_path / "packs")
    assert built.taken < 1000


def test_a_package_comes_whole_though_the_project_has_the_same_content(
    env: Environment, scan: Scan, host: Store, tmp_path: Path
) -> None:
    """The host keeps contents of trees alone; packages are kept as they are."""
    sent.send(scan, host, tmp_path / "packs")
    env.install("more", {"more.py": (tmp_path / "project/app.py").read_text()})
    (tmp_path / "project/empty.txt").unlink()
    found = env.scan(env.site, tmp_path / "project")
    assert sent.wanted(found, host).here
    built = sent.send(found, host, tmp_path / "packs")
    assert sent.run(built.root, "python", "-c", "import more; print(more.x)") == "1"


def test_frames_may_come_twice_and_in_any_order_after_their_listings(scan: Scan, host: Store, tmp_path: Path) -> None:
    """A host passes them on to others as they come, and after a broken connection they come again."""
    whole = sent.packed(scan, host, tmp_path / "packs")
    listings = [whole[at] for at in of_kind(LISTING, whole)]
    rest = [whole[at] for at in of_kind(PACK, whole)]
    assert len(rest) > 3
    built = sent.receive(scan, host, iter([*listings, *rest[::-1], *rest, *listings]))
    assert sent.run(built.root, "python", "-c", "import large, os; print(large.x)") == "7"
    table = next(Path(built.root).glob("lib/*/site-packages/large/table.txt"))
    assert table.stat().st_size == LARGE // 2 * 2


def test_packs_are_compressed_once(scan: Scan, host: Store, tmp_path: Path) -> None:
    """The second host's come from the cache: the program's files are not even read."""
    first = sent.packed(scan, host, tmp_path / "packs")
    for layer in scan.manifest.layers:
        if layer.name in ("small", "large"):
            for file in layer.files:
                os.unlink(scan.sources.path(layer.id, file.path))
    assert sent.packed(scan, host, tmp_path / "packs") == first


def test_a_damaged_pack_in_the_drivers_cache_is_made_anew(scan: Scan, host: Store, tmp_path: Path) -> None:
    first = sent.packed(scan, host, tmp_path / "packs")
    for path in (tmp_path / "packs").glob("packs/??/*"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert sent.packed(scan, host, tmp_path / "packs") == first
    assert (tmp_path / "packs").stat().st_mode & 0o077 == 0


def test_packs_may_be_made_before_anybody_lacks_them(scan: Scan, host: Store, tmp_path: Path) -> None:
    def kept() -> set[str]:
        return {path.name for path in (tmp_path / "packs").glob("packs/??/*")}

    everything = Wanted(False, "", tuple(layer.id for layer in scan.manifest.layers))
    for _ in range(2):
        assert list(frames(scan, everything, Warming(tmp_path / "packs")))
    made = kept()
    assert made
    built = sent.send(scan, host, tmp_path / "packs")
    assert kept() == made
    assert sent.run(built.root, "python", "-c", "import small.module_3, large; print(large.x)") == "7"


def test_the_packs_that_were_not_used_for_longest_go(tmp_path: Path) -> None:
    cache = PackCache(tmp_path, cap=2500)
    for key, age in (("aa0", 10), ("aa1", 30), ("bb2", 20)):
        cache.put(key, bytes(1000))
        (path,) = (tmp_path / "packs").glob(f"*/{key}")
        os.utime(path, (time.time() - age,) * 2)
    cache.tidy()
    assert [cache.get(key) is not None for key in ("aa0", "aa1", "bb2")] == [True, False, True]


def test_what_the_program_has_loaded_comes_first_in_a_large_image(tmp_path: Path, host: Store) -> None:
    env = Environment(tmp_path)
    env.install("big", {"big/a.txt": "a" * (60 << 20), "big/z.txt": "z" * (60 << 20), "big/used.py": "x = 1\n"})
    found = env.scan()
    (layer,) = (layer for layer in found.manifest.layers if layer.name == "big")
    found.first = frozenset({(layer.id, "site/big/used.py")})  # in place of what this process has loaded
    whole = list(frames(found, sent.wanted(found, host), PackCache(tmp_path / "packs")))
    (mark,) = of_kind(FIRST, whole)
    heads = [open_pack(verify(whole[at])[1])[0] for at in of_kind(PACK, whole) if at < mark]
    assert [layer.files[part[0]].path for head in heads for part in head["parts"]] == ["site/big/used.py"]
    (code,) = of_kind(BYTECODE, whole)
    assert code < mark


def test_byte_code_of_loaded_modules_is_used_without_a_look_at_the_source(
    scan: Scan, host: Store, tmp_path: Path
) -> None:
    (layer,) = (layer for layer in scan.manifest.layers if layer.name == "small")
    scan.first = frozenset({(layer.id, "site/small/module_3.py")})
    built = sent.send(scan, host, tmp_path / "packs")
    code = "import small.module_3 as m; print(m.__spec__.cached)"
    cached = Path(sent.run(built.root, "python", "-c", code))
    assert cached.read_bytes()[4:8] == b"\1\0\0\0"  # PEP 552: by hash, unchecked


# what was edited while it was sent


@pytest.mark.parametrize("name", ["small/module_4.py", "large/table.txt"])
def test_a_file_that_is_edited_while_it_is_sent_is_named(
    scan: Scan, host: Store, env: Environment, tmp_path: Path, name: str
) -> None:
    edited = env.site / name
    edited.write_text(edited.read_text().replace("4", "5"))
    with pytest.raises(Edited) as caught:
        sent.send(scan, host, tmp_path / "packs")
    assert caught.value.paths == (str(edited),)
    again = env.scan(env.site, tmp_path / "project", distrusted=caught.value.paths)
    assert sent.send(again, host, tmp_path / "packs").digest == again.manifest.digest


# what breaks off


def test_what_came_before_the_sender_died_need_not_come_again(scan: Scan, host: Store, tmp_path: Path) -> None:
    whole = sent.packed(scan, host, tmp_path / "packs")
    total = sum(map(len, whole))
    until = of_kind(PACK, whole)[-1]

    def breaks() -> Iterator[bytes]:
        yield from whole[:until]
        raise ConnectionResetError("the sender died")

    with pytest.raises((ImageError, ConnectionResetError)):
        sent.receive(scan, host, breaks())
    assert nothing_is_used(host)
    rest = sent.packed(scan, host, tmp_path / "packs")
    assert sum(map(len, rest)) < total // 2 or len(of_kind(PACK, rest)) < len(of_kind(PACK, whole))
    built = sent.receive(scan, host, iter(rest))
    assert sent.run(built.root, "python", "-c", "import small.module_3, large; print(large.x)") == "7"
    assert not list((host.root / "layers").glob("*.part"))


def test_a_host_that_is_killed_goes_on_where_it_was(scan: Scan, host: Store, tmp_path: Path) -> None:
    """Nothing of what it had begun is in the way, and what was verified is used."""
    whole = sent.packed(scan, host, tmp_path / "packs")
    last = of_kind(PACK, whole)[-1]

    def until_killed() -> Iterator[bytes]:
        yield from whole[:last]
        wait_until(lambda: len(list((tmp_path / "host").rglob("module_*.py"))) == 20)
        os.kill(os.getpid(), signal.SIGKILL)
        yield b""

    child = multiprocessing.get_context("fork").Process(
        target=lambda: sent.receive(scan, Store(tmp_path / "host"), until_killed())
    )
    child.start()
    child.join(TIMEOUT)
    assert child.exitcode == -signal.SIGKILL
    assert nothing_is_used(host)
    told = sent.wanted(scan, host)
    assert {path for _, path in told.arrived} >= {f"site/small/module_{number}.py" for number in range(20)}
    rest = list(frames(scan, told, PackCache(tmp_path / "packs")))
    built = sent.receive(scan, host, iter(rest))
    assert sent.run(built.root, "python", "-c", "import small.module_3, large; print(large.x)") == "7"
    table = next(Path(built.root).glob("lib/*/site-packages/large/table.txt"))
    (source,) = (tmp_path / "env").glob("lib/*/site-packages/large/table.txt")
    assert table.read_bytes() == source.read_bytes()
    assert not [path for path in (host.root / "layers").iterdir() if path.suffix == ".part"]


def test_what_was_changed_between_two_attempts_is_refused_once(scan: Scan, host: Store, tmp_path: Path) -> None:
    whole = sent.packed(scan, host, tmp_path / "packs")

    def breaks() -> Iterator[bytes]:
        yield from whole[: of_kind(PACK, whole)[-1]]
        raise ConnectionResetError("the sender died")

    with pytest.raises((ImageError, ConnectionResetError)):
        sent.receive(scan, host, breaks())
    (module,) = (host.root / "layers").glob("*.part/site/small/module_3.py")
    module.chmod(0o644)
    module.write_bytes(bytes(reversed(module.read_bytes())))
    with pytest.raises(ImageError, match=r"unpack: site/small/module_3\.py of small was changed since it came"):
        sent.receive(scan, host, iter(sent.packed(scan, host, tmp_path / "packs")))
    assert nothing_is_used(host)
    built = sent.send(scan, host, tmp_path / "packs")
    assert sent.run(built.root, "python", "-c", "import small.module_3, large; print(large.x)") == "7"


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stream_that_ends_too_early_is_no_image(scan: Scan, host: Store, tmp_path: Path) -> None:
    whole = sent.packed(scan, host, tmp_path / "packs")
    with pytest.raises(ImageError, match=r"unpack: .* has not come: start again"):
        sent.receive(scan, host, iter(whole[: of_kind(PACK, whole)[-1]]))
    assert nothing_is_used(host)
    with pytest.raises(ImageError, match="unpack: nothing came of"):
        sent.receive(scan, host, iter([]))
    assert sent.send(scan, host, tmp_path / "packs").digest == scan.manifest.digest


# what is damaged, or meant to do damage


def test_a_frame_that_was_damaged_is_refused(scan: Scan, host: Store, tmp_path: Path) -> None:
    whole = sent.packed(scan, host, tmp_path / "packs")
    at = of_kind(PACK, whole)[0]
    damaged = bytearray(whole[at])
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(ImageError, match=r"transfer: a frame of .* was damaged"):
        sent.receive(scan, host, iter([*whole[:at], bytes(damaged), *whole[at + 1 :]]))
    assert nothing_is_used(host)
    for other in (b"", b"BMF1", b"GET / HTTP/1.1\r\n" * 9):
        with pytest.raises(ImageError, match="transfer: "):
            sent.receive(scan, host, iter([other]))
    assert sent.send(scan, host, tmp_path / "packs").digest == scan.manifest.digest


def test_a_pack_that_is_not_compressed_is_refused(scan: Scan, host: Store) -> None:
    with pytest.raises(ImageError, match="unpack: a pack cannot be read"):
        sent.receive(scan, host, iter([frame(PACK, b"not compressed")]))


def test_a_file_with_another_hash_than_its_listing_says_is_refused(host: Store) -> None:
    head, listing = made(File("site/pkg/a.py", sha256("right"), 5))
    ident = layer_id([File("site/pkg/a.py", sha256("right"), 5)])
    with pytest.raises(ImageError, match=r"unpack: site/pkg/a.py of evil is not what its listing says"):
        host.receive(head, sys.executable, iter([*listing, packed(ident, [(0, 0, 5)], b"wrong")]))
    assert nothing_is_used(host)
    built = host.receive(head, sys.executable, iter([*listing, packed(ident, [(0, 0, 5)], b"right")]))
    assert next(Path(built.root).glob("lib/*/site-packages/pkg/a.py")).read_text() == "right"


def test_a_file_larger_than_its_listing_says_is_refused(host: Store) -> None:
    head, listing = made(File("site/a.py", sha256("right"), 5))
    ident = layer_id([File("site/a.py", sha256("right"), 5)])
    for parts, content in (([(0, 3, 5)], b"right"), ([(1, 0, 5)], b"right"), ([(0, 0, 5)], b"right and more")):
        with pytest.raises(ImageError, match="unpack: "):
            host.receive(head, sys.executable, iter([*listing, packed(ident, parts, content)]))
    assert nothing_is_used(host)


def test_a_pack_that_unpacks_to_gigabytes_is_refused_unread(host: Store) -> None:
    import zstandard

    head, listing = made(File("site/a", sha256(""), 1 << 30))
    bomb = zstandard.compress(bytes(100 << 20))
    assert len(bomb) < 20_000
    with pytest.raises(ImageError, match=r"unpacks to 104,857,600 bytes, and .* are allowed"):
        host.receive(head, sys.executable, iter([*listing, frame(PACK, bomb)]))
    endless = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100 << 20))
    with pytest.raises(ImageError, match="unpack: a pack cannot be read"):
        host.receive(head, sys.executable, iter([*listing, frame(PACK, endless)]))


def test_a_frame_that_lies_about_its_size_is_refused(host: Store) -> None:
    """It says a few bytes, and would unpack to many megabytes."""
    import zstandard

    head, listing = made(File("site/a", sha256(""), 1 << 30))
    content = bytes(200 << 20)
    bomb = bytearray(zstandard.compress(content))
    assert zstandard.frame_content_size(bytes(bomb)) == len(content)
    size = struct.pack("<I", len(content))
    assert bomb.count(size) == 1
    bomb[bomb.index(size) : bomb.index(size) + 4] = struct.pack("<I", 1000)
    assert zstandard.frame_content_size(bytes(bomb)) == 1000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="unpack: a pack cannot be read"):
        host.receive(head, sys.executable, iter([*listing, frame(PACK, bytes(bomb))]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


@pytest.mark.parametrize("path", ["../out", "site/../../out", "/etc/out", "site//out", "site/./out", "", "site/a\0b"])
def test_a_path_that_leads_out_of_its_layer_is_refused(host: Store, path: str) -> None:
    head, listing = made(File(path, sha256("x"), 1))
    before = sent.below(host.root.parent.parent)
    with pytest.raises(ImageError, match=r"listing: the path .* does not lie inside its layer"):
        host.receive(head, sys.executable, iter(listing))
    created = sent.below(host.root.parent.parent) - before
    assert all(each.startswith("host/v1/images/") and each.endswith((".lock", ".wants")) for each in created)


@pytest.mark.parametrize("target", ["../../../out", "/etc/passwd", "x/../../../../out", "x/../y", "../../data/x"])
def test_a_link_that_leads_out_of_its_layer_is_refused(host: Store, target: str) -> None:
    head, listing = made(File("site/pkg/link", "", 0, link=target))
    with pytest.raises(ImageError, match="listing: the link 'site/pkg/link' leads out of its layer"):
        host.receive(head, sys.executable, iter(listing))
    assert nothing_is_used(host)


def test_nothing_is_written_through_a_link(host: Store, tmp_path: Path) -> None:
    link, below = File("site/pkg", "", 0, link="other"), File("site/pkg/a.py", sha256("x"), 1)
    for files in ((link, below), (below, below)):
        head, listing = made(*files)
        with pytest.raises(ImageError, match="is there twice, or is a file and a folder"):
            host.receive(head, sys.executable, iter(listing))


def test_names_that_are_none_are_refused_in_the_offer(host: Store) -> None:
    head, _ = made(File("a.py", sha256("x"), 1), mount="../../out")
    with pytest.raises(ImageError, match=r"the path '../../out' does not lie inside"):
        host.offer(head, sys.executable)
    for layer in (Layer("../" * 21 + "x", "dist", "evil"), Layer("a" * 63, "dist", "evil")):
        with pytest.raises(ImageError, match=r"offer: .* is no layer's name"):
            host.offer(encode_head(Manifest(this_platform(), (layer,))), sys.executable)
    with pytest.raises(ImageError, match="no version of Python"):
        host.offer(encode_head(Manifest(replace(this_platform(), python="../3.11"), ())), sys.executable)
    for data in (b"", b"nothing", pack([]), pack({"manifest": {"v": 2}, "trees": {}})):
        with pytest.raises(ImageError, match="offer: this is no image's head"):
            host.offer(data, sys.executable)


def test_a_listing_of_other_files_than_the_layers_is_refused(scan: Scan, host: Store) -> None:
    layer = scan.manifest.layers[0]
    listing = frame(LISTING, pack({"layer": layer.id, "files": rows([File("site/a.py", sha256("x"), 1)])}))
    with pytest.raises(ImageError, match="are not those that its name is made of"):
        sent.receive(scan, host, iter([listing]))


def test_byte_code_of_something_else_is_refused(host: Store) -> None:
    file = File("site/pkg/a.py", sha256("right"), 5)
    head, listing = made(file)
    for name in ("site/pkg/__pycache__/b.cpython-311.pyc", "../__pycache__/a.pyc", "site/pkg/a.py"):
        body = close_pack({"layer": layer_id([file]), "modules": [(name, 4)]}, b"code")
        with pytest.raises(ImageError):
            host.receive(head, sys.executable, iter([*listing, frame(BYTECODE, body)]))
    assert nothing_is_used(host)


# where it cannot be kept


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ImageError, match=r"store: others may write to .*: chmod 700 it, or choose another"):
        Store(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a directory to somebody else")
def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(ImageError, match=r"store: .* belongs to another user"):
        Store(tmp_path)


def test_a_directory_that_cannot_be_written_is_refused() -> None:
    with unprivileged() as folder:
        (folder / "closed").mkdir(mode=0o500)
        with pytest.raises(ImageError, match=r"store: .* cannot be written .*: choose another directory"):
            Store(folder / "closed")


# several at once


def _send(scan: Scan, root: Path, cache: Path, start: threading.Barrier) -> Built:
    with sent.store(root) as host:
        whole = sent.packed(scan, host, cache)
        start.wait(TIMEOUT)  # both know now that everything is lacking
        return sent.receive(scan, host, iter(whole))


def test_two_that_bring_the_same_at_the_same_time_get_one_image(scan: Scan, tmp_path: Path) -> None:
    start, built = threading.Barrier(2), list[Built]()
    threads = [
        threading.Thread(
            target=lambda: built.append(_send(scan, tmp_path / "host", tmp_path / "packs", start)), daemon=True
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert [each.digest for each in built] == [scan.manifest.digest] * 2
    assert sent.run(built[0].root, "python", "-c", "import large; print(large.x)") == "7"
    assert not list((tmp_path / "host/v1").rglob("*.part"))


def test_processes_that_bring_the_same_at_the_same_time_get_one_image(scan: Scan, host: Store, tmp_path: Path) -> None:
    """Two drivers with an agent each; neither knows of the other."""
    whole = sent.packed(scan, host, tmp_path / "packs")
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)

    def bring() -> None:
        with sent.store(tmp_path / "host") as own:
            start.wait(TIMEOUT)
            sent.receive(scan, own, iter(whole))

    children = [context.Process(target=bring) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(TIMEOUT)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert sent.run(sent.wanted(scan, host).root, "python", "-c", "import large; print(large.x)") == "7"
    assert not list((tmp_path / "host/v1").rglob("*.part"))
    (image,) = (path for path in (host.root / "images").iterdir() if path.is_dir())
    assert image.name.startswith(scan.manifest.digest)


def test_what_another_process_is_taking_in_is_waited_for(scan: Scan, host: Store, tmp_path: Path) -> None:
    whole = sent.packed(scan, host, tmp_path / "packs")
    go_on = multiprocessing.Event()
    begun = multiprocessing.Event()

    def slowly() -> Iterator[bytes]:
        last = of_kind(PACK, whole)[-1]
        yield from whole[:last]
        begun.set()
        go_on.wait(TIMEOUT)
        yield from whole[last:]

    child = multiprocessing.get_context("fork").Process(
        target=lambda: sent.receive(scan, Store(tmp_path / "host"), slowly())
    )
    child.start()
    try:
        assert begun.wait(TIMEOUT)
        threading.Timer(0.3, go_on.set).start()
        lacking = sent.wanted(scan, host).layers
        assert go_on.is_set()
        assert lacking == ()
    finally:
        go_on.set()
        child.join(TIMEOUT)
    assert child.exitcode == 0


# what is collected


def test_images_nobody_is_in_go_first(env: Environment, scan: Scan, tmp_path: Path) -> None:
    with sent.store(tmp_path / "host") as old:
        first = sent.send(scan, old, tmp_path / "packs")
    shutil.rmtree(env.site / "large")
    shutil.rmtree(env.site / "large-1.0.dist-info")
    found = env.scan(env.site, tmp_path / "project")
    with sent.store(tmp_path / "host") as host:
        second = sent.send(found, host, tmp_path / "packs")
        collect(host.root, LARGE // 2, time.time())
        assert not Path(first.root).exists()
        assert Path(second.root).exists()
        (large,) = (layer for layer in scan.manifest.layers if layer.name == "large")
        assert not (host.root / "layers" / large.id).exists()
        assert sent.run(second.root, "python", "-c", "import small.module_3; print(small.module_3.x)") == "3"
        collect(host.root, 0, time.time())
        assert Path(second.root).exists()


def test_layers_of_an_image_that_is_being_built_stay(env: Environment, scan: Scan, tmp_path: Path) -> None:
    with sent.store(tmp_path / "host") as old:
        sent.send(scan, old, tmp_path / "packs")
    env.install("more", {"more.py": "x = 1\n"})
    found = env.scan(env.site, tmp_path / "project")
    with sent.store(tmp_path / "host") as host:
        whole = sent.packed(found, host, tmp_path / "packs")
        collect(host.root, 0, time.time())  # another process makes room, and the first image goes
        built = sent.receive(found, host, iter(whole))
        assert sent.run(built.root, "python", "-c", "import large; print(large.x)") == "7"


def test_what_was_left_half_done_goes_after_an_hour(host: Store) -> None:
    parts = [host.root / "layers" / f"{'a' * 64}.999999999-x.part", host.root / "images" / "b-c.999999999-x.part"]
    for part in parts:
        (part / "inside").mkdir(parents=True)
    collect(host.root, None, time.time() + 3000)
    assert all(part.exists() for part in parts)
    collect(host.root, None, time.time() + 4000)
    assert not any(part.exists() for part in parts)
