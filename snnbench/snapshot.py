"""What a network is and does at one moment: weights, constants, delays, firing rates, spikes of one sample.

Two snapshots, of the network as the seed made it and of the chosen epoch, show what training has changed.
They look at validation samples: the test split is opened once, for the result, and not for pictures.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snnbench.data_prep.batch import EventBatch
from snnbench.data_prep.loader import SpikeLoader
from snnbench.evaluate import evaluating
from snnbench.models.constants import UnitConstant
from snnbench.models.layers import SpikingLayer
from snnbench.models.network import SpikingNetwork
from snnbench.models.network_base import Network
from snnbench.seeding import deterministic
from snnbench.sizes import EVALUATION_BATCH
from snnbench.spec import RunSpec

_NORM_PARTS = {"weight": "factor", "bias": "shift"}


class Raster(NamedTuple):
    """Where a layer spiked in one sample."""

    bins: NDArray[np.int64]
    """Time bins with spikes, shape (place,)."""
    units: NDArray[np.int64]
    """The units that spiked in them, shape (place,)."""
    n_units: int
    n_spikes: int
    """Of the input more than places, where a bin holds several."""


class UnitValues(NamedTuple):
    """A constant that every unit of a layer has for itself."""

    values: NDArray[np.float32]
    """In the unit of the constant's name (`tau_mem_s` in s), shape (unit,)."""
    low: float
    high: float
    """Bounds, which no value leaves."""
    learned: bool
    logarithmic: bool
    """Whether it is drawn and trained on a logarithmic scale."""


class Snapshot(NamedTuple):
    """A network at one moment. Layers go by `Network.layer_names`: those that spike; there may be none."""

    weights: dict[str, NDArray[np.float32]]
    """All trained numbers but constants and delays, in their shapes, by what they lead from and to: `input to
    hidden1`, `within hidden1`, of shape (to, from)."""
    matrices: dict[str, NDArray[np.float32]]
    """Weights of spiking layers as they are at work, of shape (unit, input), by the same names: a delay line
    has one for each tap, `hidden1 to hidden2, 50 ms later`, and those of a convolution stand at every place
    where they are used."""
    rates_hz: dict[str, NDArray[np.float64]]
    """Mean rate of every unit over the samples, one array of shape (unit,) per hidden layer that spikes."""
    activity_hz: dict[str, NDArray[np.float64]]
    """Mean rate of a unit in every bin, over units and samples: of the input and every hidden layer that
    spikes, each of shape (step,)."""
    constants: dict[str, dict[str, UnitValues]]
    """Of the layers whose units have constants of their own, by layer and by the name in the spec."""
    delays_s: dict[str, NDArray[np.float32]]
    """Delays of connections that have them, of shape (unit, input), by what they lead from and to."""
    sample: int
    """Which sample of the split the rasters show."""
    rasters: dict[str, Raster]
    """Of the input and every hidden layer that spikes."""
    predicted: int
    """Class that the network gives this sample."""


def take_snapshot(
    network: Network, loader: SpikeLoader, spec: RunSpec, sample: int = 0
) -> Snapshot:
    """Look at a network on up to 256 samples, spread evenly over a split.

    Parameters
    ----------
    network
        On the loader's device.
    loader
        The split, binned as in evaluation.
    spec
        The run's: duration of a sample and width of a bin, for the rates.
    sample
        Index in the split of the sample that the rasters show.
    """
    n = min(len(loader), EVALUATION_BATCH)
    spread = torch.arange(n) * len(loader) // n
    # a sample that is none of these comes last, and counts in no rate
    indices = spread if sample in spread else torch.cat([spread, torch.tensor([sample])])
    shown = indices.tolist().index(sample)
    with deterministic(), evaluating(network), torch.inference_mode():
        batch = loader.event_batch(indices)
        names = network.layer_names
        hidden = dict(zip(names, network.hidden_spikes(batch) if names else (), strict=True))
        logits = network(batch).logits
        raster = {"input": loader.batch(indices[shown : shown + 1]).spikes[:, 0]}
        raster |= {name: spikes[:, shown] for name, spikes in hidden.items()}
        activity = {"input": _input_activity(batch, n)}
        activity |= {
            name: spikes[:, :n].double().mean(dim=(1, 2)) for name, spikes in hidden.items()
        }
        return Snapshot(
            weights={
                _leads(name, len(names)): _array(p)
                for name, p in network.named_parameters()
                if not _is_constant_or_delay(name)
            },
            matrices=_matrices(network),
            rates_hz={
                name: spikes[:, :n].sum(dim=0).double().mean(dim=0).cpu().numpy()
                / spec.task.duration_s
                for name, spikes in hidden.items()
            },
            activity_hz={
                name: spikes.cpu().numpy() / spec.train.dt_s for name, spikes in activity.items()
            },
            constants={
                name: values
                for name, layer in _spiking_layers(network).items()
                if (values := _constants(layer.per_unit))
            },
            delays_s={
                connection: _array(delays)
                for connection, layer in zip(
                    _feedforward(names), _spiking_layers(network).values(), strict=True
                )
                if (delays := layer.delays_s) is not None
            },
            sample=sample,
            rasters={name: _raster(spikes) for name, spikes in raster.items()},
            predicted=int(logits[shown].argmax()),
        )


