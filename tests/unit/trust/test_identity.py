"""Names and identities, as values."""

from __future__ import annotations

import json
import pickle

import pytest

from bigmachine.trust import Identity, Peer, Role

KEY = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
IDENTITY = Identity("12ab34cd", Role.MACHINE, "h1a2b3c-m3", b"certificate", KEY, b"authority")


def test_a_peer_is_written_as_a_uri_and_read_back() -> None:
    peer = Peer("12ab34cd", Role.MACHINE, "h1a2b3c-m3")
    assert peer.uri == "bigmachine://12ab34cd/machine/h1a2b3c-m3"
    assert Peer.parse_uri(peer.uri) == peer
    assert str(peer) == "machine h1a2b3c-m3 of session 12ab34cd"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "bigmachine://",
        "bigmachine://s/machine",
        "bigmachine://s/machine/m1/",
        "bigmachine://s/machine/m1/more",
        "bigmachine://s/machine/m1?as=driver",
        "bigmachine://s/machine/m%31",
        "bigmachine://s/king/m1",
        "bigmachine://s/MACHINE/m1",
        "bigmachine://s:1/machine/m1",
        "bigmachine://u@s/machine/m1",
        "BIGMACHINE://s/machine/m1",
        "https://s/machine/m1",
        "s/machine/m1",
        " bigmachine://s/machine/m1",
        "bigmachine://s/machine/m1\n",
    ],
)
def test_no_other_uri_names_a_peer(uri: str) -> None:
    with pytest.raises(ValueError, match="does not name a peer"):
        Peer.parse_uri(uri)


@pytest.mark.parametrize("name", ["", "M1", "m_1", "m.1", "-m1", "m1-", "m1\n", "mé", "*", "a" * 64, "m1/driver"])
def test_a_name_that_is_no_lower_case_dns_label_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="lower-case letters, digits and inner hyphens"):
        Peer("12ab34cd", Role.MACHINE, name)
    with pytest.raises(ValueError, match="cannot be the session"):
        Peer(name, Role.MACHINE, "m1")


@pytest.mark.parametrize("name", ["m", "7", "h1a2b3c-m3", "a" * 63])
def test_a_lower_case_dns_label_is_a_name(name: str) -> None:
    assert Peer.parse_uri(Peer(name, Role.CLIENT, name).uri).id == name


def test_only_agents_machines_and_hosts_to_be_are_called() -> None:
    assert [role.value for role in Role if role.serves] == ["agent", "machine", "bootstrap"]


def test_an_identity_survives_pickle_and_json() -> None:
    assert pickle.loads(pickle.dumps(IDENTITY)) == IDENTITY
    assert Identity.from_dict(json.loads(json.dumps(IDENTITY.to_dict()))) == IDENTITY
    assert type(Identity.from_dict(IDENTITY.to_dict()).role) is Role


@pytest.mark.parametrize("shown", [repr(IDENTITY), str(IDENTITY), f"{IDENTITY}", f"{[IDENTITY]}"])
def test_an_identity_never_shows_its_key(shown: str) -> None:
    assert "h1a2b3c-m3" in shown
    assert "c2VjcmV0" not in shown
    assert "PRIVATE" not in shown


@pytest.mark.parametrize("lacking", ["session", "role", "id", "certificate", "key", "authority"])
def test_a_dict_without_a_field_is_no_identity_and_the_error_names_the_field_only(lacking: str) -> None:
    fields = {name: text for name, text in IDENTITY.to_dict().items() if name != lacking}
    with pytest.raises(ValueError, match=f"lacks '{lacking}'") as caught:
        Identity.from_dict(fields)
    assert "c2VjcmV0" not in str(caught.value)


def test_a_dict_with_an_unknown_role_is_no_identity() -> None:
    with pytest.raises(ValueError, match="emperor"):
        Identity.from_dict(IDENTITY.to_dict() | {"role": "emperor"})
