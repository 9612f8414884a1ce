"""Every parser of the audit log: a value or the named error for any bytes, and for what is nearly right.

Bytes at random seldom get past the first check, so most of what is tried is a sound example with a few edits.
"""

import importlib.util
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ops.audit.errors import ProofError, SettingsError
from ops.audit.store.settings import RecorderSettings
from ops.audit.witnesses.witness import Witness, WitnessStore
from tests.faults.effort import effort
from tests.faults.parsers import COSIGNERS, PARSERS, REQUEST, Parser
from tests.faults.recorder_process import KEY, settings_in

EXAMPLES = effort(40, 4000)
FUZZED = effort(50_000, 5_000_000)
REPOSITORY = Path(__file__).parents[2]
PIECES = st.sampled_from((b"\n", b"\n\n", b" ", b"0", b"+", b"=", b"\0", b"\xff", "— ".encode(), b"9" * 20, b'"', b"{"))
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), PIECES | st.binary(max_size=6)), min_size=1, max_size=4)


def edited(sample: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """Cut out so many bytes at a place, and put others there."""
    for place, count, data in edits:
        at = round(place * len(sample))
        sample = sample[:at] + data + sample[at + count :]
    return sample


def anything(samples: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=400) | st.builds(edited, st.sampled_from(samples), EDITS)


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_a_sound_example_is_taken(parser: Parser):
    for sample in parser.samples:
        try:
            parser.parse(sample)
        except ProofError:
            assert parser.name.endswith("proof")  # made up: what they prove is tested with the trees


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_any_bytes_give_a_value_or_the_named_error(parser: Parser, counted):
    tried = 0

    @settings(max_examples=EXAMPLES)
    @given(data=anything(parser.samples))
    def holds(data: bytes) -> None:
        nonlocal tried
        tried += 1
        with suppress(*parser.errors):
            parser.parse(data)

    holds()
    counted("parsers", parsers=1, tried=tried, unnamed=0)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this platform")
@pytest.mark.timeout(3600)
def test_the_fuzzer_finds_no_error_without_a_name(counted):
    """Guided by coverage, from the sound examples; longer campaigns run the file itself."""
    command = [sys.executable, "-m", "tests.faults.fuzz_parsers", f"-runs={FUZZED}", "-max_len=4096"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {FUZZED} runs" in done.stderr
    counted("parsers", fuzzed=FUZZED, unnamed=0)


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(COSIGNERS, [KEY.verifier], WitnessStore(tmp_path / "store"), clock_s=lambda: 1_800_000_000)


def test_a_witness_answers_anything_in_the_statuses_of_the_protocol(witness: Witness, counted):
    statuses: set[int] = set()

    @settings(max_examples=EXAMPLES)
    @given(data=anything((REQUEST, REQUEST.replace(b"old 0", b"old 1"))))
    @example(data=REQUEST)
    def holds(data: bytes) -> None:
        statuses.add(int(witness.add_checkpoint(data).status))

    holds()
    assert statuses <= {200, 400, 403, 404, 409, 422}
    assert {200, 400} <= statuses
    counted("parsers", parsers=1, tried=EXAMPLES, unnamed=0)


def test_settings_in_any_json_are_settings_or_refused(tmp_path: Path):
    sound = settings_in(tmp_path).to_json()
    assert RecorderSettings.from_json(sound) == settings_in(tmp_path)

    @settings(max_examples=EXAMPLES)
    @given(data=anything((sound,)))
    def holds(data: bytes) -> None:
        with suppress(SettingsError):
            RecorderSettings.from_json(data)

    holds()
