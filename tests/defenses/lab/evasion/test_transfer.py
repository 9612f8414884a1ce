"""Transfer: rows made on one's own model, asked once each."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest

from defenses.lab.attack import Size
from defenses.lab.evasion.transfer import robust_transfer_of, transfer_of
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
def test_a_model_falls_to_what_was_made_on_itself():
    lab = BareLab()
    (trial,) = transfer_of("1", "kiosk", "1")(lab, 0)
    assert (trial.attack, trial.technique) == ("query/kiosk-1/transfer", "AML.T0043.002")
    assert trial.successes == trial.samples == lab.asked
    assert trial.metrics["queries_median"] == 1


@pytest.mark.slow
def test_a_robust_model_of_ones_own_is_taught_and_each_row_asked_once():
    lab = BareLab()
    (trial,) = robust_transfer_of("kiosk", "1")(lab, 0)
    assert trial.attack == "query/kiosk-1/transfer-robust"
    assert trial.samples == lab.asked > 0
    assert trial.settings["own_model"] == "a robust one of its own"
