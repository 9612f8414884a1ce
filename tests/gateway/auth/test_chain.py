import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.api_key import ApiKey, ApiKeys, key_mac
from gateway.auth.chain import (
    API_KEY_CHARACTERS_MAX,
    AUTHORIZATION_CHARACTERS_MAX,
    CERTIFICATE_NAMES_MAX,
    Chain,
)
from gateway.auth.jwt import Issuer, Tokens
from gateway.auth.mtls import Certificates
from gateway.auth.principal import Presented
from gateway.errors import CredentialExpired, CredentialInvalid, CredentialMissing
from tests.gateway.auth.issuer import ISS, KIOSK, NOW_NS, NOW_S, OTHER, FixedKeys, token

PEPPER = bytes(32)
SECRET = "s" * 43
SPIFFE_7, SPIFFE_8, SPIFFE_9 = ("spiffe://example.org/7",), ("spiffe://example.org/8",), ("spiffe://example.org/9",)
KEY_7, KEY_8 = f"k7.{SECRET}", f"k8.{SECRET}"
JWT_7, JWT_8 = f"Bearer {token()}", f"Bearer {token(sub='svc-8')}"


def chain():
    keys = [ApiKey("k7", key_mac(PEPPER, KEY_7), KIOSK, None), ApiKey("k8", key_mac(PEPPER, KEY_8), OTHER, None)]
    issuer = Issuer("corp", ISS, "stockade", frozenset({"EdDSA"}), FixedKeys())
    names = [(SPIFFE_7[0], KIOSK), (SPIFFE_8[0], OTHER)]
    return Chain(
        [
            ApiKeys(PEPPER, keys, NOW_NS),
            Tokens([issuer], {("corp", "svc"): KIOSK, ("corp", "svc-8"): OTHER}),
            Certificates(names),
        ]
    )


CHAIN = chain()


def ask(authorization=None, api_key=None, spiffe=()):
    return CHAIN.authenticate(Presented(authorization, api_key, spiffe), NOW_NS)


def test_nothing_presented_is_missing():
    with pytest.raises(CredentialMissing):
        ask()


@pytest.mark.parametrize(
    ("presented", "method"),
    [
        (Presented(authorization=f"Bearer {KEY_7}"), "api_key"),
        (Presented(authorization="Basic " + base64.b64encode(f"k7:{SECRET}".encode()).decode()), "api_key"),
        (Presented(api_key=KEY_7), "api_key"),
        (Presented(authorization=JWT_7), "jwt"),
        (Presented(spiffe=SPIFFE_7), "mtls"),
    ],
)
def test_each_credential_is_enough_alone(presented, method):
    principal = CHAIN.authenticate(presented, NOW_NS)
    assert (principal.name, principal.method) == ("kiosk-7", method)


@pytest.mark.parametrize(
    ("presented", "method"),
    [
        (Presented(JWT_7, KEY_7, SPIFFE_7), "jwt"),
        (Presented(f"Bearer {KEY_7}", KEY_7), "api_key"),
        (Presented(None, KEY_7, SPIFFE_7), "api_key"),
        (Presented(JWT_7, None, SPIFFE_7), "jwt"),
        (Presented(JWT_7, None, SPIFFE_9), "jwt"),  # a certificate that names nobody contradicts nothing
    ],
)
def test_credentials_that_agree_are_accepted_and_the_header_speaks(presented, method):
    principal = CHAIN.authenticate(presented, NOW_NS)
    assert (principal.name, principal.method) == ("kiosk-7", method)


@pytest.mark.parametrize(
    "presented",
    [
        Presented(JWT_7, KEY_8),
        Presented(f"Bearer {KEY_7}", KEY_8),
        Presented(JWT_7, None, SPIFFE_8),
        Presented(None, KEY_7, SPIFFE_8),
        Presented(JWT_7, KEY_7, SPIFFE_8),
        Presented(JWT_8, KEY_7, SPIFFE_7),
    ],
)
def test_two_identities_are_none(presented):
    with pytest.raises(CredentialInvalid):
        CHAIN.authenticate(presented, NOW_NS)


@pytest.mark.parametrize(
    "presented",
    [
        Presented("Bearer wrong.wrong", KEY_7),
        Presented("Bearer junk", KEY_7, SPIFFE_7),
        Presented("Junk", None, SPIFFE_7),
        Presented("", None, SPIFFE_7),
        Presented("", KEY_7),
        Presented(JWT_7, ""),
        Presented(JWT_7, "k7.wrong"),
        Presented(None, "k7.wrong", SPIFFE_7),
        Presented("\0"),
        Presented(None, "\0"),
        Presented(None, None, SPIFFE_9),
        Presented(f"bearer{KEY_7}"),
        Presented("Bearer "),
        Presented("Bearer"),
    ],
)
def test_a_wrong_credential_is_not_outweighed_by_a_right_one(presented):
    with pytest.raises(CredentialInvalid):
        CHAIN.authenticate(presented, NOW_NS)


def test_an_expired_credential_is_not_outweighed_either():
    expired = f"Bearer {token(exp=NOW_S - 60, iat=NOW_S - 120)}"
    with pytest.raises(CredentialExpired):
        ask(expired, None, SPIFFE_7)


class Untouched:
    """An authenticator that no too-long header may reach."""

    def authenticate(self, presented, now_ns):
        raise AssertionError("asked before the lengths were looked at")


@pytest.mark.parametrize(
    ("field", "limit", "fill"),
    [
        ("authorization", AUTHORIZATION_CHARACTERS_MAX, "x"),
        ("api_key", API_KEY_CHARACTERS_MAX, "x"),
        ("spiffe", CERTIFICATE_NAMES_MAX, ("x",)),
    ],
)
def test_lengths_are_bounded_before_any_work(field, limit, fill):
    with pytest.raises(CredentialInvalid, match="too"):
        Chain([Untouched()]).authenticate(Presented(**{field: fill * (limit + 1)}), NOW_NS)
    with pytest.raises(AssertionError):
        Chain([Untouched()]).authenticate(Presented(**{field: fill * limit}), NOW_NS)


HEADERS = st.one_of(st.none(), st.text(max_size=60), st.sampled_from([JWT_7, JWT_8, f"Bearer {KEY_7}", "Bearer a.b.c"]))
KEYS = st.one_of(st.none(), st.text(max_size=60), st.sampled_from([KEY_7, KEY_8]))
NAMES = st.lists(st.one_of(st.text(max_size=20), st.sampled_from([*SPIFFE_7, *SPIFFE_8])), max_size=3).map(tuple)


@given(HEADERS, KEYS, NAMES)
def test_whatever_is_presented_a_principal_means_that_every_header_was_right_for_it(authorization, api_key, names):
    try:
        principal = ask(authorization, api_key, names)
    except (CredentialMissing, CredentialInvalid):
        return
    own = {"kiosk-7": (JWT_7, KEY_7, SPIFFE_7), "kiosk-8": (JWT_8, KEY_8, SPIFFE_8)}
    header, key, spiffe = own[principal.name]
    assert authorization in (None, header, f"Bearer {key}")
    assert api_key in (None, key)
    others = {name for _, _, (name,) in own.values()} - set(spiffe)
    assert not others.intersection(names)
