"""The contract of `gateway.auth.principal.Authenticator`, over every kind of credential.

A new kind joins by a line in KINDS: an authenticator, what it must accept, and what of its kind is wrong or expired.
"""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.api_key import ApiKey, ApiKeys, key_mac
from gateway.auth.chain import Chain
from gateway.auth.jwt import Issuer, Tokens
from gateway.auth.mtls import Certificates
from gateway.auth.principal import Authenticator, Presented
from gateway.errors import CredentialExpired, CredentialInvalid, CredentialMissing
from tests.gateway.auth.issuer import ISS, KIOSK, NOW_NS, NOW_S, FixedKeys, segment, token

S = 1_000_000_000
SECRET = "s" * 43
OLD_KEY = f"old.{SECRET}"
KEY = f"k7.{SECRET}"
SPIFFE = "spiffe://example.org/kiosk/7"


@dataclass(frozen=True)
class Kind:
    method: str
    authenticator: Authenticator
    good: Presented
    wrong: tuple[Presented, ...]
    expired: tuple[Presented, ...]


def api_keys():
    pepper = bytes(32)
    return ApiKeys(
        pepper,
        [ApiKey("k7", key_mac(pepper, KEY), KIOSK, NOW_NS + S), ApiKey("old", key_mac(pepper, OLD_KEY), KIOSK, NOW_NS)],
        NOW_NS,
    )


def tokens():
    issuer = Issuer("corp", ISS, "stockade", frozenset({"EdDSA"}), FixedKeys())
    return Tokens([issuer], {("corp", "svc"): KIOSK})


TOKEN, OLD_TOKEN = token(), token(iat=NOW_S - 900, exp=NOW_S - 300)
FORGED = TOKEN.rpartition(".")[0] + "." + segment(bytes(64))
KINDS = [
    Kind(
        "api_key",
        api_keys(),
        Presented(api_key=KEY),
        (Presented(api_key="k7.wrong"), Presented(authorization="Bearer k7.wrong"), Presented(api_key="old.wrong")),
        (Presented(api_key=OLD_KEY), Presented(authorization=f"Bearer {OLD_KEY}")),
    ),
    Kind(
        "jwt",
        tokens(),
        Presented(authorization=f"Bearer {TOKEN}"),
        (Presented(authorization=f"Bearer {FORGED}"), Presented(authorization="Bearer a.b.c")),
        (Presented(authorization=f"Bearer {OLD_TOKEN}"),),
    ),
    Kind("mtls", Certificates([(SPIFFE, KIOSK)]), Presented(spiffe=(SPIFFE,)), (), ()),
]
pytestmark = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.method)


def test_a_good_credential_names_its_principal_every_time(kind):
    first = kind.authenticator.authenticate(kind.good, NOW_NS)
    assert (first.name, first.tenant, first.lane, first.roles) == ("kiosk-7", "store-7", 0, frozenset({"predictor"}))
    assert first.method == kind.method
    assert first.expires_ns is None or first.expires_ns > NOW_NS
    assert kind.authenticator.authenticate(kind.good, NOW_NS) == first


def test_no_secret_is_in_the_principal(kind):
    shown = repr(kind.authenticator.authenticate(kind.good, NOW_NS))
    assert SECRET not in shown
    assert TOKEN not in shown


def test_nothing_presented_and_other_kinds_are_none(kind):
    assert kind.authenticator.authenticate(Presented(), NOW_NS) is None
    for other in KINDS:
        if other is not kind:
            for presented in (other.good, *other.wrong, *other.expired):
                assert kind.authenticator.authenticate(presented, NOW_NS) is None


def test_a_wrong_one_is_invalid_also_right_after_a_good_one(kind):
    for presented in kind.wrong:
        kind.authenticator.authenticate(kind.good, NOW_NS)
        with pytest.raises(CredentialInvalid):
            kind.authenticator.authenticate(presented, NOW_NS)


def test_an_expired_one_is_expired_and_time_alone_makes_it_so(kind):
    for presented in kind.expired:
        with pytest.raises(CredentialExpired):
            kind.authenticator.authenticate(presented, NOW_NS)
    principal = kind.authenticator.authenticate(kind.good, NOW_NS)
    if principal.expires_ns is not None:
        with pytest.raises(CredentialExpired):
            kind.authenticator.authenticate(kind.good, principal.expires_ns + 60 * S)


def test_the_chain_takes_it_and_refuses_its_absence(kind):
    chain = Chain([kind.authenticator])
    assert chain.authenticate(kind.good, NOW_NS).name == "kiosk-7"
    with pytest.raises(CredentialMissing):
        chain.authenticate(Presented(), NOW_NS)
    for other in KINDS:
        if other is not kind:
            with pytest.raises(CredentialInvalid):
                chain.authenticate(other.good, NOW_NS)


TEXTS = st.one_of(
    st.none(),
    st.text(max_size=120),
    st.tuples(st.sampled_from(["Bearer ", "Basic ", "bearer "]), st.text(max_size=120)).map("".join),
    st.sampled_from([KEY, f"Bearer {TOKEN}"]).flatmap(
        lambda text: st.integers(0, len(text)).map(lambda cut: text[:cut])
    ),
)


@given(authorization=TEXTS, api_key=TEXTS, names=st.lists(st.text(max_size=30), max_size=3).map(tuple))
def test_anything_presented_gives_a_principal_none_or_a_named_refusal(kind, authorization, api_key, names):
    try:
        principal = kind.authenticator.authenticate(Presented(authorization, api_key, names), NOW_NS)
    except (CredentialInvalid, CredentialExpired):
        return
    assert principal is None or principal.name == "kiosk-7"
