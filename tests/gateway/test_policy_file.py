"""The last good policy: what was accepted is kept, and is what a start falls back to."""

from __future__ import annotations

import pytest

from gateway.document import FileRejected
from gateway.policy import PolicyRollback, load_policy
from gateway.policy_file import ACCEPTED, accept, draft, first_policy, signature_of, stamp
from tests.e2e.site import copy_site


class Words:
    """A log that remembers."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __call__(self, event: str, **_: object) -> None:
        self.events.append(event)


@pytest.fixture
def place(made_site, tmp_path):
    site = copy_site(made_site, tmp_path / "site")
    kept = tmp_path / "kept"
    kept.mkdir()
    source = type("Source", (), {"file": site.policy, "public_key": site.directory / "keys/policy.pub"})()
    return site, source, kept


def test_the_first_start_takes_the_file_and_keeps_it(place):
    site, source, kept = place
    log = Words()
    policy = first_policy(source, kept, log)
    assert policy == load_policy(kept / ACCEPTED, source.public_key)
    assert (kept / ACCEPTED).read_bytes() == site.policy.read_bytes()
    assert log.events == []


@pytest.mark.parametrize("how", ["broken", "unsigned", "older", "gone"])
def test_when_the_file_is_refused_the_last_good_one_is_taken_and_it_is_said(place, how):
    site, source, kept = place
    site.change_policy(lambda policy: policy.update(unsafe_public_methods=["Health"]))
    good = first_policy(source, kept, Words())
    if how == "broken":
        site.write_policy("version: 2")
    elif how == "unsigned":
        site.change_policy(lambda policy: None, sign=False)
    elif how == "older":
        site.change_policy(lambda policy: policy.update(revision=1, unsafe_public_methods=[]))
    else:
        site.policy.unlink()
    log = Words()
    assert first_policy(source, kept, log) == good
    assert log.events == ["policy-refused"]
    assert load_policy(kept / ACCEPTED, source.public_key) == good


def test_without_a_last_good_one_a_refused_file_stops_the_start(place):
    site, source, kept = place
    site.change_policy(lambda policy: None, sign=False)
    with pytest.raises(FileRejected, match="was not signed"):
        first_policy(source, kept, Words())


def test_a_kept_pair_that_was_cut_in_two_by_a_crash_is_refused_and_the_file_taken(place):
    site, source, kept = place
    first_policy(source, kept, Words())
    site.change_policy(lambda policy: None)
    copy = draft(source.file, kept)
    signature_of(copy).replace(signature_of(kept / ACCEPTED))  # and then the power went
    log = Words()
    assert first_policy(source, kept, log).revision == 3
    assert log.events == ["policy-refused"]


def test_an_older_policy_is_not_taken_over_a_kept_newer_one(place):
    site, source, kept = place
    older = site.policy.read_bytes(), signature_of(site.policy).read_bytes()
    site.change_policy(lambda policy: None)
    newer = first_policy(source, kept, Words())
    site.policy.write_bytes(older[0])
    signature_of(site.policy).write_bytes(older[1])
    with pytest.raises(PolicyRollback):
        load_policy(source.file, source.public_key, in_force=newer)
    assert first_policy(source, kept, Words()) == newer


def test_a_stamp_changes_with_the_file_and_with_its_signature(place):
    site, _, _ = place
    seen = {stamp(site.policy)}
    site.change_policy(lambda policy: None, sign=False)
    seen.add(stamp(site.policy))
    site.write_policy(site.policy.read_text())
    seen.add(stamp(site.policy))
    signature_of(site.policy).unlink()
    seen.add(stamp(site.policy))
    assert len(seen) == 4
    assert stamp(site.policy) == (0, 0)


def test_accepting_a_draft_leaves_no_draft(place):
    _, source, kept = place
    accept(draft(source.file, kept))
    assert sorted(path.name for path in kept.iterdir()) == [ACCEPTED, f"{ACCEPTED}.sig"]
