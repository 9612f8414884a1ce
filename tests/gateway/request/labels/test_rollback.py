"""A version that trusted labels contradict goes back by itself: on trial, and after it was promoted."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gateway.control.labels.evaluation import Evaluation
from gateway.control.release.rollout import Rollout
from gateway.models.canary import Evidence, Labels, Limits, Plan, begin, decide
from gateway.policy.feedback import Feedback, feedback_faults, label_faults
from gateway.policy.release import Canary
from gateway.request.labels.rows import Draft
from gateway.request.labels.store import FILE, FeedbackStore

LEAST = 0.85
PLAN = Plan((0.5, 1.0), 1_000, 10, Limits(0.01, agreement_min=LEAST))
GOOD = Evidence(requests=100, errors=0)


def labelled(right, labels):
    return replace(GOOD, labelled=Labels(right, labels))


@pytest.mark.parametrize("promoted", [False, True])
def test_a_bad_version_goes_back_within_500_labels(promoted):
    progress = begin(0)
    if promoted:
        for now in (1_000, 2_000):
            progress, _ = decide(PLAN, progress, GOOD, now)
        assert progress.phase == "promoted"
    rights = np.cumsum(np.random.default_rng(0).random(500) < LEAST - 0.10)
    for count in range(1, 501):
        after, event = decide(PLAN, progress, labelled(int(rights[count - 1]), count), 2_001 if promoted else 1)
        if event is not None:
            break
    assert event == "rolled-back"
    assert (after.phase, after.share(PLAN)) == ("rolled-back", 0.0)
    assert "agreement with trusted labels" in after.reason
    assert count <= 500
    assert decide(PLAN, after, GOOD, 99_000) == (after, None)  # for good


def test_labels_of_a_good_version_take_nothing_back():
    progress, event = decide(PLAN, begin(0), labelled(430, 500), 1_000)
    assert (progress.phase, event) == ("running", "advanced")


def test_without_a_limit_labels_decide_nothing():
    plan = replace(PLAN, limits=Limits(0.01))
    assert decide(plan, begin(0), labelled(0, 500), 1)[1] is None


def test_no_labels_are_no_contradiction():
    assert decide(PLAN, begin(0), labelled(0, 0), 1)[1] is None


def faults(found):
    return [fault.problem for fault in found]


@pytest.mark.parametrize("promoted", [False, True])
@pytest.mark.parametrize(
    ("said", "event"),
    [
        (Labels(900, 1_000, 0.16, 0.05), "rolled-back"),
        (Labels(900, 1_000, 0.15, 0.05), None),  # as far as chance may take it
        (Labels(900, 1_000), None),  # nobody knows how sure it was
    ],
)
def test_confidence_that_labels_contradict_takes_a_version_back(promoted, said, event):
    plan = replace(PLAN, limits=Limits(0.01, calibration_error_max=0.1))
    progress = replace(begin(0), phase="promoted" if promoted else "running")
    after, happened = decide(plan, progress, replace(GOOD, labelled=said), 1)
    assert happened == event
    why = "calibration error on trusted labels 0.160 (0.050 may be chance) is above 0.1"
    assert after.reason == (why if event else "")


def test_the_last_step_waits_for_labels_and_no_other_does():
    plan = replace(PLAN, labels_min=200)
    progress, event = decide(plan, begin(0), labelled(0, 0), 1_000)
    assert event == "advanced"
    assert decide(plan, progress, labelled(199, 199), 1_000_000)[1] is None
    assert decide(plan, progress, labelled(200, 200), 2_000)[1] == "promoted"


ASKED = {
    "agreement_min": {"abort_on": {"agreement_min": 0.8}},
    "calibration_error_max": {"abort_on": {"calibration_error_max": 0.1}},
    "min_labels": {"min_labels": 1},
}


@pytest.mark.parametrize("name", ASKED)
def test_a_limit_that_nobodys_labels_measure_is_a_fault(name):
    canary = {"version": "2", "steps": (1.0,), "step_every": "1h"}
    asks, asks_nothing = (Canary.model_validate({**canary, **more}) for more in (ASKED[name], {}))
    for feedback in (None, Feedback()):
        [fault] = label_faults((), feedback, asks)
        assert fault.at[-1] == name
        assert not list(label_faults((), feedback, asks_nothing))
    assert not list(label_faults((), Feedback(trusted=("a",)), asks))


def test_trusted_principals_are_there_and_can_sign():
    class Holder:
        feedback_keys = ("ab" * 32,)

    class Other:
        feedback_keys = ()

    there = {"alice": Holder(), "bob": Other()}
    assert faults(feedback_faults((), Feedback(trusted=("alice",)), there)) == []
    [missing] = faults(feedback_faults((), Feedback(trusted=("alicee",)), there))
    assert "did you mean `alice`?" in missing
    [silent] = faults(feedback_faults((), Feedback(trusted=("bob",)), there))
    assert "no `feedback_keys`" in silent


def test_a_principal_cannot_have_more_than_its_tenant():
    assert faults(feedback_faults((), Feedback(tenant_share_max=0.02, principal_share_max=0.03), {}))
    assert not faults(feedback_faults((), Feedback(tenant_share_max=0.03, principal_share_max=0.03), {}))


EVALUATED = [
    Evaluation("kiosk", "2", "trusted", 0, 2, 1, 0.25, 0.1),
    Evaluation("kiosk", "2", "others", 0, 9, 9, 0.5, 0.1),
]


def rollout(tmp_path, *, labelled=True):
    place = SimpleNamespace(memory=tmp_path / "policy.revision")
    host = SimpleNamespace(place=place, evaluations=SimpleNamespace(found=EVALUATED))
    return Rollout(host, SimpleNamespace(labelled=labelled))


async def test_the_supervisor_counts_what_trusted_principals_said_and_nothing_else(tmp_path):
    store = FeedbackStore(tmp_path / FILE)

    def draft(number, answered, *, trusted, reason=""):
        return Draft(
            *(
                bytes([number]) * 16,
                0,
                "t",
                "p",
                "kiosk",
                "2",
                0,
                "a",
                answered,
                b"",
                9,
                1,
                1,
                "k",
                trusted,
                "accepted",
            ),
            reason,
        )

    drafts = [
        draft(1, "a", trusted=True),
        draft(2, "b", trusted=True),
        draft(3, "b", trusted=True, reason="INCONSISTENT"),
        draft(4, "b", trusted=True, reason="FLAGGED_ANSWER"),
        draft(5, "b", trusted=False),
        draft(6, "b", trusted=True),
    ]
    with store.transaction() as step:
        ids = [step.draft(each) for each in drafts]
    store.confirm(ids[:5])
    store.confirm(ids[:5])  # twice is once
    assert await rollout(tmp_path).labelled() == {("kiosk", "2"): Labels(1, 3, 0.25, 0.1)}
    assert await rollout(tmp_path, labelled=False).labelled() == {}


async def test_a_file_that_cannot_be_read_counts_nothing(tmp_path):
    (tmp_path / FILE).write_bytes(b"not a database, but as long as one's header has to be" * 20)
    assert await rollout(tmp_path).labelled() == {}
