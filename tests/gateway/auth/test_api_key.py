import base64
import hashlib
import hmac
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.api_key import ApiKey, ApiKeys, key_mac, new_api_key
from gateway.auth.errors import IdentityRejected
from gateway.auth.principal import Account, Presented
from gateway.errors import CredentialExpired, CredentialInvalid

NOW_NS = 1_800_000_000_000_000_000
PEPPER = bytes(range(32))
KIOSK = Account("kiosk-7", "store-7", "interactive", 0, frozenset({"predictor"}))
SECRET = new_api_key(b"s" * 32, "a").partition(".")[2]


def key_of(key_id="a", **changes):
    key = f"{key_id}.{SECRET}"
    return ApiKey(**({"id": key_id, "mac": key_mac(PEPPER, key), "account": KIOSK, "expires_ns": None} | changes))


def basic(user, secret):
    return Presented(authorization="Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode())


KEYS = ApiKeys(PEPPER, [key_of(), key_of("b", revoked=True), key_of("c", expires_ns=NOW_NS)], NOW_NS)


def test_a_new_key_holds_its_random_bytes_and_its_mac_is_plain_hmac():
    key = new_api_key(bytes(16), "kiosk-7-a")
    assert key == "kiosk-7-a." + "A" * 22
    assert key_mac(PEPPER, key) == hmac.new(PEPPER, key.encode(), hashlib.sha256).digest()
    assert new_api_key(secrets.token_bytes(32), "a") != new_api_key(secrets.token_bytes(32), "a")


@pytest.mark.parametrize(
    ("random_bytes", "key_id"),
    [
        (bytes(15), "a"),
        (bytes(16), ""),
        (bytes(16), "a.b"),
        (bytes(16), "x" * 65),
        (bytes(16), "a:b"),
        (bytes(16), "ä"),
    ],
)
def test_a_new_key_refuses_too_little_randomness_and_ids_that_are_none(random_bytes, key_id):
    with pytest.raises(ValueError):
        new_api_key(random_bytes, key_id)


@pytest.mark.parametrize(
    "presented",
    [
        Presented(authorization=f"Bearer a.{SECRET}"),
        Presented(authorization=f"bEaReR a.{SECRET}"),
        Presented(api_key=f"a.{SECRET}"),
        basic("a", SECRET),
    ],
)
def test_a_key_is_known_in_each_of_its_three_places(presented):
    principal = KEYS.authenticate(presented, NOW_NS)
    assert principal is not None
    assert (principal.name, principal.tenant, principal.lane) == ("kiosk-7", "store-7", 0)
    assert (principal.credential, principal.method, principal.expires_ns) == ("a", "api_key", None)


@pytest.mark.parametrize(
    "presented",
    [
        Presented(api_key=f"a.{SECRET[:-1]}"),
        Presented(api_key=f"a.{SECRET}x"),
        Presented(api_key=f"A.{SECRET}"),
        Presented(api_key=f"unknown.{SECRET}"),
        Presented(api_key=f"b.{SECRET}"),  # revoked
        Presented(api_key=f" a.{SECRET}"),
        Presented(api_key=""),
        Presented(api_key="a"),
        Presented(api_key="a."),
        Presented(api_key="."),
        Presented(api_key="-"),  # what unknown ids are compared with
        Presented(api_key="\0"),
        Presented(api_key="a." + "ä" * 40),
        Presented(api_key="a." + "\ud800"),
        Presented(api_key="a." + "x" * 300),
        Presented(authorization=f"Bearer  a.{SECRET}"),
        Presented(authorization="Basic !!!!"),
        Presented(authorization="Basic"),
        Presented(authorization="Basic " + base64.b64encode(b"\xff:\xff").decode()),
        Presented(authorization="Basic " + base64.b64encode(b"no colon").decode()),
        basic("a", SECRET + "x"),
        basic("", ""),
    ],
)
def test_everything_else_of_its_kind_is_invalid(presented):
    if presented.authorization == "Basic":
        assert KEYS.authenticate(presented, NOW_NS) is None  # no scheme we know: the chain refuses it
        return
    with pytest.raises(CredentialInvalid):
        KEYS.authenticate(presented, NOW_NS)


@pytest.mark.parametrize(
    "presented",
    [
        Presented(),
        Presented(authorization="Bearer aaa.bbb.ccc"),
        Presented(authorization="Bearer nodots"),
        Presented(authorization="Digest a.b"),
        Presented(spiffe=("spiffe://example.org/kiosk/7",)),
    ],
)
def test_other_kinds_are_left_to_others(presented):
    assert KEYS.authenticate(presented, NOW_NS) is None


def test_a_key_is_good_until_the_nanosecond_it_expires_and_only_its_holder_is_told():
    good = KEYS.authenticate(Presented(api_key=f"c.{SECRET}"), NOW_NS - 1)
    assert good is not None
    assert good.expires_ns == NOW_NS
    with pytest.raises(CredentialExpired):
        KEYS.authenticate(Presented(api_key=f"c.{SECRET}"), NOW_NS)
    with pytest.raises(CredentialInvalid):
        KEYS.authenticate(Presented(api_key="c.wrong"), NOW_NS)


def test_known_unknown_and_revoked_ids_cost_the_same_mac_and_comparison(monkeypatch):
    compared = []

    def counting(left, right):
        compared.append((len(left), len(right)))
        return left == right

    monkeypatch.setattr("gateway.auth.api_key.hmac.compare_digest", counting)
    for key in ("a.wrong", "unknown.wrong", "b.wrong"):
        with pytest.raises(CredentialInvalid):
            KEYS.authenticate(Presented(api_key=key), NOW_NS)
    assert compared == [(32, 32)] * 3


def test_a_record_cannot_be_moved_to_another_id():
    moved = ApiKeys(PEPPER, [key_of("z", mac=key_of("a").mac)], NOW_NS)
    with pytest.raises(CredentialInvalid):
        moved.authenticate(Presented(api_key=f"z.{SECRET}"), NOW_NS)


def test_another_pepper_knows_nobody():
    with pytest.raises(CredentialInvalid):
        ApiKeys(bytes(32), [key_of()], NOW_NS).authenticate(Presented(api_key=f"a.{SECRET}"), NOW_NS)


def test_two_live_keys_are_allowed_and_a_third_is_not():
    two = [key_of("a"), key_of("b", expires_ns=NOW_NS + 1)]
    ApiKeys(PEPPER, [*two, key_of("c", expires_ns=NOW_NS), key_of("d", revoked=True)], NOW_NS)
    with pytest.raises(IdentityRejected, match="3 live API keys"):
        ApiKeys(PEPPER, [*two, key_of("c", expires_ns=NOW_NS + 1)], NOW_NS)


@pytest.mark.parametrize(
    ("pepper", "keys"),
    [
        (bytes(31), []),
        (PEPPER, [key_of(), key_of()]),
        (PEPPER, [key_of(mac=bytes(31))]),
        (PEPPER, [key_of("a.b")]),
    ],
)
def test_a_bad_set_of_keys_is_refused_when_it_is_built(pepper, keys):
    with pytest.raises(IdentityRejected):
        ApiKeys(pepper, keys, NOW_NS)


@given(st.text(max_size=300), st.sampled_from(["", "Bearer ", "Basic ", "bearer a."]))
def test_any_text_is_nobody_or_invalid(text, scheme):
    for presented in (Presented(api_key=text), Presented(authorization=scheme + text)):
        try:
            assert KEYS.authenticate(presented, NOW_NS) is None
        except CredentialInvalid:
            continue
