"""One deterministic pass of a network over a split: predictions, and the work they took."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from snnbench.data_prep.loader import SpikeLoader
from snnbench.data_prep.spikes import Spikes
from snnbench.models.layers import SpikingLayer
from snnbench.models.network import SpikingNetwork
from snnbench.record import Operations
from snnbench.seeding import deterministic
from snnbench.spec import RunSpec

# Samples at once. Fixed, and no part of a spec: in the last bits a matrix product depends on its size,
# so one number for everybody keeps a network's predictions the same.
EVALUATION_BATCH = 256


class Evaluation(NamedTuple):
    """Predictions in the split's order, and the work per sample."""

    predictions: NDArray[np.uint16]
    """Class with the largest logit, shape (sample,)."""
    operations: Operations


def predict(
    network: SpikingNetwork, split: Spikes, spec: RunSpec, device: torch.device
) -> Evaluation:
    """Classify every sample of a split once, without dropout. `network` must be on `device`."""
    return predict_loader(network, SpikeLoader(split, spec, device))


def predict_loader(
    network: SpikingNetwork, loader: SpikeLoader, batch_size: int = EVALUATION_BATCH
) -> Evaluation:
    """As `predict`, for spikes that are binned already."""
    predictions = np.empty(len(loader), dtype=np.uint16)
    n_steps, n_input_spikes = 0, 0.0
    hidden_spikes = np.zeros(len(network.layers))
    with deterministic(), torch.inference_mode():
        for spikes, _, indices in loader.batches(batch_size):
            output = network(spikes)
            predictions[indices.numpy()] = output.logits.argmax(dim=1).cpu().numpy()
            n_steps = len(spikes)
            n_input_spikes += spikes.sum(dtype=torch.float64).item()
            hidden_spikes += [c.sum(dtype=torch.float64).item() for c in output.spike_counts]
    return Evaluation(
        predictions,
        count_operations(
            network,
            n_steps=n_steps,
            input_spikes=n_input_spikes / len(loader),
            hidden_spikes=list(hidden_spikes / len(loader)),
        ),
    )


def count_operations(
    network: SpikingNetwork, *, n_steps: int, input_spikes: float, hidden_spikes: list[float]
) -> Operations:
    """Work per sample from mean spike counts per sample.

    Dense: every weight does one multiply-accumulate in each of `n_steps` steps. Effective: every spike
    does one accumulate for each weight that leaves its unit, to the next layer and, with recurrence, to
    its own; an input bin with k spikes counts k. Decays, resets and the maximum are not counted.
    """
    layers = [layer for layer in network.layers if isinstance(layer, SpikingLayer)]
    sources = [input_spikes, *hidden_spikes]
    feedforward = [*(layer.weight for layer in layers), network.readout.weight]
    recurrent = [layer.recurrent_weight for layer in layers]
    n_weights = sum(w.numel() for w in [*feedforward, *recurrent] if w is not None)
    fan_out = [w.shape[0] for w in feedforward]
    for i, weight in enumerate(recurrent):
        if weight is not None:
            fan_out[i + 1] += weight.shape[0]
    return Operations(
        spikes=dict(zip(network.layer_names, hidden_spikes, strict=True)),
        dense_macs=float(n_weights * n_steps),
        effective_acs=sum(n * out for n, out in zip(sources, fan_out, strict=True)),
    )
