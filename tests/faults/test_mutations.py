"""The fault tests can fail: without a sync, a directory's sync or the compare-and-swap they turn red."""

from pathlib import Path

import pytest

from tests.faults.mutate import MUTANTS, QUICK, ROOT, noticed


@pytest.mark.parametrize("mutant", [each for each in MUTANTS if each.name in QUICK], ids=lambda mutant: mutant.name)
@pytest.mark.slow
def test_a_mutant_is_noticed(tmp_path: Path, mutant):
    assert noticed(mutant, tmp_path)


def test_every_mutant_still_finds_its_text_and_its_tests():
    assert {each.name for each in MUTANTS} >= set(QUICK)
    for mutant in MUTANTS:
        assert (ROOT / mutant.file).read_text().count(mutant.old) == 1, mutant.name
        assert all((ROOT / test).exists() for test in mutant.tests)
