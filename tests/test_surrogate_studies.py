"""Studies of surrogates: what a true gradient passes on, the data they make, verdicts on made-up numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from snnbench.data_prep.convert import convert
from snnbench.data_prep.store import SpikeDataset
from snnbench.studies import (
    sparse_mnist,
    surrogate_grid,
    surrogate_shape,
    surrogate_slope,
    true_gradient,
)
from tests.commands import snnbench
from tests.tiny_images import image_recipe, write_images


class PlainSurrogate(torch.autograd.Function):
    """A spike whose derivative is 1 / (100 |x| + 1)^2."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return grad / (100 * x.abs() + 1) ** 2


def plain_step(x: torch.Tensor) -> torch.Tensor:
    """The spike itself: nothing leads back from it."""
    return (x > 0).to(x)


def plain_gradients(seed: int, spike: Any) -> tuple[float, list[torch.Tensor | None]]:
    """Loss and gradients at first: the tutorial's equations step by step, with autograd."""
    network = true_gradient.make_network(seed)
    w_in, w_out = (w.detach().double().requires_grad_() for w in network.parameters())
    spikes, labels = true_gradient.patterns(seed)
    alpha, beta = np.exp(-1 / 5), np.exp(-1 / 10)
    current = membrane = torch.zeros(256, 4, dtype=torch.float64)
    out_current = out = torch.zeros(256, 2, dtype=torch.float64)
    outs = []
    for drive in spikes.double() @ w_in.T:
        outs.append(out)
        s = spike(membrane - 1)
        membrane = (beta * membrane + current) * (1 - s.detach())
        current = alpha * current + drive
        out = beta * out + out_current
        out_current = alpha * out_current + s @ w_out.T
    loss = torch.nn.functional.cross_entropy(torch.stack(outs).max(0).values, labels)
    return loss.item(), list(torch.autograd.grad(loss, (w_in, w_out), allow_unused=True))


@pytest.mark.parametrize("seed", [0, 1])
def test_gradients_are_those_of_the_tutorials_equations(seed):
    network = true_gradient.make_network(seed)
    spikes, labels = true_gradient.patterns(seed)
    loss = torch.nn.functional.cross_entropy(network(spikes).logits, labels)
    loss.backward()
    plain_loss, plain = plain_gradients(seed, PlainSurrogate.apply)
    assert loss.item() == pytest.approx(plain_loss, abs=1e-5)
    for weight, expected in zip(network.parameters(), plain, strict=True):
        assert weight.grad is not None
        assert expected is not None
        torch.testing.assert_close(weight.grad.double(), expected, rtol=0, atol=1e-5)


def test_the_true_gradient_passes_nothing_to_hidden_weights_and_the_same_to_the_readout():
    """Autograd of the step itself: no way back to hidden weights. The readout's gradient needs none."""
    _, (hidden, readout) = plain_gradients(0, plain_step)
    _, (hidden_surrogate, readout_surrogate) = plain_gradients(0, PlainSurrogate.apply)
    assert hidden is None
    assert hidden_surrogate is not None
    assert hidden_surrogate.abs().max() > 1e-3
    torch.testing.assert_close(readout, readout_surrogate, rtol=0, atol=0)


def test_with_the_true_gradient_hidden_weights_stay_and_with_a_surrogate_they_move():
    moved = {}
    for arm in true_gradient.ARMS:
        before = {n: w.clone() for n, w in true_gradient.make_network(0).named_parameters()}
        seen: dict[str, torch.Tensor] = {}
        original = true_gradient.make_network

        def kept(seed: int, seen: dict = seen, original: Any = original) -> Any:
            network = original(seed)
            seen.update(dict(network.named_parameters()))
            return network

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(true_gradient, "make_network", kept)
            a = {"arm": arm, "seed": 0, "epochs": 2, "lr": 2e-3}
            true_gradient.train(a, lambda f: None, None)  # type: ignore[arg-type]
        moved[arm] = {n: not torch.equal(w, before[n]) for n, w in seen.items()}
    hidden = [n for n in moved["surrogate"] if n.startswith("layers")]
    readout = [n for n in moved["surrogate"] if not n.startswith("layers")]
    assert hidden
    assert readout
    assert all(moved["surrogate"][n] for n in hidden + readout)
    assert not any(moved["true gradient"][n] for n in hidden)
    assert all(moved["true gradient"][n] for n in readout)


def test_patterns_are_poisson_of_their_rate():
    spikes, labels = true_gradient.patterns(0)
    assert spikes.shape == (200, 256, 100)
    assert float(spikes.mean()) == pytest.approx(5e-3, rel=0.02)
    assert set(labels.tolist()) == {0, 1}
    assert torch.equal(spikes, true_gradient.patterns(0)[0])


def test_manifolds_have_one_spike_a_unit_within_50_ms():
    (x, y), valid, test = surrogate_grid._manifolds(0, 40)
    assert x.shape == (100, 400, 20)
    assert (x.sum(0) == 1).all()
    assert x[50:].sum() == 0
    assert torch.bincount(y).tolist() == [40] * 10
    assert len(valid[1]) == len(test[1]) == 10 * surrogate_grid.HELD
    again = surrogate_grid._manifolds(1, 40)[0][0]
    assert not torch.equal(x, again)


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_grids_network_learns_manifolds(recurrent):
    a = surrogate_grid.task(
        "fast sigmoid", 10.0, 5e-3, seed=0, epochs=20, per_class=40, hidden=50, recurrent=recurrent
    )
    found = surrogate_grid.train(a, lambda f: None, None)  # type: ignore[arg-type]
    assert found["accuracy"] > 0.4
    assert found["finite"]
    assert found["hidden_spikes"] > 0