def _spiking_layers(network: nn.Module) -> dict[str, SpikingLayer]:
    """By name; empty for a network without spikes."""
    layers = [module for module in network.modules() if isinstance(module, SpikingLayer)]
    return {f"hidden{i}": layer for i, layer in enumerate(layers, start=1)}


def _matrices(network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Of hidden layers and the readout of a spiking network, from the input on."""
    layers = _spiking_layers(network)
    matrices: dict[str, NDArray[np.float32]] = {}
    for connection, (name, layer) in zip(_feedforward([*layers]), layers.items(), strict=True):
        matrices |= {connection + words: _array(w) for words, w in layer.matrices().items()}
        if (within := layer.recurrence) is not None:
            matrices[f"within {name}"] = _array(within)
    if isinstance(network, SpikingNetwork):
        matrices[f"hidden{len(layers)} to readout"] = _array(network.readout.weight)
    return matrices


def _feedforward(names: list[str]) -> list[str]:
    """What leads to each of these layers."""
    return [f"{below} to {name}" for below, name in zip(["input", *names], names, strict=False)]


def _input_activity(batch: EventBatch, n: int) -> Tensor:
    """Mean spikes of a channel in each bin over the first n samples, shape (step,)."""
    in_bins = batch.indptr.diff().view(-1, batch.n_steps)[:n]
    return in_bins.double().mean(dim=0) / batch.n_channels


def _constants(per_unit: nn.ModuleDict) -> dict[str, UnitValues]:
    return {
        name: UnitValues(
            _array(constant()),
            constant.low,
            constant.high,
            isinstance(constant.raw, nn.Parameter),
            constant.logarithmic,
        )
        for name, constant in per_unit.items()
        if isinstance(constant, UnitConstant)
    }


def _array(tensor: Tensor) -> NDArray[np.float32]:
    """A copy, which stays as it is when the network trains on."""
    array: NDArray[np.float32] = tensor.detach().cpu().numpy().copy()
    return array


def _raster(spikes: Tensor) -> Raster:
    """Of spikes of shape (time, unit)."""
    bins, units = spikes.nonzero(as_tuple=True)
    return Raster(bins.cpu().numpy(), units.cpu().numpy(), spikes.shape[1], int(spikes.sum()))


def _is_constant_or_delay(parameter: str) -> bool:
    """Whether a parameter is shown as what it stands for, and not among the weights."""
    parts = parameter.split(".")
    return "per_unit" in parts or parts[-1] == "position"


def _leads(parameter: str, n_layers: int) -> str:
    """A weight's name in words; the name it has where no layer spikes, and of other parameters."""
    if n_layers == 0:
        return parameter
    if parameter == "readout.weight":
        return f"hidden{n_layers} to readout"
    if parameter.startswith("readout.norm."):
        return f"{_NORM_PARTS[parameter.rpartition('.')[2]]} of readout"
    head, _, rest = parameter.partition(".")
    number, _, what = rest.partition(".")
    if head != "layers" or not number.isdecimal():
        return parameter
    name, below = f"hidden{int(number) + 1}", "input" if number == "0" else f"hidden{number}"
    if what in ("weight", "afferent.weight"):
        return f"{below} to {name}"
    if what in ("recurrent_weight", "lateral.kernel"):
        return f"within {name}"
    if what.startswith("norm."):
        return f"{_NORM_PARTS[what.rpartition('.')[2]]} of {name}"
    return parameter
