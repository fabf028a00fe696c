"""One deterministic pass of a network over a split: predictions, and the work they took."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from snnbench.data_prep.loader import SpikeLoader
from snnbench.data_prep.spikes import Spikes
from snnbench.models.network_base import Network
from snnbench.record import Operations
from snnbench.seeding import deterministic
from snnbench.sizes import EVALUATION_BATCH, LayerSize, count_operations
from snnbench.spec import RunSpec


class Evaluation(NamedTuple):
    """Predictions in the split's order, and the work per sample."""

    predictions: NDArray[np.uint16]
    """Class with the largest logit, shape (sample,)."""
    operations: Operations
    """Without spikes where no layer spikes."""


def predict(network: Network, split: Spikes, spec: RunSpec, device: torch.device) -> Evaluation:
    """Classify every sample of a split once, without dropout. `network` must be on `device`."""
    return predict_loader(network, SpikeLoader(split, spec, device))


def predict_loader(
    network: Network, loader: SpikeLoader, batch_size: int = EVALUATION_BATCH
) -> Evaluation:
    """As `predict`, for spikes that are binned already."""
    predictions = np.empty(len(loader), dtype=np.uint16)
    n_steps, input_spikes = 0, 0
    hidden_spikes = np.zeros(len(network.layer_names))
    with deterministic(), evaluating(network), torch.inference_mode():
        for batch in loader.event_batches(batch_size):
            output = network(batch)
            predictions[batch.indices.numpy()] = output.logits.argmax(dim=1).cpu().numpy()
            n_steps, input_spikes = batch.n_steps, input_spikes + len(batch.channels)
            hidden_spikes += [c.sum(dtype=torch.float64).item() for c in output.spike_counts]
    spikes = dict(zip(network.layer_names, hidden_spikes / len(loader), strict=True))
    work = count_operations(
        sizes_of(network),
        n_steps=n_steps,
        input_spikes=input_spikes / len(loader),
        hidden_spikes=list(spikes.values()),
    )
    return Evaluation(predictions, Operations(spikes=spikes, **work._asdict()))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """A network's normalisations take the figures that they gathered in training, and gather none."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def sizes_of(network: Network) -> list[LayerSize]:
    """Sizes of the layers that a network really has, the readout last."""
    return network.layer_sizes()
