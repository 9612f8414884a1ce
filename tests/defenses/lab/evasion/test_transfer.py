"""Transfer: rows made on one's own model, asked once each."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest

from defenses.lab.attack import Run, Size
from defenses.lab.evasion.query_trials import transfer
from defenses.lab.offline import OfflineOracle
from gateway.tools.init.init import RELEASE_KEY
from gateway.tools.lab.models import BundleModel, Rows
from gateway.tools.samples import bundles_directory

pytest.importorskip("torch")


class BareLab:
    """Bundles without screens; says how many rows were asked."""

    size, directory = Size.SMOKE, Path()

    def __init__(self):
        self.asked = 0

    def model(self, name, version):
        root = bundles_directory()
        return BundleModel(root / name / version, root / RELEASE_KEY)

    def rows(self, model, split, count, seed):
        return Rows(None).draw(model, split, count, seed)

    @contextmanager
    def oracle(self, name, version, *, defended, accounts=1, tenants=1, changes=None):
        oracle = OfflineOracle(self.model(name, version), "image", None, accounts=accounts, tenants=tenants)
        ask = oracle.ask

        def counted(rows, account=0):
            self.asked += len(rows)
            return ask(rows, account)

        oracle.ask = counted
        yield oracle

    def tell(self, what, done, total):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(("own", "name"), [("1", "kiosk-1"), (None, "a robust one of its own")])
def test_each_row_is_made_on_a_model_of_ones_own_and_asked_once(own, name):
    lab = BareLab()
    (found,) = transfer(Run(lab, 0, "kiosk", "1", "transfer"), own=own)
    assert found.samples == lab.asked > 0
    assert found.metrics["queries_median"] == 1
    assert found.settings["own_model"] == name
    if own == "1":
        assert found.successes == found.samples, "a model falls to what was made on itself"
