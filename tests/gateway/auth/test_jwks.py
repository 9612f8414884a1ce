import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import OKPAlgorithm

from gateway.auth.errors import KeySetRejected
from gateway.auth.jwks import KEY_SET_BYTES_MAX, KEYS_MAX, KID_CHARACTERS_MAX, parse_key_set
from tests.gateway.auth.issuer import EC, ED, RSA, jwks, key_set, public_jwk

GOOD = public_jwk(ED, "good")


def test_each_type_is_bound_to_its_algorithm():
    keys = parse_key_set(jwks(), {})
    assert {kid: key.algorithm for kid, key in keys.items()} == {"ed": "EdDSA", "ec": "ES256", "rsa": "RS256"}
    assert "jwk" not in repr(keys["ed"])


def test_keys_that_did_not_change_stay_the_same_objects_and_changed_ones_do_not():
    before = parse_key_set(jwks(ed=ED, rsa=RSA), {})
    after = parse_key_set(jwks(ed=ED, rsa=rsa.generate_private_key(65537, 2048)), before)
    assert after["ed"] is before["ed"]
    assert after["rsa"] is not before["rsa"]


@pytest.mark.parametrize(
    "member",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x"},
        public_jwk(EC, "x", alg="RS256"),
        public_jwk(RSA, "x", alg="HS256"),
        public_jwk(ED, "x", use="enc"),
        public_jwk(ED, "x", key_ops=["sign"]),
        public_jwk(ED, "x", key_ops="verify"),
        public_jwk(ec.generate_private_key(ec.SECP384R1()), "x"),
        public_jwk(rsa.generate_private_key(65537, 1024), "x"),
        public_jwk(ED, ""),
        public_jwk(ED, "x" * (KID_CHARACTERS_MAX + 1)),
        public_jwk(ED, 7),
        GOOD | {"kid": "x", "x": "!!"},
        GOOD | {"kid": "x", "x": 5},
        GOOD | {"kid": "x", "x": "AAAA"},
        GOOD | {"kid": "x", "crv": ["Ed25519"]},
        GOOD | {"kid": "x", "kty": None},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "x"},
        "not a key",
        None,
    ],
)
def test_a_key_that_is_not_for_us_is_passed_over_and_is_not_enough(member):
    assert list(parse_key_set(key_set(member, GOOD), {})) == ["good"]
    with pytest.raises(KeySetRejected, match="no usable key"):
        parse_key_set(key_set(member), {})


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no list"),
        (b"{}", "no list"),
        (b'{"keys": {}}', "no list"),
        (b'{"keys": []}', "no usable key"),
        (key_set(GOOD, public_jwk(EC, "good")), "two keys under one kid"),
        (key_set(GOOD, OKPAlgorithm.to_jwk(ED, as_dict=True) | {"kid": "leak"}), "private key"),
    ],
)
def test_a_set_that_breaks_a_rule_is_refused_whole(body, problem):
    with pytest.raises(KeySetRejected, match=problem):
        parse_key_set(body, {})


def test_limits_at_the_limit_and_one_past_it():
    many = [public_jwk(ED, f"k{number}") for number in range(KEYS_MAX)]
    assert len(parse_key_set(key_set(*many), {})) == KEYS_MAX
    with pytest.raises(KeySetRejected, match="more than"):
        parse_key_set(key_set(*many, GOOD), {})
    body = key_set(GOOD).ljust(KEY_SET_BYTES_MAX)
    assert list(parse_key_set(body, {})) == ["good"]
    with pytest.raises(KeySetRejected, match="longer"):
        parse_key_set(body + b" ", {})
    assert parse_key_set(key_set(public_jwk(ED, "x" * KID_CHARACTERS_MAX)), {})


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["OKP", "Ed25519", "EC", "P-256", "RSA", "AQAB"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
MEMBERS = st.dictionaries(
    st.sampled_from(["kty", "crv", "kid", "x", "y", "n", "e", "use", "alg", "key_ops", "d"]), VALUES
)


@given(st.lists(MEMBERS, max_size=4), st.binary(max_size=40))
def test_any_document_gives_keys_or_the_named_error(members, noise):
    for body in (json.dumps({"keys": members}).encode(), noise):
        try:
            assert parse_key_set(body, {})
        except KeySetRejected:
            continue
