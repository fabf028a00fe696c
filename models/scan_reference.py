"""The scan as plain PyTorch: one step after the other, differentiated by autograd.

This is the truth. Whatever computes the same faster has to agree with it, in spikes and in gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnbench.models.neuron import make_reset
from snnbench.models.precision import Precision, product
from snnbench.models.scan_types import Cell, ScanResult, peaks_over_time


def scan_drive(
    drive: Tensor,
    recurrent_weight: Tensor | None,
    cell: Cell,
    state: Any,
    gate: Tensor | None = None,
    outgoing_weight: Tensor | None = None,
    precision: Precision = "float32",
) -> ScanResult:
    """Run neurons over all steps of a drive of shape (time, batch, unit), from `state`.

    Parameters and result are those of `snnbench.models.scan.scan`.
    """
    neuron, p = cell.neuron, cell.parameters
    all_spikes, all_membranes = [], []
    # unbind, not drive[n]: the backward of an index fills a tensor of the whole sequence's size
    for drive_n in drive.unbind(0):
        spikes = torch.zeros_like(drive_n)
        if neuron.distance is not None and cell.surrogate is not None:
            spikes = cell.surrogate(neuron.distance(state, p))
        sent = spikes if gate is None else spikes * gate
        all_spikes.append(sent)
        all_membranes.append(state.membrane)
        if recurrent_weight is not None:
            heard = sent if cell.gradient_through_recurrence else sent.detach()
            drive_n = torch.addmm(drive_n, heard, recurrent_weight.t())
        reset_by = spikes if cell.gradient_through_reset else spikes.detach()
        state = neuron.step(drive_n, spikes, state, p, make_reset(cell.reset, reset_by))
    membranes, sent_by_all = torch.stack(all_membranes), torch.stack(all_spikes)
    projected = membranes.new_empty(*membranes.shape[:2], 0)
    counts = sent_by_all.sum(dim=0)
    if neuron.distance is None:
        sent_by_all, counts = sent_by_all[:0], counts[:0]
    elif outgoing_weight is not None:
        projected = product(sent_by_all, outgoing_weight, precision)
    return ScanResult(sent_by_all, counts, projected, membranes, peaks_over_time(membranes), state)
