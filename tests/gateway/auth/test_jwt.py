import hmac
import json
import math
from hashlib import sha256

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.errors import IdentityRejected
from gateway.auth.jwt import TOKEN_CHARACTERS_MAX, Issuer, Tokens
from gateway.auth.principal import Presented
from gateway.errors import CredentialExpired, CredentialInvalid
from tests.gateway.auth.issuer import (
    EC,
    ED,
    ISS,
    KIOSK,
    NOW_NS,
    NOW_S,
    OTHER,
    PRIVATE,
    RSA,
    FixedKeys,
    claims,
    jwks,
    key_set,
    public_jwk,
    segment,
    token,
)

ALL = frozenset({"EdDSA", "ES256", "RS256"})
SECOND_NS = 1_000_000_000


def issuer(keys=None, **changes):
    terms = {"name": "corp", "issuer": ISS, "audience": "stockade", "algorithms": ALL, "keys": keys or FixedKeys()}
    return Issuer(**(terms | changes))


def tokens(*issuers, **options):
    subjects = {("corp", "svc"): KIOSK, ("corp", "svc-8"): OTHER}
    return Tokens(issuers or [issuer()], subjects, **options)


def ask(authenticator, text, now_ns=NOW_NS):
    return authenticator.authenticate(Presented(authorization=f"Bearer {text}"), now_ns)


@pytest.mark.parametrize("kid", ["ed", "ec", "rsa"])
def test_each_pinned_algorithm_is_accepted(kid):
    principal = ask(tokens(), token(kid))
    assert principal.name == "kiosk-7"
    assert principal.method == "jwt"
    assert principal.credential == f"corp/{kid}"
    assert principal.expires_ns == (NOW_S + 600) * SECOND_NS


def test_the_subject_names_the_principal():
    assert ask(tokens(), token(sub="svc-8")).name == "kiosk-8"
    with pytest.raises(CredentialInvalid):
        ask(tokens(), token(sub="nobody"))


@pytest.mark.parametrize(
    "presented",
    [
        Presented(),
        Presented(api_key=token()),
        Presented(authorization=token()),
        Presented(authorization="Bearer a.b"),
        Presented(authorization="Bearer a.b.c.d.e"),
        Presented(authorization=f"Basic {token()}"),
        Presented(spiffe=("spiffe://example.org/a",)),
    ],
)
def test_other_kinds_are_left_to_others(presented):
    assert tokens().authenticate(presented, NOW_NS) is None


def test_alg_none_is_refused_in_every_spelling():
    for name in ("none", "None", "NONE", "nOnE", ""):
        unsigned = f"{segment({'alg': name, 'typ': 'JWT', 'kid': 'ed'})}.{segment(claims())}."
        with pytest.raises(CredentialInvalid):
            ask(tokens(), unsigned)


@pytest.mark.parametrize("kid", ["ed", "ec", "rsa"])
@pytest.mark.parametrize("encoding", [serialization.Encoding.PEM, serialization.Encoding.DER])
def test_a_public_key_is_never_an_hmac_secret(kid, encoding):
    secret = PRIVATE[kid].public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    body = f"{segment({'alg': 'HS256', 'typ': 'JWT', 'kid': kid})}.{segment(claims())}"
    forged = f"{body}.{segment(hmac.digest(secret, body.encode(), sha256))}"
    with pytest.raises(CredentialInvalid):
        ask(tokens(), forged)


@pytest.mark.parametrize(
    ("kid", "key", "algorithm"),
    [("rsa", EC, "ES256"), ("ed", EC, "ES256"), ("ec", ED, "EdDSA"), ("rsa", RSA, "RS384"), ("rsa", RSA, "PS256")],
)
def test_a_key_verifies_nothing_but_its_own_algorithm(kid, key, algorithm):
    with pytest.raises(CredentialInvalid):
        ask(tokens(), token(kid, key=key, algorithm=algorithm))


