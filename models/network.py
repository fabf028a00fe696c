"""A spiking network: stacked spiking layers and a leaky readout, made from a ModelSpec."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from snnbench.models.layers import SpikingLayer
from snnbench.models.readout import LeakyReadout
from snnbench.spec import ModelSpec


class NetworkOutput(NamedTuple):
    """What training and evaluation need from one pass."""

    logits: Tensor
    """Shape (batch, class)."""
    spike_counts: tuple[Tensor, ...]
    """Spikes per sample and unit of every hidden layer, each of shape (batch, unit)."""


class SpikingNetwork(nn.Module):
    """Hidden spiking layers and a readout. Holds weights only: state lives within one forward pass."""

    def __init__(self, layers: list[SpikingLayer], readout: LeakyReadout) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.readout = readout

    @property
    def layer_names(self) -> list[str]:
        """Names of the hidden layers in reports: hidden1, hidden2, ..."""
        return [f"hidden{i}" for i in range(1, len(self.layers) + 1)]

    @property
    def n_parameters(self) -> int:
        """Number of trained weights."""
        return sum(p.numel() for p in self.parameters())

    def forward(self, spikes: Tensor, dropout: torch.Generator | None = None) -> NetworkOutput:
        """Classify input spikes of shape (time, batch, channel).

        `dropout` gives the noise of training; None, as in evaluation, silences no unit.
        """
        hidden = self.hidden_spikes(spikes, dropout)
        return NetworkOutput(self.readout(hidden[-1]), tuple(h.sum(dim=0) for h in hidden))

    def hidden_spikes(self, spikes: Tensor, dropout: torch.Generator | None = None) -> list[Tensor]:
        """Spikes of every hidden layer, each of shape (time, batch, unit)."""
        hidden = []
        for layer in self.layers:
            spikes = layer(spikes, dropout)
            hidden.append(spikes)
        return hidden


def build(
    spec: ModelSpec, n_inputs: int, n_outputs: int, dt_s: float, generator: torch.Generator
) -> SpikingNetwork:
    """A network with fresh weights, on the CPU.

    Parameters
    ----------
    spec
        The model.
    n_inputs, n_outputs
        Input channels and classes.
    dt_s
        Width of a time bin in s, from which the decays follow.
    generator
        Where the initial weights come from (on the CPU, so that every device begins the same).
    """
    sizes = (n_inputs, *spec.hidden)
    layers = [SpikingLayer(below, size, spec, dt_s, generator) for below, size in pairwise(sizes)]
    return SpikingNetwork(
        layers, LeakyReadout(spec.hidden[-1], n_outputs, spec.readout, dt_s, generator)
    )
