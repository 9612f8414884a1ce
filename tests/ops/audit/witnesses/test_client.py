"""A log that grows while its witnesses are asked: who was asked by somebody else meanwhile is not ahead of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops.audit.errors import WitnessAhead, WitnessRefused, WitnessSilent
from ops.audit.log.checkpoint import open_checkpoint, open_note
from ops.audit.log.cosignature import COSIGN_ED25519, Cosigner
from ops.audit.log.trust_policy import TrustedLog, TrustedWitness, TrustPolicy
from ops.audit.witnesses.client import ask_all, cosign_newest, overtaken
from ops.audit.witnesses.witness import Reply, Witness, WitnessPage, WitnessStore
from tests.faults.recorder_process import KEY
from tests.ops.audit.open_log import OpenLog, open_log
from tests.ops.audit.samples import small

COSIGNER = Cosigner("w.test", COSIGN_ED25519, bytes(32))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[OpenLog]:
    with open_log(tmp_path / "log") as made:
        grow(made, 5)
        yield made


def grow(log: OpenLog, count: int) -> None:
    log.say([small(log.appender.size + number) for number in range(count)])


class Busy(Witness):
    """A witness that, before it answers, does once what `before` says."""

    before = staticmethod(lambda: None)

    def add_checkpoint(self, body: bytes) -> Reply:
        once, self.before = self.before, lambda: None
        once()
        return super().add_checkpoint(body)


@contextmanager
def watching(tmp_path: Path) -> Iterator[tuple[Busy, TrustPolicy]]:
    witness = Busy(
        (COSIGNER,), [KEY.verifier], WitnessStore(tmp_path / "witness.sqlite"), clock_s=lambda: 1_800_000_000
    )
    with WitnessPage("127.0.0.1", 0, witness) as page:
        thread = threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        trusted = TrustedWitness("w", COSIGNER.key, f"http://127.0.0.1:{page.port}")
        yield witness, TrustPolicy([TrustedLog(KEY.verifier)], {"w": trusted}, quorum="w")
        page.shutdown()
        thread.join()


def cosign_elsewhere(log: OpenLog, policy: TrustPolicy) -> None:
    """What another process does with the log's newest checkpoint."""
    cosign_newest(log.directory, policy, log.directory.parent / "elsewhere", timeout_s=20)


def test_a_witness_that_somebody_else_asked_meanwhile_is_asked_again_and_no_alarm(log, tmp_path):
    out = tmp_path / "cosigned"
    with watching(tmp_path) as (witness, policy):

        def somebody_else() -> None:
            grow(log, 7)
            cosign_elsewhere(log, policy)

        witness.before = somebody_else
        checkpoint, asked = cosign_newest(log.directory, policy, out, timeout_s=20)
        first, newest = checkpoint.size, log.edge.published_size
        assert newest > first
        assert type(asked.failures["w"]) is WitnessRefused
        assert f"it has cosigned size {newest} meanwhile; it will be asked again" in str(asked.failures["w"])
        assert not out.exists()
        checkpoint, asked = cosign_newest(log.directory, policy, out, timeout_s=20)
        assert (checkpoint.size, asked.failures) == (newest, {})
        assert open_note(out.read_bytes(), [COSIGNER.key]).verified == ("w.test",)


def test_a_witness_that_has_seen_more_than_the_log_has_now_is_ahead(log, tmp_path):
    older = (log.directory / "checkpoint").read_bytes()
    with watching(tmp_path) as (_, policy):
        grow(log, 7)
        cosign_elsewhere(log, policy)
        newest = log.edge.published_size
        (log.directory / "checkpoint").write_bytes(older)  # an older copy was put back
        _, asked = cosign_newest(log.directory, policy, tmp_path / "cosigned", timeout_s=20)
    assert type(asked.failures["w"]) is WitnessAhead
    assert asked.failures["w"].size == newest
    assert not (tmp_path / "cosigned").exists()


def test_a_fork_stays_a_fork_however_the_log_grew(log, tmp_path):
    with watching(tmp_path) as (witness, policy), open_log(tmp_path / "fork") as fork:
        fork.say([small(100 + number) for number in range(5)])
        note = (fork.directory / "checkpoint").read_bytes()
        head = open_checkpoint(note, [KEY.verifier])
        assert not ask_all(note, head, policy.witnesses.values(), lambda *_: []).failures
        witness.before = lambda: grow(log, 7)
        _, asked = cosign_newest(log.directory, policy, tmp_path / "cosigned", timeout_s=20)
    assert type(asked.failures["w"]) is WitnessAhead


@pytest.mark.parametrize(
    ("failure", "grown", "kind"),
    [
        (WitnessAhead("w", "larger", 9), 10, WitnessRefused),
        (WitnessAhead("w", "larger", 9), 9, WitnessRefused),
        (WitnessAhead("w", "larger", 9), 8, WitnessAhead),
        (WitnessAhead("w", "another tree"), 10, WitnessAhead),
        (WitnessSilent("w", "gone"), 10, WitnessSilent),
    ],
)
def test_ahead_is_who_has_seen_more_than_the_log_has_now(failure, grown, kind):
    assert type(overtaken(failure, grown)) is kind
