"""Policies of trusted logs and witnesses: c2sp.org/tlog-policy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.audit.errors import QuorumMissing, SignatureInvalid, SignatureMissing, TrustPolicyError
from ops.audit.log.checkpoint import Checkpoint, SignerKey, sign_note
from ops.audit.log.cosignature import COSIGN_ED25519, Cosigner
from ops.audit.log.trust_policy import GROUP_DEPTH_MAX, parse_trust_policy

LOG = SignerKey("log.test/one", bytes(range(32)))
OTHER = SignerKey("log.test/two", bytes(range(1, 33)))
HEAD = Checkpoint(LOG.name, 3, bytes(32))
W = {name: Cosigner(f"{name}.test", COSIGN_ED25519, bytes([number]) * 32) for number, name in enumerate("abcde", 1)}
WITNESSES = "".join(f"witness {name} {each.key}\n" for name, each in W.items())
TWO_LEVELS = f"""
# two organisations
log {LOG.verifier} https://log.test/one
{WITNESSES}
\tgroup  X 2 a b c
group Y any d e
group both all X Y
quorum both
"""


def note(*names: str, log: SignerKey = LOG) -> bytes:
    text = Checkpoint(log.name, HEAD.size, HEAD.root).text()
    return sign_note(text, [log]) + "".join(W[name].cosign(text.encode(), 1) for name in names).encode()


@pytest.mark.parametrize("names", ["abd", "ace", "bcde", "abcde"])
def test_enough_witnesses_are_enough(names):
    witnessed = parse_trust_policy(TWO_LEVELS.encode()).open(note(*names))
    assert witnessed.checkpoint == HEAD
    assert witnessed.witnesses == tuple(names)


@pytest.mark.parametrize("names", ["", "d", "ab", "abc", "ad", "de", "ade"])
def test_too_few_are_not(names):
    with pytest.raises(QuorumMissing):
        parse_trust_policy(TWO_LEVELS.encode()).open(note(*names))


def test_one_bad_cosignature_rejects_the_note():
    bad = note("a", "b", "d") + W["c"].cosign(Checkpoint(LOG.name, 4, bytes(32)).text().encode(), 1).encode()
    with pytest.raises(SignatureInvalid):
        parse_trust_policy(TWO_LEVELS.encode()).open(bad)


def test_a_log_that_is_not_listed_is_refused_with_all_its_witnesses():
    with pytest.raises(SignatureMissing):
        parse_trust_policy(TWO_LEVELS.encode()).open(note(*"abcde", log=OTHER))


def test_a_single_witness_and_none_make_a_quorum():
    one = parse_trust_policy(f"log {LOG.verifier}\nwitness a {W['a'].key}\nquorum a\n".encode())
    assert one.open(note("a")).witnesses == ("a",)
    with pytest.raises(QuorumMissing):
        one.open(note())
    none = parse_trust_policy(f"log {LOG.verifier}\nquorum none\n".encode())
    assert none.open(note()).witnesses == ()


BUSTED = [
    ("", "no quorum line"),
    ("quorum none\nquorum none\n", "line 2: there is a quorum line already"),
    ("quorum x\n", "line 1: x is no witness or group"),
    ("log nonsense\nquorum none\n", "line 1: "),
    (f"log {W['a'].key}\nquorum none\n", "line 1: not an Ed25519 key"),
    (f"witness a {LOG.verifier}\nquorum a\n", "line 1: not a witness's key"),
    (f"log {LOG.verifier}\nlog {LOG.verifier}\nquorum none\n", "line 2: this log is there already"),
    (f"witness a {W['a'].key}\nwitness a {W['b'].key}\nquorum a\n", "line 2: the name a is taken"),
    (f"witness a {W['a'].key}\nwitness b {W['a'].key}\nquorum a\n", "line 2: a witness with this key"),
    (f"witness none {W['a'].key}\nquorum none\n", "line 1: the name none is taken"),
    (f"{WITNESSES}group g 0 a\nquorum g\n", "from 1 to 1"),
    (f"{WITNESSES}group g 3 a b\nquorum g\n", "from 1 to 2"),
    (f"{WITNESSES}group g 01 a b\nquorum g\n", "from 1 to 2"),
    (f"{WITNESSES}group g any\nquorum g\n", "not a line of a policy"),
    (f"{WITNESSES}group g any a a\nquorum g\n", "a is a member already"),
    (f"{WITNESSES}group g any a\ngroup h any a\nquorum h\n", "a is a member already"),
    (f"{WITNESSES}group g any h\nquorum g\n", "h is no witness or group"),
    ("quorum none extra\n", "not a line of a policy"),
    ("witnesses\nquorum none\n", "begins with 'witnesses'"),
    ("quorum\x01 none\n", "control characters"),
]


@pytest.mark.parametrize(("text", "problem"), BUSTED, ids=[problem for _, problem in BUSTED])
def test_a_broken_policy_says_where_and_why(text, problem):
    with pytest.raises(TrustPolicyError, match=problem):
        parse_trust_policy(text.encode())


def test_names_are_octets():
    """A K and a Kelvin sign are two names, also where the file is no UTF-8."""
    text = f"witness K {W['a'].key}\nwitness \u212a {W['b'].key}\nquorum K\n".encode()
    policy = parse_trust_policy(text.replace(b"\xe2\x84\xaa", b"\xe2\x84\xaa\xff"))
    assert len(policy.witnesses) == 2


@given(st.binary(max_size=200))
def test_any_bytes_are_a_policy_or_refused(data):
    try:
        policy = parse_trust_policy(data)
    except TrustPolicyError:
        return
    assert policy.quorum == "none"


def nested(depth: int) -> bytes:
    """A policy whose groups stand in each other so deep."""
    groups = "".join(f"group g{level} all {f'g{level - 1}' if level > 1 else 'a'}\n" for level in range(1, depth + 1))
    return f"log {LOG.verifier}\nwitness a {W['a'].key}\n{groups}quorum g{depth}\n".encode()


def test_groups_are_so_deep_and_no_deeper():
    assert parse_trust_policy(nested(GROUP_DEPTH_MAX)).open(note("a")).witnesses == ("a",)
    with pytest.raises(TrustPolicyError, match=f"group g{GROUP_DEPTH_MAX + 1} is {GROUP_DEPTH_MAX + 1} deep"):
        parse_trust_policy(nested(GROUP_DEPTH_MAX + 1))


def test_a_name_that_is_no_utf_8_can_be_printed():
    policy = parse_trust_policy(
        b"log %s\nwitness \xff\xfe %s\nquorum \xff\xfe\n" % (str(LOG.verifier).encode(), str(W["a"].key).encode())
    )
    assert policy.open(note("a")).witnesses == (r"\xff\xfe",)
    assert policy.quorum.encode() == rb"\xff\xfe"