def test_an_algorithm_the_issuer_does_not_pin_is_refused_though_the_key_is_published():
    pinned = tokens(issuer(algorithms=frozenset({"EdDSA"})))
    assert ask(pinned, token("ed")).name == "kiosk-7"
    with pytest.raises(CredentialInvalid):
        ask(pinned, token("rsa"))


def test_keys_that_travel_in_the_token_are_never_used():
    thief = ed25519.Ed25519PrivateKey.generate()
    own = public_jwk(thief, "thief")
    for headers in (
        {"jwk": own},
        {"jwk": own, "kid": "thief"},
        {"jku": "https://127.0.0.1:1/keys"},
        {"x5u": "https://127.0.0.1:1/crt"},
        {"x5c": ["MIIB"]},
    ):
        with pytest.raises(CredentialInvalid):
            ask(tokens(), token("ed", key=thief, headers=headers))
    good = token("ed", headers={"jku": "https://127.0.0.1:1/keys", "jwk": own})
    assert ask(tokens(), good).name == "kiosk-7"  # ignored, not fetched


@pytest.mark.parametrize(
    "headers",
    [
        {"crit": ["exp"], "exp": 1},
        {"crit": ["b64"], "b64": True},
        {"crit": []},
        {"typ": "logout+jwt"},
        {"typ": 7},
        {"kid": ""},
        {"kid": "x" * 129},
    ],
)
def test_headers_that_are_not_for_us_are_refused(headers):
    header = {"alg": "EdDSA", "typ": "JWT", "kid": "ed"} | headers
    body = f"{segment(header)}.{segment(claims())}"
    with pytest.raises(CredentialInvalid):
        ask(tokens(), f"{body}.{segment(ED.sign(body.encode()))}")


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt", None])
def test_access_tokens_are_accepted_under_every_registered_type(kind):
    header = {"alg": "EdDSA", "typ": kind, "kid": "ed"}
    if kind is None:
        del header["typ"]
    body = f"{segment(header)}.{segment(claims())}"
    assert ask(tokens(), f"{body}.{segment(ED.sign(body.encode()))}").name == "kiosk-7"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": ["another", "third"]},
        {"aud": None},
        {"sub": None},
        {"exp": None},
        {"iat": None},
        {"nbf": NOW_S + 11},
        {"iat": NOW_S + 11},
        {"exp": NOW_S - 10},  # before iat + 1
        {"exp": "soon"},
        {"exp": True},
        {"exp": [NOW_S + 1]},
        {"exp": 1 << 41},
        {"exp": -1},
        {"nbf": "now"},
        {"nbf": True},
        {"iat": {}},
        {"exp": NOW_S - 10 + 86_401},
    ],
)
def test_a_claim_that_is_wrong_or_missing_is_refused(changes):
    with pytest.raises(CredentialInvalid):
        ask(tokens(), token(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": [ISS]},
        {"iss": {"a": 1}},
        {"sub": ["svc"]},
        {"sub": 7},
        {"exp": math.inf},
        {"exp": math.nan},
        {"iat": -math.inf},
        {"exp": 10**400},
        {"nbf": -(10**400)},
    ],
)
def test_a_claim_of_the_wrong_type_is_refused(changes):
    body = f"{segment({'alg': 'EdDSA', 'kid': 'ed'})}.{segment(claims(**changes))}"
    with pytest.raises(CredentialInvalid):
        ask(tokens(), f"{body}.{segment(ED.sign(body.encode()))}")


def test_edges_of_time():
    at_the_edge = {"nbf": NOW_S + 10, "iat": NOW_S + 10, "exp": NOW_S + 10 + 86_400, "aud": ["x", "stockade"]}
    assert ask(tokens(), token(**at_the_edge)).name == "kiosk-7"
    expiring = token(exp=NOW_S)
    assert ask(tokens(), expiring, NOW_NS + 10 * SECOND_NS - 1).name == "kiosk-7"
    with pytest.raises(CredentialExpired):
        ask(tokens(), expiring, NOW_NS + 10 * SECOND_NS)


