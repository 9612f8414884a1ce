"""The last good policy: what was accepted is kept, and is what a start falls back to."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime

import pytest

import gateway.policy.file
from gateway.config.document import FileRejected, PolicyRejected
from gateway.policy.file import (
    ABSENT,
    ACCEPTED,
    UNSIGNED_NS,
    Kept,
    Memory,
    accept,
    awaits_signature,
    former_policies,
    signature_of,
    stamp,
)
from gateway.policy.load import load_policy
from gateway.policy.policy import PolicyRollback
from gateway.policy.signature import PolicySignatureInvalid, sign_policy
from gateway.tools.init.init import init_directory
from tests.e2e.site import copy_site
from tests.gateway.words import Words


@pytest.fixture
def place(made_site, tmp_path):
    site = copy_site(made_site, tmp_path / "site")
    kept = tmp_path / "kept"
    kept.mkdir()
    source = type("Source", (), {"file": site.policy, "public_key": site.directory / "keys/policy.pub"})()
    return site, source, Kept(source, kept, Memory(tmp_path / "recorder/policy.revision"))


def test_the_first_start_takes_the_file_and_keeps_it(place):
    site, source, kept = place
    log = Words()
    policy = kept.first(log)
    assert policy == load_policy(kept.copy, source.public_key)
    assert kept.copy.read_bytes() == site.policy.read_bytes()
    assert log.events == []


@pytest.mark.parametrize("how", ["broken", "unsigned", "older", "gone"])
def test_when_the_file_is_refused_the_last_good_one_is_taken_and_it_is_said(place, how):
    site, source, kept = place
    site.change_policy(lambda policy: policy.update(unsafe_public_methods=["Health"]))
    good = kept.first(Words())
    if how == "broken":
        site.write_policy("version: 2")
    elif how == "unsigned":
        site.change_policy(lambda policy: None, sign=False)
    elif how == "older":
        site.change_policy(lambda policy: policy.update(revision=1, unsafe_public_methods=[]))
    else:
        site.policy.unlink()
    log = Words()
    assert kept.first(log) == good
    assert log.events == ["policy-refused"]
    assert load_policy(kept.copy, source.public_key) == good


def test_without_a_last_good_one_a_refused_file_stops_the_start(place):
    site, _, kept = place
    site.change_policy(lambda policy: None, sign=False)
    with pytest.raises(FileRejected, match="was not signed"):
        kept.first(Words())


def test_a_kept_pair_that_was_cut_in_two_by_a_crash_is_refused_and_the_file_taken(place):
    site, _, kept = place
    kept.first(Words())
    site.change_policy(lambda policy: None)
    copy = kept.draft()
    signature_of(copy).replace(signature_of(kept.copy))  # and then the power went
    log = Words()
    assert kept.first(log).revision == 3
    assert log.events == ["policy-refused"]


def test_an_older_policy_is_not_taken_over_a_kept_newer_one(place):
    site, source, kept = place
    older = site.policy.read_bytes(), signature_of(site.policy).read_bytes()
    site.change_policy(lambda policy: None)
    newer = kept.first(Words())
    site.policy.write_bytes(older[0])
    signature_of(site.policy).write_bytes(older[1])
    with pytest.raises(PolicyRollback):
        load_policy(source.file, source.public_key, in_force=newer)
    assert kept.first(Words()) == newer


def test_a_stamp_changes_with_the_file_and_with_its_signature(place):
    site, _, _ = place
    seen = {stamp(site.policy)}
    site.change_policy(lambda policy: None, sign=False)
    seen.add(stamp(site.policy))
    site.write_policy(site.policy.read_text())
    seen.add(stamp(site.policy))
    signature_of(site.policy).unlink()
    seen.add(stamp(site.policy))
    site.policy.unlink()
    seen.add(stamp(site.policy))
    assert len(seen) == 5
    assert stamp(site.policy) == (ABSENT, ABSENT)


def test_an_edit_waits_for_its_signature_and_nothing_else_waits(place):
    site, _, _ = place
    seen = stamp(site.policy)
    site.change_policy(lambda policy: None, sign=False)
    edited = stamp(site.policy)
    assert [awaits_signature(edited, seen, edited[0] + later) for later in (-1, 0, UNSIGNED_NS - 1, UNSIGNED_NS)] == [
        False,  # it says that it was edited in the future
        True,
        True,
        False,
    ]
    assert not awaits_signature(edited, edited, edited[0])
    signature = signature_of(site.policy).read_bytes()
    signature_of(site.policy).unlink()
    assert awaits_signature(stamp(site.policy), seen, edited[0])
    signature_of(site.policy).write_bytes(signature)
    assert not awaits_signature(stamp(site.policy), seen, edited[0])  # signed, by whomever
    site.policy.unlink()
    assert not awaits_signature(stamp(site.policy), seen, edited[0])


def test_accepting_a_draft_leaves_no_draft(place):
    _, _, kept = place
    accept(kept.draft())
    files = [path.name for path in kept.directory.iterdir() if path.is_file()]
    assert sorted(files) == [ACCEPTED, f"{ACCEPTED}.sig"]


@pytest.fixture(scope="module")
def other_key(tmp_path_factory):
    """The keys of somebody else's policy."""
    elsewhere = tmp_path_factory.mktemp("keys") / "other"
    init_directory(elsewhere, now=datetime.now(UTC), random_bytes=os.urandom)
    return elsewhere / "keys"


