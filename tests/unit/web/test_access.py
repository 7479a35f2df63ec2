"""Who may see the pages, and who is kept out."""

from __future__ import annotations

import pytest

from bigmachine.web.access import Access, Refused, cookies, name_of

TOKEN = "right-token"
HERE = {"host": "127.0.0.1:3333"}


def refusal(access: Access, headers: dict[str, str], given: str = "", method: str = "GET") -> int:
    with pytest.raises(Refused) as caught:
        access.check(method, headers, given)
    return caught.value.status


def served(hosts: tuple[str, ...] = ()) -> Access:
    return Access.to(TOKEN, hosts, "c")


def test_the_right_token_in_the_url_sets_a_cookie() -> None:
    assert served().check("GET", HERE, TOKEN)


@pytest.mark.parametrize(
    "headers",
    [{"authorization": f"Bearer {TOKEN}"}, {"authorization": f"bearer  {TOKEN}"}, {"cookie": f"a=b; c={TOKEN}"}],
)
def test_a_bearer_token_or_the_cookie_is_enough(headers: dict[str, str]) -> None:
    assert not served().check("GET", {**HERE, **headers}, "")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": TOKEN},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"cookie": "c=wrong"},
        {"cookie": f"other={TOKEN}"},
        {"cookie": "c="},
        {"cookie": "c=\N{SNOWMAN}"},
    ],
)
def test_without_the_token_nothing_is_shown(headers: dict[str, str]) -> None:
    assert refusal(served(), {**HERE, **headers}) == 403


def test_a_wrong_token_in_the_url_is_refused_even_with_a_good_cookie() -> None:
    assert refusal(served(), {**HERE, "cookie": f"c={TOKEN}"}, "wrong") == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:80", "[::1]:3333", "LOCALHOST:1", "10.1.2.3:9", "localhost."])
def test_addresses_and_localhost_are_hosts(host: str) -> None:
    assert served().check("GET", {"host": host}, TOKEN)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:3333", "localhost.evil.example", "", "[evil]:1"]
)
def test_a_name_that_could_be_bound_anew_is_refused(host: str) -> None:
    assert refusal(served(), {"host": host}, TOKEN) == 421


def test_names_that_were_given_are_hosts() -> None:
    assert served(("Debug.Example.",)).check("GET", {"host": "debug.example:8000"}, TOKEN)
    assert served(("*",)).check("GET", {"host": "any.example"}, TOKEN)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:4444", "http://localhost:3333"])
def test_another_origin_is_refused(origin: str) -> None:
    assert refusal(served(), {**HERE, "origin": origin}, TOKEN) == 403


def test_the_own_origin_is_not_refused() -> None:
    assert served().check("GET", {**HERE, "origin": "http://127.0.0.1:3333"}, TOKEN)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_page_of_another_site_fetches_is_refused(site: str) -> None:
    given = {**HERE, "sec-fetch-site": site}
    assert refusal(served(), {**given, "sec-fetch-mode": "no-cors"}, TOKEN) == 403
    assert refusal(served(), {**given, "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, TOKEN) == 403
    assert served().check("GET", {**given, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, TOKEN)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_pages_are_only_read(method: str) -> None:
    assert refusal(served(), HERE, TOKEN, method) == 405


def test_without_a_token_host_and_origin_are_checked_all_the_same() -> None:
    mounted = Access.to("", ())
    assert not mounted.check("GET", HERE, "")
    assert refusal(mounted, {"host": "evil.example"}) == 421
    assert refusal(mounted, {**HERE, "origin": "http://evil.example"}) == 403


def test_names_and_cookies_are_read_as_they_are_written() -> None:
    assert [name_of(host) for host in ("A.b:1", "[::1]:2", "[::1]", "x")] == ["a.b", "::1", "::1", "x"]
    assert cookies("a=1;b=2; a=3", "a") == ["1", "3"]