def test_expired_is_said_only_to_those_whose_signature_is_good():
    with pytest.raises(CredentialInvalid):
        ask(tokens(), token(exp=NOW_S - 5, key=ed25519.Ed25519PrivateKey.generate()), NOW_NS + 60 * SECOND_NS)


def test_a_token_may_be_as_long_as_the_limit_and_not_longer():
    filler = TOKEN_CHARACTERS_MAX - len(token(x="")) - 10
    longest = max(
        (token(x="y" * (filler * 3 // 4 + n)) for n in range(16)),
        key=lambda text: (len(text) <= TOKEN_CHARACTERS_MAX, len(text)),
    )
    assert TOKEN_CHARACTERS_MAX - 3 <= len(longest) <= TOKEN_CHARACTERS_MAX
    assert ask(tokens(), longest).name == "kiosk-7"
    with pytest.raises(CredentialInvalid, match="too long"):
        ask(tokens(), longest + "A" * (TOKEN_CHARACTERS_MAX + 1 - len(longest)))


def test_an_unknown_kid_is_reported_once_a_call_and_refused():
    keys = FixedKeys()
    with pytest.raises(CredentialInvalid, match="key unknown"):
        ask(tokens(issuer(keys)), token("ed", headers={"kid": "next"}))
    assert keys.asked == ["next"]


def test_a_stranger_to_the_issuer_cannot_make_it_ask_for_keys():
    keys = FixedKeys()
    for text in (
        token(iss="https://evil.example", headers={"kid": "x"}),
        token("rsa", algorithm="RS384", headers={"kid": "x"}),
    ):
        with pytest.raises(CredentialInvalid):
            ask(tokens(issuer(keys)), text)
    assert keys.asked == []


def test_issuers_do_not_share_keys():
    thief = ed25519.Ed25519PrivateKey.generate()
    second = issuer(FixedKeys(jwks(ed=thief)), name="second", issuer="https://second.example")
    both = tokens(issuer(), second)
    with pytest.raises(CredentialInvalid):
        ask(both, token("ed", key=thief))


def counted(monkeypatch):
    calls = []
    real = jwt.decode

    def decode(*args, **kwargs):
        calls.append(args[0])
        return real(*args, **kwargs)

    monkeypatch.setattr("gateway.auth.jwt.jwt.decode", decode)
    return calls


def test_a_verified_token_is_verified_once_until_it_expires(monkeypatch):
    calls = counted(monkeypatch)
    authenticator, text = tokens(), token(exp=NOW_S + 1)
    first = ask(authenticator, text)
    assert ask(authenticator, text, NOW_NS + SECOND_NS - 1) is first
    assert len(calls) == 1
    assert ask(authenticator, text, NOW_NS + SECOND_NS).name == "kiosk-7"  # inside the leeway, but no longer remembered
    assert ask(authenticator, text, NOW_NS + SECOND_NS).name == "kiosk-7"
    assert len(calls) == 3
    assert authenticator.cached == 0
    with pytest.raises(CredentialExpired):
        ask(authenticator, text, NOW_NS + 11 * SECOND_NS)


def test_a_key_that_rotates_out_takes_its_tokens_with_it():
    keys = FixedKeys()
    authenticator, text = tokens(issuer(keys)), token("ed")
    assert ask(authenticator, text).name == "kiosk-7"
    keys.publish(jwks(ec=EC))
    with pytest.raises(CredentialInvalid, match="key unknown"):
        ask(authenticator, text)
    assert authenticator.cached == 0


def test_a_kid_that_is_given_to_another_key_does_not_keep_old_tokens():
    keys = FixedKeys()
    authenticator, text = tokens(issuer(keys)), token("ed")
    assert ask(authenticator, text).name == "kiosk-7"
    keys.publish(jwks(ed=ed25519.Ed25519PrivateKey.generate()))
    with pytest.raises(CredentialInvalid):
        ask(authenticator, text)


def test_a_key_set_that_only_grew_keeps_verified_tokens(monkeypatch):
    keys = FixedKeys(jwks(ed=ED))
    authenticator, text = tokens(issuer(keys)), token("ed")
    ask(authenticator, text)
    calls = counted(monkeypatch)
    keys.publish(jwks(ed=ED, ec=EC))
    assert ask(authenticator, text).name == "kiosk-7"
    assert calls == []


def test_the_cache_holds_its_bound_and_forgets_the_oldest(monkeypatch):
    authenticator = tokens(cache_entries_max=3)
    texts = [token(jti=str(number)) for number in range(4)]
    for text in texts[:3]:
        ask(authenticator, text)
    calls = counted(monkeypatch)
    ask(authenticator, texts[0])
    assert calls == []  # at the bound everything is there
    ask(authenticator, texts[3])
    assert authenticator.cached == 3
    ask(authenticator, texts[0])
    assert calls == [texts[3], texts[0]]


def test_refused_tokens_are_not_remembered():
    authenticator = tokens()
    good = token()
    for text in (token(aud="another"), good[:-2] + ("AA" if good[-2:] != "AA" else "BB"), token(sub="nobody")):
        with pytest.raises(CredentialInvalid):
            ask(authenticator, text)
    assert authenticator.cached == 0


@pytest.mark.parametrize(
    "terms",
    [
        {"algorithms": frozenset()},
        {"algorithms": frozenset({"HS256"})},
        {"algorithms": frozenset({"EdDSA", "none"})},
        {"leeway_s": 61},
        {"leeway_s": -1},
    ],
)
def test_terms_that_are_not_safe_are_refused_when_built(terms):
    with pytest.raises(IdentityRejected):
        tokens(issuer(**terms))


def test_one_iss_has_one_issuer():
    with pytest.raises(IdentityRejected):
        tokens(issuer(), issuer(name="second"))


SEGMENTS = st.one_of(
    st.binary(max_size=60).map(segment),
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["alg", "kid", "iss", "crit", "typ", "b64", "exp", "sub"]), inner, max_size=4
            )
        ),
        max_leaves=6,
    ).map(segment),
    st.text(max_size=20),
)
FUZZED = tokens()


