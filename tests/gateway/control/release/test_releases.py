"""A host's releases follow the policy and what was counted; what was reached is kept, and bound to its canary."""

from __future__ import annotations

import io
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from gateway.config.document import PolicyRejected
from gateway.control.release.releases import BLAMED, LATE, Releases, blamed, evidence_of, since
from gateway.control.release.view import as_json, render, shown, title_of
from gateway.models.canary import Labels
from gateway.models.compile_release import Standing, fingerprint, splits_of, weights_of
from gateway.models.standings import RELEASES, read_reached
from gateway.policy.policy import ModelPolicy
from gateway.request.drifts import Drifts
from ops.metrics import TIMES, VersionCounts

SECOND_NS = 1_000_000_000
CANARY = {"version": "2", "steps": [0.1, 1], "step_every": "1s", "min_requests": 10}


class Policy:
    """As much of a policy as releases look at."""

    def __init__(self, **releases) -> None:
        self.models = {name: model(release) for name, release in releases.items()}


def model(release, serve="1") -> ModelPolicy:
    return ModelPolicy.model_validate_json(json.dumps({"serve": serve, "release": release}))


def counted(answered=0, *, failed=0, beside=0, rows=0, disagreements=0) -> VersionCounts:
    times = [0] * (len(TIMES) + 1)
    times[10] = answered
    found = VersionCounts(Counter({("failed", "MODEL_ERROR"): failed, ("refused", "RATE_LIMITED"): 99}), times)
    found.shadow |= {"requests": beside, "rows": rows, "disagreements": disagreements}
    return found


def judged(p_values) -> SimpleNamespace:
    """What one screen says of rows."""
    return SimpleNamespace(rows=[("evidence", np.zeros(len(p_values), np.uint8), p_values)])


def model_version(name, version) -> SimpleNamespace:
    return SimpleNamespace(name=name, version=version)


def seen(**versions) -> dict[tuple[str, str], VersionCounts]:
    return {("kiosk", name.removeprefix("v")): counts for name, counts in versions.items()}


@pytest.fixture
def releases(tmp_path):
    return Releases(tmp_path / "audit" / RELEASES)


def told(changes) -> list[tuple[str, str, str, dict[str, float]]]:
    return [(change.action, change.model, change.version, dict(change.weights)) for change in changes]


def test_a_canary_begins_goes_on_and_is_promoted(releases):
    policy = Policy(kiosk={"canary": CANARY})
    assert told(releases.follow(policy, {}, 0)) == [("started", "kiosk", "2", {"1": 0.9, "2": 0.1})]
    assert releases.watched
    assert releases.look(seen(v2=counted(9)), 5 * SECOND_NS) == []
    assert told(releases.look(seen(v2=counted(10)), 5 * SECOND_NS)) == [
        ("advanced", "kiosk", "2", {"1": 0.0, "2": 1.0})
    ]
    # What the step before had counted does not count again.
    assert releases.look(seen(v2=counted(19)), 9 * SECOND_NS) == []
    (promoted,) = releases.look(seen(v2=counted(20)), 9 * SECOND_NS)
    assert (promoted.action, promoted.counts["answered"], promoted.counts["requests"]) == ("promoted", 10, 10)
    assert not releases.watched
    assert releases.weights("kiosk") == {"1": 0.0, "2": 1.0}