def replace_key(site, other_key, *, sign=True):
    (site.directory / "keys/policy.pub").write_bytes((other_key / "policy.pub").read_bytes())
    if sign:
        sign_policy(site.policy, other_key / "policy.key")


@pytest.mark.parametrize("renew", [Kept.refresh, Kept.mend])
def test_a_new_key_over_the_same_policy_renews_the_copy(place, other_key, renew):
    site, source, kept = place
    policy = kept.first(Words())
    replace_key(site, other_key)
    with pytest.raises(PolicySignatureInvalid):
        load_policy(kept.copy, source.public_key)
    renew(kept, policy)
    assert load_policy(kept.copy, source.public_key) == policy
    files = [path.name for path in kept.directory.iterdir() if path.is_file()]
    assert sorted(files) == [ACCEPTED, f"{ACCEPTED}.sig"]


@pytest.mark.parametrize("renew", [Kept.refresh, Kept.mend])
def test_another_policy_is_not_slipped_in_that_way(place, other_key, renew):
    site, _, kept = place
    policy = kept.first(Words())
    before = kept.copy.read_bytes()
    site.change_policy(lambda policy: None)
    replace_key(site, other_key)
    renew(kept, policy)
    assert kept.copy.read_bytes() == before


def test_what_cannot_be_mended_yet_stays_as_it_is(place, other_key):
    site, source, kept = place
    policy = kept.first(Words())
    replace_key(site, other_key, sign=False)  # the new key is there, its signature is not
    kept.mend(policy)
    with pytest.raises(PolicySignatureInvalid):
        load_policy(kept.copy, source.public_key)


def test_a_copy_that_is_gone_is_made_again(place):
    _, source, kept = place
    policy = kept.first(Words())
    kept.copy.unlink()
    kept.mend(policy)
    assert load_policy(kept.copy, source.public_key) == policy


def test_a_copy_that_is_good_is_left_alone(place):
    _, _, kept = place
    policy = kept.first(Words())
    before = stamp(kept.copy)
    kept.mend(policy)
    assert stamp(kept.copy) == before


@pytest.fixture
def forgotten(place):
    """A place whose second revision was in force before its state directory was deleted."""
    site, source, kept = place
    first = site.policy.read_bytes(), signature_of(site.policy).read_bytes()
    site.change_policy(lambda policy: None)
    kept.first(Words())
    shutil.rmtree(kept.directory)
    kept.directory.mkdir()
    return site, source, kept, first


