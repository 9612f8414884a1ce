from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from serving.train.clickstream.ecom import FIRST_EVENT, IDS, parse_ecom, sessions_of, split_ecom
from serving.train.clickstream.loop import ClickSettings, predict_clicks, train_clicks
from serving.train.clickstream.network import ClickNet, ClickShape
from serving.train.clickstream.recipe import markov_log_prior
from tests.serving.train.clicks import compressed

SETTINGS = ClickSettings(epochs=3, batch_rows=64, directions=8)


@pytest.fixture(scope="module")
def parts():
    found = split_ecom(parse_ecom(compressed(), "f"), 0)
    return replace(found, fit=found.fit.take(np.arange(200)))


def fresh(parts):
    torch.manual_seed(0)
    return ClickNet(ClickShape(IDS, FIRST_EVENT), torch.from_numpy(markov_log_prior(parts.train)).float())


def trained(parts, settings=SETTINGS, **more):
    return train_clicks(fresh(parts), sessions_of(parts.train), parts.fit, settings, **more)


@pytest.fixture(scope="module")
def unbroken(parts):
    return trained(parts)


def test_it_learns_more_than_the_prior_knows(parts, unbroken):
    net, history = unbroken
    first = predict_clicks(fresh(parts), parts.fit)[2]
    before = float(torch.nn.functional.cross_entropy(first, torch.from_numpy(parts.fit.labels)))
    assert min(report.held_out_loss for report in history) < before
    assert not net.training


def test_it_stops_when_nothing_gets_better_and_returns_the_best(parts):
    few = replace(parts, train=parts.train.take(np.arange(500)))
    net, history = trained(few, replace(SETTINGS, epochs=200, patience=2, rate=0.1))
    losses = [report.held_out_loss for report in history]
    assert len(history) == int(np.argmin(losses)) + 3 < 200
    logits = predict_clicks(net, parts.fit)[2]
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(parts.fit.labels))
    assert float(loss) == pytest.approx(min(losses), abs=1e-6)


def test_without_sigreg_latents_collapse_and_with_it_they_do_not(parts):
    """Latent prediction alone is least where all that is predicted is one point."""
    spreads = []
    for share in (0.0, 0.2):
        settings = replace(SETTINGS, epochs=4, joint=20.0, sigreg_share=share, directions=16, average_decay=0.5)
        net, _ = trained(parts, settings)
        spreads.append(float(net.places().detach().std(0).mean()))
    assert spreads[0] < 0.5 * spreads[1], spreads


def test_padding_before_is_no_event_and_rows_do_not_mix(parts, unbroken):
    net, _ = unbroken
    ids = torch.from_numpy(parts.fit.ids[:50])
    with torch.no_grad():
        whole = net(ids)
        for row in range(50):
            for alone, batched in zip(net(ids[row : row + 1]), whole, strict=True):
                torch.testing.assert_close(alone[0], batched[row], rtol=0, atol=1e-5)