def test_a_bound_on_activity_takes_spikes_away():
    free, bound = (
        surrogate_grid.train(
            surrogate_grid.task(
                "fast sigmoid", 10.0, 5e-3, seed=0, epochs=6, per_class=40, hidden=50, upper=0.1,
                upper_strength=strength,
            ),
            lambda f: None,
            None,  # type: ignore[arg-type]
        )
        for strength in (0.0, 10.0)
    )  # fmt: skip
    assert bound["hidden_spikes"] < 0.5 * free["hidden_spikes"]


def arm(mean: float) -> dict[str, Any]:
    return {"accuracy": {"mean": mean, "half_width_95": 0.01}}


@pytest.mark.parametrize(
    ("surrogate", "true", "seen"), [(0.86, 0.51, True), (0.79, 0.51, False), (0.86, 0.61, False)]
)
def test_verdict_on_the_true_gradient(surrogate, true, seen):
    numbers = {"arms": {"surrogate": arm(surrogate), "true gradient": arm(true)}}
    assert true_gradient.judge(true_gradient.Parameters(), numbers).seen is seen


@pytest.mark.parametrize(("worst", "seen"), [(0.951, True), (0.93, False)])
def test_verdict_on_shapes(worst, seen):
    shapes = {shape: arm(0.96) for shape in surrogate_grid.SHAPES} | {"triangle": arm(worst)}
    each = {shape: {**of, "each": [of["accuracy"]["mean"]] * 2} for shape, of in shapes.items()}
    numbers = {
        "sets": {surrogate_shape.MANIFOLDS: each},
        "apart": {surrogate_shape.MANIFOLDS: surrogate_shape._apart(each)},
    }
    assert numbers["apart"][surrogate_shape.MANIFOLDS]["worst"] == "triangle"
    assert surrogate_shape.judge(surrogate_shape.Parameters(), numbers).seen is seen


@pytest.mark.parametrize(
    ("at_slope_1", "steep_through", "seen"),
    [(0.9, 0.5, True), (0.8, 0.5, False), (0.9, 0.88, False)],
)
def test_verdict_on_slopes(at_slope_1, steep_through, seen):
    slopes = [1.0, 10.0, 100.0]
    flat = [[0.92, 0.92]] * 3
    numbers = {
        "slopes": slopes,
        "accuracy": {
            "fast sigmoid": {
                "neither": flat,
                "reset": flat,
                "recurrence": [[at_slope_1] * 2, *flat[1:]],
            },
            "asymptotic": {
                "neither": flat,
                "reset": [*flat[:2], [steep_through] * 2],
                "recurrence": [[0.4, 0.4]] * 3,
            },
        },
    }
    assert surrogate_slope.judge(surrogate_slope.Parameters(), numbers).seen is seen


@pytest.mark.parametrize(
    ("free", "spikes", "accuracy", "seen"),
    [
        (0.96, 40, 0.95, True),
        (0.96, 70, 0.95, False),
        (0.96, 40, 0.93, False),
        (0.5, 40, 0.5, False),  # nothing is lost where nothing was learnt
    ],
)
def test_verdict_on_few_spikes(free, spikes, accuracy, seen):
    points = {
        "0": {**arm(free), "hidden_spikes": 300.0, "lost": arm(0.0)["accuracy"]},
        "1": {
            **arm(accuracy),
            "hidden_spikes": float(spikes),
            "lost": arm(free - accuracy)["accuracy"],
        },
    }

    def verdict(name: str) -> bool | None:
        numbers = {"sets": {name: points}}
        return sparse_mnist.judge(sparse_mnist.Parameters(), numbers).seen

    assert verdict("MNIST") is seen
    assert verdict("random manifolds") is None
    assert verdict("Fashion-MNIST") is None
    points["0"]["hidden_spikes"], points["1"]["hidden_spikes"] = 10.0, 300.0
    assert verdict("MNIST") is False  # none is no strength


def test_images_are_read_in_their_bins(tmp_path):
    path = tmp_path / "mnist-latency.h5"
    convert(image_recipe("mnist-latency"), write_images(tmp_path / "source"), path, workers=1)
    (x, y), *_ = surrogate_grid._mnist(str(path), 1)
    assert x.shape == (surrogate_grid.STEPS, 10, 784)
    assert len(y) == 10
    with SpikeDataset.open(path) as dataset:
        part = dataset.split("train").read(0, 10)
    first = slice(0, part.offsets[1])
    assert int(x[:, 0].sum()) == part.offsets[1]  # a pixel fires once
    steps = np.minimum((part.times[first] / 1e-3).astype(int), 99)
    assert x[steps, 0, part.units[first]].all()


@pytest.mark.parametrize(
    "name",
    ["true-gradient", "surrogate-shape", "surrogate-slope", "sparse-mnist", "credit-families"],
)
def test_a_trial_walks_the_whole_way(tmp_path, name):
    result = snnbench(
        "reproduce", "run", name, "--trial", "--out", tmp_path, "--workers", "1", "--json"
    )
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert answer["seen"] is None
    assert "generated" in answer["numbers"]["data"]
    assert np.isfinite(len(answer["files"]))
