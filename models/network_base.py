"""What training and evaluation ask of a network, whether or not its units spike."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from snnbench.data_prep.batch import EventBatch
from snnbench.models.engines import Engine
from snnbench.sizes import LayerSize


class NetworkOutput(NamedTuple):
    """What training and evaluation need from one pass."""

    logits: Tensor
    """Shape (batch, class)."""
    spike_counts: tuple[Tensor, ...]
    """Spikes per sample and unit of every hidden layer that spikes, each of shape (batch, unit)."""


class Network(nn.Module):
    """From input spikes to one logit per class."""

    engine: Engine = "auto"
    """Implementation of the scan, in spiking layers; no part of a spec, since all of them agree."""

    @property
    def layer_names(self) -> list[str]:
        """Names in reports of the hidden layers that spike, in the order of `NetworkOutput.spike_counts`."""
        return []

    @property
    def parts(self) -> list[tuple[str, nn.Module]]:
        """Modules that run one after the other, the readout last, by their names in reports."""
        raise NotImplementedError

    @property
    def n_parameters(self) -> int:
        """Number of trained weights."""
        return sum(p.numel() for p in self.parameters())

    def layer_sizes(self) -> list[LayerSize]:
        """Sizes of the layers that the network really has, the readout last."""
        raise NotImplementedError

    def begin_epoch(self, share_of_training: float) -> None:
        """What changes from epoch to epoch, when this share of them is over."""

    def constrain(self) -> None:
        """Put what a step of the optimiser took out of its range back into it."""

    def hidden_spikes(
        self, inputs: Tensor | EventBatch, dropout: torch.Generator | None = None
    ) -> list[Tensor]:
        """Spikes of every layer of `layer_names`, each of shape (time, batch, unit)."""
        return []

    def forward(
        self, inputs: Tensor | EventBatch, dropout: torch.Generator | None = None
    ) -> NetworkOutput:
        """Classify input spikes, as events or of shape (time, batch, channel).

        `dropout` gives the noise of training; None, as in evaluation, silences no unit.
        """
        raise NotImplementedError