def test_a_failure_of_the_version_takes_it_back_and_a_refusal_of_a_caller_does_not(releases):
    releases.follow(Policy(kiosk={"canary": CANARY}), {}, 0)
    (back,) = releases.look(seen(v2=counted(1, failed=9)), SECOND_NS // 2)
    assert told([back]) == [("rolled-back", "kiosk", "2", {"1": 1.0, "2": 0.0})]
    assert back.reason == "error rate 0.900 (9 of 10) is above 0.01"
    assert back.entry()["weights_micro"] == {"1": 1_000_000, "2": 0}


def test_deadlines_that_one_caller_sets_too_close_take_no_version_back(releases):
    releases.follow(Policy(kiosk={"canary": CANARY}), {}, 0)
    found = counted(20)
    found.outcomes.update({("refused", "DEADLINE_PASSED"): 400, ("refused", "DEADLINE_UNMEETABLE"): 400})
    assert [change.action for change in releases.look(seen(v2=found), 2 * SECOND_NS)] == ["advanced"]


def test_a_version_that_hangs_at_its_last_step_is_taken_back(releases):
    releases.follow(Policy(kiosk={"canary": CANARY}), {}, 0)
    assert releases.look(seen(v2=counted(20)), 2 * SECOND_NS)[0].action == "advanced"
    hung = counted(20)
    hung.outcomes["refused", "DEADLINE_PASSED"] = 10
    (back,) = releases.look(seen(v2=hung), 4 * SECOND_NS)
    assert (back.action, back.reason) == ("rolled-back", "answered nothing, and 10 requests ran into their deadlines")


def test_a_version_whose_engine_is_silent_is_taken_back_as_one_that_fails(releases):
    releases.follow(Policy(kiosk={"canary": CANARY}), {}, 0)
    silent = counted(20)
    silent.outcomes["failed", "BACKEND_TIMED_OUT"] = 9
    (back,) = releases.look(seen(v2=silent), SECOND_NS // 2)
    assert (back.action, back.reason) == ("rolled-back", "error rate 0.310 (9 of 29) is above 0.01")


@pytest.mark.parametrize("over", ["promoted", "rolled-back"])
def test_what_was_reached_outlives_the_host(releases, tmp_path, over):
    policy = Policy(kiosk={"canary": CANARY})
    releases.follow(policy, {}, 0)
    failed = 50 if over == "rolled-back" else 0
    for number in (1, 2):
        releases.look(seen(v2=counted(20 * number, failed=failed)), number * 2 * SECOND_NS)
    releases.keep()
    again = Releases(tmp_path / "audit" / RELEASES)
    assert [change.action for change in again.follow(policy, {}, 0)] == ["set"]
    assert again.trials["kiosk"].progress.phase == over
    assert again.weights("kiosk")["2"] == (1.0 if over == "promoted" else 0.0)
    assert again.look(seen(v2=counted(10_000)), 99 * SECOND_NS) == []


def test_a_restart_keeps_the_step_and_begins_its_time_again(releases, tmp_path):
    policy = Policy(kiosk={"canary": CANARY | {"steps": [0.1, 0.5, 1]}})
    releases.follow(policy, {}, 0)
    releases.look(seen(v2=counted(20)), 2 * SECOND_NS)
    releases.keep()
    again = Releases(tmp_path / "audit" / RELEASES)
    again.follow(policy, {}, 100 * SECOND_NS)
    assert again.weights("kiosk") == {"1": 0.5, "2": 0.5}
    assert again.look(seen(v2=counted(20)), 100 * SECOND_NS + 1) == []
    assert [change.action for change in again.look(seen(v2=counted(20)), 101 * SECOND_NS)] == ["advanced"]


def test_the_last_step_is_measured_by_what_the_served_version_answered_before(releases):
    slow = counted(40)
    slow.times[10], slow.times[40] = 0, 40
    releases.follow(Policy(kiosk={"canary": CANARY | {"abort_on": {"p99_ratio_max": 2.0}}}), {}, 0)
    assert releases.look(seen(v1=counted(40), v2=counted(20)), 2 * SECOND_NS)[0].action == "advanced"
    slow.times[10] = 20
    (back,) = releases.look(seen(v1=counted(40), v2=slow), 4 * SECOND_NS)
    assert "times the served version's, above 2" in back.reason


def test_a_policy_of_before_does_not_bring_back_what_was_taken_back(releases):
    with_it, without = Policy(kiosk={"canary": CANARY}), Policy(kiosk=None)
    releases.follow(with_it, {}, 0)
    releases.look(seen(v2=counted(failed=50)), 1)
    releases.follow(without, {}, 2)
    assert [change.action for change in releases.follow(with_it, {}, 3)] == ["set"]
    assert releases.weights("kiosk")["2"] == 0


def test_what_the_policy_ended_halfway_begins_again(releases):
    with_it, without = Policy(kiosk={"canary": CANARY}), Policy(kiosk=None)
    releases.follow(with_it, {}, 0)
    releases.look(seen(v2=counted(20)), 2 * SECOND_NS)
    releases.follow(without, {}, 3)
    assert [change.action for change in releases.follow(with_it, {}, 4)] == ["started"]
    assert releases.weights("kiosk")["2"] == 0.1


@pytest.mark.parametrize(
    ("change", "again"),
    [({}, False), ({"attempt": 2}, True), ({"version": "3"}, True), ({"min_requests": 11}, True)],
    ids=["as it was", "another attempt", "another version", "other words"],
)
def test_what_was_taken_back_is_tried_again_only_when_its_section_says_so(releases, change, again):
    releases.follow(Policy(kiosk={"canary": CANARY}), {}, 0)
    releases.look(seen(v2=counted(failed=50)), 1)
    other = Policy(kiosk={"canary": CANARY | change}, tiny={"weights": {"1": 1.0}})
    changes = [change.action for change in releases.follow(other, {}, 0) if change.model == "kiosk"]
    assert changes == (["ended", "started"] if again else [])
    share = 0.1 if again else 0.0
    assert releases.weights("kiosk")[other.models["kiosk"].release.canary.version] == share


def test_what_the_policy_ends_is_recorded_with_what_was_counted(releases):
    releases.follow(Policy(kiosk={"shadow": {"version": "2"}}), seen(v2=counted(beside=5)), 0)
    after = seen(v2=counted(beside=25, rows=40, disagreements=4), v1=counted(50))
    changes = releases.follow(Policy(kiosk={"weights": {"1": 0.5, "2": 0.5}}), after, 0)
    assert told(changes) == [
        ("ended", "kiosk", "2", {"1": 1.0}),
        ("set", "kiosk", "1", {"1": 0.5, "2": 0.5}),
    ]
    assert changes[0].counts == {"answered": 0, "compared": 40, "disagreements": 4, "errors": 0, "requests": 20}
    assert told(releases.follow(Policy(kiosk=None), after, 0)) == [("ended", "kiosk", "1", {"1": 1.0})]
    assert releases.trials == {}


def test_the_record_has_what_labels_said(releases):
    limits = {"error_rate_max": 0.02, "calibration_error_max": 0.1}
    releases.follow(Policy(kiosk={"canary": CANARY | {"abort_on": limits}}), {}, 0)
    assert releases.labelled
    [change] = releases.look({}, 1, {("kiosk", "2"): Labels(150, 200, 0.25, 0.05)})
    assert (change.action, change.counts["labels"], change.counts["right"]) == ("rolled-back", 200, 150)
    assert change.counts["calibration_error_micro"] == 250_000


def test_a_standing_holds_for_the_canary_it_was_reached_by_and_for_shares_the_policy_names():
    mine, other = model({"canary": CANARY}), model({"canary": CANARY | {"attempt": 2}})
    standing = {"kiosk": Standing(fingerprint(mine), 0.1, running=True)}
    assert weights_of("kiosk", mine, standing) == {"1": 0.9, "2": 0.1}
    assert weights_of("kiosk", other, standing) == {"1": 1.0, "2": 0.0}
    forged = {"kiosk": Standing(fingerprint(mine), 0.7, running=True)}
    assert weights_of("kiosk", mine, forged) == {"1": 1.0, "2": 0.0}
    assert fingerprint(model({"canary": CANARY}, serve="7")) != fingerprint(mine)
    assert fingerprint(model({"canary": CANARY | {"attempt": 1, "min_labels": 0}})) == fingerprint(mine)  # as ever
    assert fingerprint(model({"weights": {"1": 1.0}})) == ""
    assert splits_of(Policy(kiosk={"canary": CANARY}, tiny={"shadow": {"version": "2"}}), standing).keys() == {"kiosk"}


@pytest.mark.parametrize(
    "text",
    ["", "[", "[]", '{"kiosk": 1}', '{"kiosk": {}}', '{"kiosk": {"fingerprint": "", "version": "2", "phase": "gone"}}'],
)
def test_nobody_guesses_what_a_damaged_file_said(tmp_path, text):
    (tmp_path / RELEASES).write_text(text)
    with pytest.raises(PolicyRejected, match="does not say how far the canaries are"):
        read_reached(tmp_path / RELEASES)


def test_what_either_version_ran_beside_the_other_was_compared():
    found = evidence_of(
        counted(30, failed=1, beside=5, rows=5, disagreements=1), counted(60, beside=7, rows=7, disagreements=2)
    )
    assert (found.requests, found.errors, found.compared, found.disagreements) == (36, 1, 12, 3)
    assert (sum(found.times), sum(found.served_times)) == (30, 60)


def test_drift_is_judged_by_rows_that_both_versions_judged(releases):
    tried, served = counted(20), counted(20)
    tried.drift.update({"p-values-evidence": 0.9, "beside/1/evidence": 0.3, "beside/1/other": 0.1, "scores": 9.0})
    tried.drift["beside/3/evidence"] = 0.8
    served.drift.update({"p-values-evidence": 0.1, "beside/2/evidence": 0.2, "beside/3/evidence": 0.7})
    releases.follow(Policy(kiosk={"canary": CANARY}), {}, 0)
    found = releases.trials["kiosk"].evidence(seen(v1=served, v2=tried))
    assert (found.drift, found.served_drift) == (0.3, 0.2)
    assert releases.trials["kiosk"].evidence(seen(v1=counted(), v2=counted())).drift is None


def test_a_burst_of_strange_rows_takes_no_canary_back(releases):
    """The windows of both versions as they are while a burst comes, stays and goes, looked at all the while."""
    one, two = (
        SimpleNamespace(served=SimpleNamespace(bundle=model_version("kiosk", each)), screens={}) for each in "12"
    )
    canary = CANARY | {"step_every": "10s", "steps": [0.1, 0.5, 1], "abort_on": {"drift_max": 0.2}}
    releases.follow(Policy(kiosk={"canary": canary}), {}, 0)
    rng, drifts, happened = np.random.default_rng(0), Drifts(), []
    for second, strange in enumerate([*[False] * 20, *[True] * 10, *[False] * 40], 1):
        p_values = rng.random(2_100) * (0.01 if strange else 1.0)
        said, rest = judged(p_values[:100]), judged(p_values[100:])
        unlike = judged(np.clip(p_values[:100] + rng.normal(0, 0.02, 100), 0, 1))
        drifts.observe(one, [said, rest], np.empty(0))  # turns its window over each second
        drifts.observe(two, [unlike], np.empty(0))  # takes twenty
        drifts.observe_both(one, said.rows, two, unlike.rows)
        counts = seen(v1=counted(), v2=counted(100 * second))
        for _, version, detector, value in drifts.values():
            counts["kiosk", version].drift[detector] = value
        happened += [(second, change.action) for change in releases.look(counts, second * SECOND_NS)]
    assert [action for _, action in happened] == ["advanced", "advanced", "promoted"]
    assert 35 < happened[-1][0] < 50, "strange traffic held nothing up, or for too long"


def test_counts_of_before_are_taken_off():
    before, now = seen(v2=counted(5, failed=1, rows=3)), seen(v2=counted(9, failed=4, rows=8))
    found = since(now, before, ("kiosk", "2"))
    assert (sum(found.times), blamed(found), found.shadow["rows"]) == (4, 3, 5)
    assert since({}, {}, ("kiosk", "2")) == VersionCounts()


def test_every_reason_that_is_blamed_on_a_version_exists():
    from gateway.host.app import REASONS

    assert BLAMED | LATE <= REASONS


def test_versions_are_shown_beside_each_other(releases):
    policy = Policy(kiosk={"canary": CANARY}, tiny={"shadow": {"version": "2"}}, letters={"weights": {"1": 1.0}})
    releases.follow(policy, {}, 0)
    counts = seen(v1=counted(80), v2=counted(10, failed=2, beside=5, rows=50, disagreements=5))
    page = io.StringIO()
    render(list(shown(releases, counts)), Console(file=page, width=200))
    lines = page.getvalue().splitlines()
    assert [line.rstrip() for line in lines if "," in line and line[0].isalpha()] == [
        "kiosk, canary, version 2, step 1 of 2",
        "tiny, shadow, version 2",
        "letters, weights",
    ]
    cells = [cell.strip() for line in lines if "10.0%" in line for cell in line.split("│")]
    assert [cell for cell in cells if cell][:4] == ["2", "10.0%", "10", "2"]
    assert "10.00%" in cells
    releases.look(seen(v2=counted(failed=50)), 1)
    (message, *_) = shown(releases, counts)
    assert title_of(message) == "kiosk, canary, version 2, rolled-back: error rate 1.000 (50 of 50) is above 0.01"
    assert as_json(message)["versions"][1]["disagreements"] == "5"
    page = io.StringIO()
    render([], Console(file=page))
    assert page.getvalue() == "no model of this gateway has a release\n"


def test_the_admin_port_tells_of_each_version(releases):
    releases.follow(Policy(kiosk={"canary": CANARY}), {}, 0)
    counts = seen(v1=counted(80), v2=counted(10, failed=2, beside=5, rows=50, disagreements=5))
    (message,) = shown(releases, counts)
    assert (message.model, message.kind, message.phase, message.step, message.steps) == (
        "kiosk",
        "canary",
        "running",
        1,
        2,
    )
    one, two = message.versions
    assert (one.version, one.weight, one.answered) == ("1", pytest.approx(0.9), 80)
    assert (two.failed, two.shadow_requests, two.compared, two.disagreements) == (2, 5, 50, 5)
    assert TIMES[9] < two.p99_seconds <= TIMES[10]
