"""Whether a spiking network's loss has a slope in its weights, told by moving them a little."""

from __future__ import annotations

import pytest
import torch

from snnbench.studies import true_gradient

MOVED_BY = 1e-9


@pytest.fixture(scope="module")
def network_and_patterns():
    spikes, labels = true_gradient.patterns(0)
    # in double precision a move this small takes no membrane across its threshold
    return true_gradient.make_network(0).double(), spikes.double(), labels


def loss_of(network, spikes, labels):
    return torch.nn.functional.cross_entropy(network(spikes).logits, labels)


def slopes(network, spikes, labels, weight):
    """Symmetric difference quotients of the loss, a column of inputs at a time."""
    found = []
    with torch.no_grad():
        for column in range(0, weight.shape[1], 10):
            ends = []
            for sign in (1, -1):
                before = weight.clone()
                weight[:, column] += sign * MOVED_BY
                ends.append(loss_of(network, spikes, labels).item())
                weight.copy_(before)
            found.append((ends[0] - ends[1]) / (2 * MOVED_BY))
    return found


def test_the_loss_is_flat_in_hidden_weights_and_not_in_the_readouts(network_and_patterns):
    network, spikes, labels = network_and_patterns
    hidden, readout = network.layers[0].weight, network.readout.weight
    assert slopes(network, spikes, labels, hidden) == [0.0] * 10
    assert all(abs(s) > 1e-4 for s in slopes(network, spikes, labels, readout))


def test_the_surrogate_has_a_slope_in_hidden_weights_and_the_true_one_in_the_readouts(
    network_and_patterns,
):
    network, spikes, labels = network_and_patterns
    hidden, readout = network.layers[0].weight, network.readout.weight
    of_hidden, of_readout = torch.autograd.grad(loss_of(network, spikes, labels), (hidden, readout))
    assert (of_hidden != 0).any(dim=1).all()  # every hidden unit hears of the error
    # no spike lies between the readout and the loss: its gradient is the true one in both arms
    assert slopes(network, spikes, labels, readout) == pytest.approx(
        of_readout[:, ::10].sum(dim=0).tolist(), rel=1e-4
    )
