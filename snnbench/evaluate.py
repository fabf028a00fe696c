"""Deterministic passes of a network over a split: predictions, their work, and how early they are right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from snnbench.data_prep.batch import EventBatch, events_of_steps
from snnbench.data_prep.loader import SpikeLoader
from snnbench.data_prep.spikes import Spikes
from snnbench.metrics import Counts
from snnbench.model_spec import ModelSpec
from snnbench.models.network_base import Network
from snnbench.record import Footprint, LayerWork, Moment, Operations
from snnbench.seeding import deterministic
from snnbench.sizes import (
    EVALUATION_BATCH,
    LayerSize,
    decision_steps,
    operations_by_layer,
    total,
)
from snnbench.spec import RunSpec


class Evaluation(NamedTuple):
    """Predictions in the split's order, and the work per sample."""

    predictions: NDArray[np.uint16]
    """Class with the largest logit, shape (sample,)."""
    operations: Operations
    """Without spikes where no layer spikes."""
    activation_sparsity: dict[str, float]
    """Share of units and time steps without a spike, for every layer that spikes."""


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
    sizes = sizes_of(network)
    arriving = input_spikes / len(loader)
    by_layer = operations_by_layer(
        sizes, n_steps=n_steps, input_spikes=arriving, hidden_spikes=list(spikes.values())
    )
    operations = Operations(
        spikes=spikes,
        **total(by_layer)._asdict(),
        layers={
            size.name: LayerWork(**work._asdict())
            for size, work in zip(sizes, by_layer, strict=True)
        },
    )
    units = {size.name: size.n_units for size in sizes}
    quiet = {name: 1 - n / (units[name] * n_steps) for name, n in spikes.items()}
    return Evaluation(predictions, operations, quiet)


def accuracy_over_time(network: Network, loader: SpikeLoader, spec: RunSpec) -> list[Moment]:
    """Accuracy if each sample ends after so many tenths of its duration, but for the last.

    A spiking network is given the time steps up to there. A baseline, which looks at a sample as a whole, is
    given silence from there on.
    """
    whole = not isinstance(spec.model, ModelSpec)
    ends = decision_steps(spec.n_steps)
    correct = dict.fromkeys(ends, 0)
    with deterministic(), evaluating(network), torch.inference_mode():
        for batch in loader.event_batches(EVALUATION_BATCH):
            for end in ends:
                seen = events_of_steps(batch, 0, end)
                if whole:
                    seen = followed_by_silence(seen, spec.n_steps)
                hits = network(seen).logits.argmax(dim=1) == batch.labels
                correct[end] += int(hits.sum())
    return [
        Moment(
            seen_s=min(end * spec.train.dt_s, spec.task.duration_s),
            test=Counts(correct=n, total=len(loader)),
        )
        for end, n in correct.items()
    ]


def followed_by_silence(batch: EventBatch, n_steps: int) -> EventBatch:
    """A batch that has `n_steps` time steps, the further ones without spikes."""
    counts = batch.indptr.diff().view(batch.n_samples, batch.n_steps)
    counts = nn.functional.pad(counts, (0, n_steps - batch.n_steps))
    indptr = nn.functional.pad(counts.flatten().cumsum(0), (1, 0))
    return batch._replace(indptr=indptr, n_steps=n_steps)


def footprint(network: Network, activation_sparsity: dict[str, float]) -> Footprint:
    """Memory of a network's parameters and buffers, and the share of its weights that are exactly 0.

    Weights are all parameters with two axes or more: what a spike or an activity is multiplied by.
    """
    tensors = [*network.parameters(), *network.buffers()]
    weights = [p.detach() for p in network.parameters() if p.dim() > 1]
    n_weights = sum(w.numel() for w in weights)
    zeros = sum(int((w == 0).sum()) for w in weights)
    return Footprint(
        n_bytes=sum(t.numel() * t.element_size() for t in tensors),
        connection_sparsity=zeros / n_weights if n_weights else 0.0,
        activation_sparsity=activation_sparsity,
    )


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
