"""Packs by way of a depot: what is fetched is what was put there, and nothing else is believed."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator

import pytest

from bigmachine.errors import ImageError, NetworkError
from bigmachine.image.depot import WORTHWHILE, fetched, referred
from bigmachine.image.packs import LISTING, PACK, frame, verify

SMALL, LARGE = frame(LISTING, b"small"), frame(PACK, bytes(range(256)) * (WORTHWHILE // 128))
SIGNED = "?X-Amz-Signature=secret"


class Served:
    """A depot in this process, served by HTTP."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.kept: dict[str, bytes] = {}
        self.works = True

    def url(self, sha256: str, content: Callable[[], bytes]) -> str:
        if not self.works:
            return ""
        if sha256 not in self.kept:
            self.kept[sha256] = content()
        return f"http://127.0.0.1:{self.port}/{sha256}{SIGNED}"


@pytest.fixture
def depot() -> Iterator[Served]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = served.kept.get(self.path.removesuffix(SIGNED)[1:])
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Served(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_is_large_goes_by_the_depot_and_comes_as_it_was(depot: Served) -> None:
    told = list(referred([SMALL, LARGE], depot))
    assert told[0] == SMALL
    assert len(told[1]) < 1000
    assert list(depot.kept) == [hashlib.sha256(LARGE).hexdigest()]
    taken = list(fetched(told))
    assert taken == [SMALL, LARGE]
    assert verify(taken[1])[0] == PACK


def test_without_a_depot_that_works_everything_goes_as_it_is(depot: Served) -> None:
    depot.works = False
    assert list(referred([SMALL, LARGE], depot)) == [SMALL, LARGE]
    assert list(fetched([SMALL, LARGE])) == [SMALL, LARGE]


@pytest.mark.parametrize("content", [frame(PACK, bytes(len(LARGE) - len(frame(PACK, b"")))), LARGE[:-1], LARGE + b"x"])
def test_what_somebody_has_changed_there_is_not_believed(depot: Served, content: bytes) -> None:
    told = list(referred([LARGE], depot))
    depot.kept = dict.fromkeys(depot.kept, content)
    with pytest.raises(NetworkError, match="somebody else changed it") as caught:
        list(fetched(told))
    assert caught.value.temporary  # the driver sends it itself


def test_what_is_not_there_is_temporary_and_the_url_stays_secret(depot: Served) -> None:
    told = list(referred([LARGE], depot))
    depot.kept.clear()
    with pytest.raises(NetworkError, match=f"127.0.0.1:{depot.port} does not give a pack: .*404") as caught:
        list(fetched(told))
    assert caught.value.temporary
    assert "secret" not in str(caught.value)


def test_a_reference_to_something_else_is_none() -> None:
    for told in (
        b'{"url": "file:///etc/passwd", "sha256": "", "size": 9}',
        b'{"url": "http://x", "sha256": "", "size": 0}',
    ):
        with pytest.raises(ImageError, match="a reference to a depot is none"):
            list(fetched([frame(b"U", told)]))


def test_a_reference_by_itself_is_no_part_of_an_image() -> None:
    with pytest.raises(ImageError, match="no part of an image"):
        verify(frame(b"U", b"{}"))
