"""Losses against hand-computed values and PyTorch; regularisers' scopes; schedules; averaged weights."""

from __future__ import annotations

import math

import pytest
import torch

from snnbench.models.losses import make_loss, tempotron
from snnbench.models.regularise import activity_loss
from snnbench.spec import ActivitySpec, TrainSpec
from snnbench.train import learning_rate


def test_tempotron_counts_what_is_wrong_only():
    logits = torch.tensor([[0.25, 1.5, 0.0], [3.0, 0.5, -1.0]], requires_grad=True)
    labels = torch.tensor([0, 0])
    # sample 0: the label misses 0.75, class 1 is 0.5 too high; sample 1: nothing is wrong
    loss = tempotron(logits, labels)
    assert float(loss.detach()) == pytest.approx((0.75 + 0.5) / 2)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


def test_label_smoothing_mixes_with_all_classes():
    logits, labels = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([1])
    log_p = logits.log_softmax(dim=1)[0].tolist()
    plain = make_loss(TrainSpec())(logits, labels)
    smooth = make_loss(TrainSpec(label_smoothing=0.3))(logits, labels)
    assert float(plain) == pytest.approx(-log_p[1])
    assert float(smooth) == pytest.approx(-(0.7 * log_p[1] + 0.1 * sum(log_p)))


def test_scopes_of_the_activity_bounds():
    counts = (torch.tensor([[0.0, 4.0], [2.0, 8.0]]),)  # means 1 and 6, of the layer 3.5

    def loss(**fields: object) -> float:
        return float(activity_loss(counts, ActivitySpec.model_validate(fields)))

    low, high = {"lower_strength": 1.0, "lower": 4.0}, {"upper_strength": 1.0, "upper": 2.0}
    assert loss(**low) == pytest.approx(9 / 2)
    assert loss(**low, lower_scope="layer") == pytest.approx(0.25)
    assert loss(**high) == pytest.approx(1.5**2)
    assert loss(**high, upper_scope="unit") == pytest.approx(16 / 2)


def test_one_cycle_rises_for_three_tenths_and_falls_to_almost_nothing():
    spec = TrainSpec(epochs=20, lr=0.1, schedule="one-cycle")
    rates = [learning_rate(spec, epoch) for epoch in range(1, 21)]
    top = max(range(20), key=rates.__getitem__)
    assert top in (5, 6)
    assert max(rates) == pytest.approx(0.1, rel=0.02)
    assert rates[0] == pytest.approx(0.1 / 25)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 2e-3


def test_warm_up_multiplies_any_schedule():
    plain = TrainSpec(epochs=10, lr=0.1, schedule="cosine")
    warm = plain.model_copy(update={"warmup_epochs": 3})
    ratios = [learning_rate(warm, e) / learning_rate(plain, e) for e in range(1, 11)]
    assert ratios == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 7])
    assert learning_rate(plain, 1) == 0.1
    assert math.isclose(learning_rate(plain, 6), 0.05)