@given(SEGMENTS, SEGMENTS, SEGMENTS)
def test_any_three_segments_are_refused_and_nothing_else(header, payload, signature):
    text = f"{header}.{payload}.{signature}"
    if text.count(".") == 2:
        with pytest.raises(CredentialInvalid):
            ask(FUZZED, text)


@given(
    st.dictionaries(
        st.sampled_from(["iss", "aud", "sub", "exp", "iat", "nbf", "jti"]),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(max_size=8),
            st.lists(st.text(max_size=4), max_size=2),
        ),
    )
)
def test_any_signed_claims_give_a_principal_or_the_named_refusal(changes):
    body = f"{segment({'alg': 'EdDSA', 'kid': 'ed'})}.{segment(json.dumps(claims() | changes).encode())}"
    try:
        assert ask(FUZZED, f"{body}.{segment(ED.sign(body.encode()))}").name == "kiosk-7"
    except (CredentialInvalid, CredentialExpired):
        return


def test_deep_nesting_is_refused():
    deep = segment(b'{"alg":' + b"[" * 1400)
    with pytest.raises(CredentialInvalid, match="malformed"):
        ask(tokens(), f"{deep}.{deep[:1800]}.AA")


def test_a_flipped_bit_anywhere_is_refused():
    text = token("ed")
    for position in range(0, len(text), 7):
        if text[position] != ".":
            flipped = text[:position] + ("A" if text[position] != "A" else "B") + text[position + 1 :]
            with pytest.raises(CredentialInvalid):
                ask(tokens(), flipped)


def test_a_set_with_nothing_for_the_token_is_no_way_in():
    keys = FixedKeys(key_set(public_jwk(ED, "ed")))
    with pytest.raises(CredentialInvalid):
        ask(tokens(issuer(keys)), token("ec"))
