"""What the authority issues, and that its key stays where it is. Read back by `cryptography`, not by our own code."""

from __future__ import annotations

import copy
import datetime as dt
import pickle
import time

import cloudpickle
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from bigmachine.trust import Authority, Role

SESSION = "12ab34cd"


def test_an_identity_carries_the_authoritys_certificate_and_its_own_key() -> None:
    authority = Authority(SESSION)
    first, second = (authority.issue(Role.MACHINE, name) for name in ("m1", "m2"))
    assert first.authority == second.authority == authority.certificate
    key = load_pem_private_key(first.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert key.public_key() == x509.load_pem_x509_certificate(first.certificate).public_key()
    assert first.key != second.key


def test_a_certificate_says_the_id_as_dns_name_and_the_whole_name_as_uri() -> None:
    identity = Authority(SESSION).issue(Role.AGENT, "h1a2b3c")
    names = x509.load_pem_x509_certificate(identity.certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["h1a2b3c"]
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [f"bigmachine://{SESSION}/agent/h1a2b3c"]
    assert len(list(names.value)) == 2


@pytest.mark.parametrize(
    ("role", "serves"),
    [(Role.DRIVER, False), (Role.CLIENT, False), (Role.AGENT, True), (Role.MACHINE, True), (Role.BOOTSTRAP, True)],
)
def test_only_agents_and_machines_are_certified_as_servers(role: Role, serves: bool) -> None:
    certificate = x509.load_pem_x509_certificate(Authority(SESSION).issue(role, "x1").certificate)
    purposes = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    expected = {ExtendedKeyUsageOID.CLIENT_AUTH} | ({ExtendedKeyUsageOID.SERVER_AUTH} if serves else set())
    assert purposes == expected


def test_a_leaf_lasts_thirty_days_or_as_told_from_a_minute_ago() -> None:
    authority = Authority(SESSION, clock=lambda: 1_800_000_000.0)
    now = dt.datetime.fromtimestamp(1_800_000_000, dt.UTC)
    default = x509.load_pem_x509_certificate(authority.issue(Role.MACHINE, "m1").certificate)
    short = x509.load_pem_x509_certificate(authority.issue(Role.CLIENT, "c1", valid_s=90).certificate)
    assert default.not_valid_before_utc == short.not_valid_before_utc == now - dt.timedelta(minutes=1)
    assert default.not_valid_after_utc == now + dt.timedelta(days=30)
    assert short.not_valid_after_utc == now + dt.timedelta(seconds=90)


def test_a_leaf_issued_late_in_a_long_session_lasts_as_long_as_an_early_one() -> None:
    now = [time.time()]
    authority = Authority(SESSION, clock=lambda: now[0])
    now[0] += 1000 * 86_400
    leaf = x509.load_pem_x509_certificate(authority.issue(Role.MACHINE, "m1").certificate)
    root = x509.load_pem_x509_certificate(authority.certificate)
    assert leaf.not_valid_after_utc.timestamp() == pytest.approx(now[0] + 30 * 86_400, abs=1)
    assert leaf.not_valid_after_utc < root.not_valid_after_utc
    leaf.verify_directly_issued_by(root)


@pytest.mark.parametrize("valid_s", [0, -1.0, float("nan"), float("inf"), 1e12])
def test_a_lifetime_without_sense_is_refused(valid_s: float) -> None:
    with pytest.raises(ValueError, match="valid_s="):
        Authority(SESSION).issue(Role.MACHINE, "m1", valid_s)


def test_a_name_that_no_certificate_could_carry_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be the session"):
        Authority("My session")
    with pytest.raises(ValueError, match="cannot be the id"):
        Authority(SESSION).issue(Role.MACHINE, "m1.example.org")


def test_the_longest_session_name_can_have_an_authority() -> None:
    Authority("s" * 63).issue(Role.MACHINE, "m" * 63)


def test_the_authority_does_not_travel() -> None:
    authority = Authority(SESSION)
    for attempt in (pickle.dumps, cloudpickle.dumps, copy.copy, copy.deepcopy, lambda it: pickle.dumps({"a": [it]})):
        with pytest.raises(TypeError, match="stays in its driver"):
            attempt(authority)


def test_the_authority_shows_no_key() -> None:
    authority = Authority(SESSION)
    assert repr(authority) == "Authority(session='12ab34cd')"
    assert b"PRIVATE" not in authority.certificate
