"""The whole-sequence operator: a layer's spikes for all time steps from its projected input.

This is the reference: plain PyTorch and autograd, one step after the other. Whatever computes the same
faster has to agree with it, in spikes and in gradients.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from snnbench.models.neurons import LIFParameters, lif_at_rest, lif_update
from snnbench.models.surrogate import Surrogate


class ScanResult(NamedTuple):
    """What a layer did, each of shape (time, batch, unit)."""

    spikes: Tensor
    membranes: Tensor | None
    """U[n] as the spikes of the same step saw it; None unless asked for."""


def scan(
    drive: Tensor,
    recurrent_weight: Tensor | None,
    parameters: LIFParameters,
    surrogate: Surrogate,
    *,
    gate: Tensor | None = None,
    keep_membranes: bool = False,
) -> ScanResult:
    """Run a layer of LIF neurons over all time steps, from rest.

    Parameters
    ----------
    drive
        Feedforward drive W S_in, shape (time, batch, unit): the input already through the weights.
    recurrent_weight
        V, shape (unit, unit): row i holds the weights onto neuron i. None without recurrence.
    parameters, surrogate
        The neuron's constants and its spike with a derivative for the backward pass.
    gate
        Factor on every spike a neuron sends, to its own layer as well, shape (batch, unit): dropout.
    keep_membranes
        Whether to return the membranes too.
    """
    weight_t = None if recurrent_weight is None else recurrent_weight.t()
    all_spikes, all_membranes = [], []
    state = lif_at_rest(drive[0])
    # unbind, not drive[n]: the backward of an index fills a tensor of the whole sequence's size
    for drive_n in drive.unbind(0):
        spikes = surrogate(state.membrane, parameters.threshold)
        sent = spikes if gate is None else spikes * gate
        if weight_t is not None:
            drive_n = torch.addmm(drive_n, sent, weight_t)
        all_spikes.append(sent)
        if keep_membranes:
            all_membranes.append(state.membrane)
        state = lif_update(drive_n, spikes, state, parameters)
    return ScanResult(
        torch.stack(all_spikes), torch.stack(all_membranes) if keep_membranes else None
    )