def test_without_its_copy_an_older_policy_is_refused_by_name(forgotten):
    site, _, kept, (older, signature) = forgotten
    site.policy.write_bytes(older)
    signature_of(site.policy).write_bytes(signature)
    with pytest.raises(PolicyRollback, match=f"revision 2 does not replace revision 3.*see {kept.memory.file}"):
        kept.first(Words())


def test_an_older_copy_that_was_put_back_is_refused_too(forgotten):
    site, _, kept, (older, signature) = forgotten
    kept.copy.write_bytes(older)
    signature_of(kept.copy).write_bytes(signature)
    site.policy.unlink()
    with pytest.raises(FileRejected):
        kept.first(log := Words())
    assert log.events == ["policy-refused"]


def another(policy) -> None:
    policy.update(revision=3, unsafe_public_methods=["Health"])


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        (lambda site: None, True),
        (lambda site: site.write_policy(site.policy.read_text() + "\n"), True),  # other bytes, the same meaning
        (lambda site: site.change_policy(lambda policy: None), True),
        (
            lambda site: site.change_policy(lambda policy: policy.update(revision=3, unsafe_public_methods=["Health"])),
            False,
        ),
        (lambda site: site.change_policy(lambda policy: policy.update(revision=2)), False),
    ],
    ids=["the same", "written otherwise", "the next", "another of the same revision", "an older one"],
)
def test_without_its_copy_only_the_same_or_a_newer_one_is_taken(forgotten, change, taken):
    site, source, kept, _ = forgotten
    change(site)
    if taken:
        assert kept.first(Words()) == load_policy(source.file, source.public_key)
    else:
        with pytest.raises(PolicyRollback):
            kept.first(Words())


def test_a_build_that_digests_otherwise_knows_the_same_bytes(forgotten):
    _, _, kept, _ = forgotten
    fields = json.loads(kept.memory.file.read_text())
    kept.memory.file.write_text(json.dumps(fields | {"digest": "0" * 64}))
    assert kept.first(Words()).revision == 3
    assert json.loads(kept.memory.file.read_text()) == fields


@pytest.mark.parametrize("text", ["", "{", "3", "{}", '{"revision": "x", "digest": "", "sha256": ""}', "9" * 1025])
def test_a_memory_that_says_nothing_stops_the_start(forgotten, text):
    _, _, kept, _ = forgotten
    kept.memory.file.write_text(text)
    with pytest.raises(PolicyRejected, match=r"policy\.revision"):
        kept.first(Words())


def test_a_policy_that_cannot_be_remembered_is_not_accepted(place):
    site, _, kept = place
    kept.first(Words())
    before = kept.copy.read_bytes()
    site.change_policy(lambda policy: None)
    kept.memory.file.unlink()
    kept.memory.file.mkdir()
    with pytest.raises(OSError, match=r"policy\.revision"):
        kept.accept(kept.draft(), load_policy(site.policy, site.directory / "keys/policy.pub"))
    assert kept.copy.read_bytes() == before


def test_those_that_were_in_force_are_kept_the_newest_of_them(place, monkeypatch):
    site, _, kept = place
    monkeypatch.setattr(gateway.policy.file, "FORMER_MAX", 2)
    assert former_policies(kept.directory) == {}
    texts = {}
    for number in range(4):
        site.change_policy(lambda policy, number=number: policy["models"]["tiny"].update(cost_per_row=number + 1))
        texts[kept.first(Words()).digest] = site.policy.read_bytes()
    found = former_policies(kept.directory)
    assert {digest: file.read_bytes() for digest, file in found.items()} == dict(list(texts.items())[-2:])
    kept.first(Words())  # the same again takes no room
    assert former_policies(kept.directory) == found


def test_a_policy_is_taken_over_also_where_earlier_ones_cannot_be_kept(place, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    _, source, kept = place
    monkeypatch.setattr(gateway.policy.file, "keep_former", full)
    assert kept.first(Words()) == load_policy(source.file, source.public_key)
