"""What a network is and does at one moment: its weights, its units' firing rates, spikes of one sample.

Two snapshots, of the network as the seed made it and of the chosen epoch, show what training has changed.
They look at validation samples: the test split is opened once, for the result, and not for pictures.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from snnbench.data_prep.loader import SpikeLoader
from snnbench.evaluate import evaluating
from snnbench.models.network_base import Network
from snnbench.seeding import deterministic
from snnbench.sizes import EVALUATION_BATCH


class Raster(NamedTuple):
    """Where a layer spiked in one sample."""

    bins: NDArray[np.int64]
    """Time bins with spikes, shape (place,)."""
    units: NDArray[np.int64]
    """The units that spiked in them, shape (place,)."""
    n_units: int
    n_spikes: int
    """Of the input more than places, where a bin holds several."""


class Snapshot(NamedTuple):
    """A network at one moment."""

    weights: dict[str, NDArray[np.float32]]
    """All trained numbers, flat, by what they lead from and to: `input to hidden1`, `within hidden1`."""
    rates_hz: dict[str, NDArray[np.float64]]
    """Mean rate of every unit over the samples, one array of shape (unit,) per hidden layer that spikes."""
    sample: int
    """Which sample of the split the rasters show."""
    rasters: dict[str, Raster]
    """Of the input and every hidden layer that spikes."""
    predicted: int
    """Class that the network gives this sample."""


def take_snapshot(network: Network, loader: SpikeLoader, duration_s: float) -> Snapshot:
    """Look at a network on up to 256 samples, spread evenly over a split; the first is the raster's.

    Parameters
    ----------
    network
        On the loader's device.
    loader
        The split, binned as in evaluation.
    duration_s
        Of a sample, for the rates.
    """
    n = min(len(loader), EVALUATION_BATCH)
    indices = torch.arange(n) * len(loader) // n
    with deterministic(), evaluating(network), torch.inference_mode():
        batch = loader.event_batch(indices)
        hidden = dict(zip(network.layer_names, network.hidden_spikes(batch), strict=True))
        logits = network(batch).logits
        first = {"input": loader.batch(indices[:1]).spikes, **hidden}
        return Snapshot(
            weights={
                _leads(name, len(network.layer_names)): p.detach().flatten().cpu().numpy().copy()
                for name, p in network.named_parameters()
            },
            rates_hz={
                name: spikes.sum(dim=0).double().mean(dim=0).cpu().numpy() / duration_s
                for name, spikes in hidden.items()
            },
            sample=int(indices[0]),
            rasters={name: _raster(spikes[:, 0]) for name, spikes in first.items()},
            predicted=int(logits[0].argmax()),
        )


def _raster(spikes: torch.Tensor) -> Raster:
    """Of spikes of shape (time, unit)."""
    bins, units = spikes.nonzero(as_tuple=True)
    return Raster(bins.cpu().numpy(), units.cpu().numpy(), spikes.shape[1], int(spikes.sum()))


def _leads(parameter: str, n_layers: int) -> str:
    """A weight's name in words; the name it has where no layer spikes, and of other parameters."""
    if n_layers == 0:
        return parameter
    if parameter == "readout.weight":
        return f"hidden{n_layers} to readout"
    _, _, rest = parameter.partition(".")
    number, _, what = rest.partition(".")
    if what == "weight":
        below = "input" if number == "0" else f"hidden{number}"
        return f"{below} to hidden{int(number) + 1}"
    if what == "recurrent_weight":
        return f"within hidden{int(number) + 1}"
    return parameter
