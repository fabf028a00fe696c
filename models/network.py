"""A spiking network: stacked spiking layers and a leaky readout; and any network, made from its spec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from snnbench.baseline_spec import AnyModelSpec
from snnbench.data_prep.batch import EventBatch, events_of_steps
from snnbench.model_spec import ModelSpec, SpikingReadoutSpec
from snnbench.models.baselines import build_baseline
from snnbench.models.delays import LearnedDelays
from snnbench.models.layers import SpikingLayer
from snnbench.models.network_base import Network, NetworkOutput
from snnbench.models.precision import Precision
from snnbench.models.readout import LeakyReadout, SpikingReadout
from snnbench.models.scan import sizes_of
from snnbench.sizes import LayerSize


class _Stretch(NamedTuple):
    """What a stretch of time steps gives."""

    partial: Tensor
    """The readout's part of the logits, (batch, class)."""
    spike_counts: tuple[Tensor, ...]
    states: tuple[Any, ...]
    """Of all layers and the readout after the stretch."""


class SpikingNetwork(Network):
    """Hidden spiking layers and a readout. Holds weights only: state lives within one forward pass.

    Parameters
    ----------
    layers, readout
        From the input to the output.
    recompute_steps
        With a number, time is cut into stretches of so many steps. The forward pass keeps only the state
        between stretches, and the backward pass computes each stretch again before it goes through it: less
        memory for more time. Without, everything the backward pass needs is kept.
    precision
        Of the dense products, see `snnbench.models.precision`.
    """

    def __init__(
        self,
        layers: list[SpikingLayer],
        readout: LeakyReadout | SpikingReadout,
        *,
        recompute_steps: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.readout = readout
        self.recompute_steps = recompute_steps
        self.precision: Precision = precision

    @property
    def layer_names(self) -> list[str]:
        """Names of the hidden layers in reports: hidden1, hidden2, ..."""
        return [f"hidden{i}" for i in range(1, len(self.layers) + 1)]

    @property
    def parts(self) -> list[tuple[str, nn.Module]]:
        """Hidden layers and readout, by their names in reports."""
        return [*zip(self.layer_names, self.layers, strict=True), ("readout", self.readout)]

    def layer_sizes(self) -> list[LayerSize]:
        """Sizes of the layers that are really here, the readout last."""
        hidden = zip(self.layer_names, self.spiking_layers, strict=True)
        n_classes, n_units = self.readout.weight.shape
        n_others = sum(p.numel() for p in self.readout.parameters()) - n_classes * n_units
        return [
            *(layer.size(name) for name, layer in hidden),
            LayerSize("readout", n_units, n_classes, recurrent=False, n_others=n_others),
        ]

    def begin_epoch(self, share_of_training: float) -> None:
        """As `Network.begin_epoch`: the width in which learned delays spread spikes."""
        for layer in self.spiking_layers:
            if isinstance(layer.afferent, LearnedDelays):
                layer.afferent.begin_epoch(share_of_training)

    def constrain(self) -> None:
        """As `Network.constrain`: learned delays."""
        for layer in self.spiking_layers:
            if isinstance(layer.afferent, LearnedDelays):
                layer.afferent.constrain()

    def forward(
        self, inputs: Tensor | EventBatch, dropout: torch.Generator | None = None
    ) -> NetworkOutput:
        """As `Network.forward`."""
        n_steps, n_batch = sizes_of(inputs)
        gates = self.draw_gates(n_batch, dropout)
        if self.recompute_steps is None or self.recompute_steps >= n_steps:
            stretch = self._stretch(inputs, gates, self._at_rest)
            logits = self.readout.finish(stretch.partial[None], n_steps)
            return NetworkOutput(logits, stretch.spike_counts)
        partials, counts, states = [], [], self._at_rest
        for first in range(0, n_steps, self.recompute_steps):
            part = _steps(inputs, first, min(n_steps, first + self.recompute_steps))
            stretch = checkpoint(
                self._stretch, part, gates, states, use_reentrant=False, preserve_rng_state=False
            )
            partials.append(stretch.partial)
            counts.append(stretch.spike_counts)
            states = stretch.states
        return NetworkOutput(
            self.readout.finish(torch.stack(partials), n_steps),
            tuple(sum(layer[1:], layer[0]) for layer in zip(*counts, strict=False)),
        )

    def hidden_spikes(
        self, inputs: Tensor | EventBatch, dropout: torch.Generator | None = None
    ) -> list[Tensor]:
        """As `Network.hidden_spikes`."""
        hidden: list[Tensor] = []
        gates = self.draw_gates(sizes_of(inputs)[1], dropout)
        for layer, gate in zip(self.spiking_layers, gates, strict=True):
            below = hidden[-1] if hidden else inputs
            result = layer(
                below,
                weight=layer.incoming_weight,
                gate=gate,
                keep_spikes=True,
                engine=self.engine,
                precision=self.precision,
            )
            hidden.append(result.spikes)
        return hidden

    def _stretch(
        self, inputs: Tensor | EventBatch, gates: Sequence[Tensor | None], states: Sequence[Any]
    ) -> _Stretch:
        counts, after = [], []
        weight, *onward = self.weights_in_turn
        for layer, gate, state, outgoing in zip(
            self.spiking_layers, gates, states[:-1], onward, strict=True
        ):
            result = layer(
                inputs,
                weight=weight,
                outgoing_weight=outgoing,
                gate=gate,
                state=state,
                keep_spikes=outgoing is None,
                engine=self.engine,
                precision=self.precision,
            )
            # the next layer's drive, or spikes if its weights are not all that they go through
            inputs, weight = result.passed_on, None
            counts.append(result.counts)
            after.append(result.state)
        out = self.readout(inputs, state=states[-1], engine=self.engine)
        return _Stretch(out.partial, tuple(counts), (*after, out.state))

    def draw_gates(self, n_batch: int, dropout: torch.Generator | None) -> list[Tensor | None]:
        """Of every hidden layer, as `SpikingLayer.draw_gate`."""
        return [layer.draw_gate(n_batch, dropout) for layer in self.spiking_layers]

    @property
    def weights_in_turn(self) -> list[Tensor | None]:
        """What spikes go through onto each layer and onto the readout, as `SpikingLayer.incoming_weight`."""
        return [*(layer.incoming_weight for layer in self.spiking_layers), self.readout.weight]

    @property
    def spiking_layers(self) -> list[SpikingLayer]:
        """The hidden layers, from the input on."""
        return [layer for layer in self.layers if isinstance(layer, SpikingLayer)]

    @property
    def _at_rest(self) -> tuple[None, ...]:
        return (None,) * (len(self.layers) + 1)


def _steps(inputs: Tensor | EventBatch, first: int, stop: int) -> Tensor | EventBatch:
    if isinstance(inputs, EventBatch):
        return events_of_steps(inputs, first, stop)
    return inputs[first:stop]


@overload
def build(
    spec: ModelSpec,
    n_inputs: int,
    n_outputs: int,
    dt_s: float,
    generator: torch.Generator,
    *,
    recompute_steps: int | None = None,
    precision: Precision = "float32",
) -> SpikingNetwork: ...


@overload
def build(
    spec: AnyModelSpec,
    n_inputs: int,
    n_outputs: int,
    dt_s: float,
    generator: torch.Generator,
    *,
    recompute_steps: int | None = None,
    precision: Precision = "float32",
) -> Network: ...


def build(
    spec: AnyModelSpec,
    n_inputs: int,
    n_outputs: int,
    dt_s: float,
    generator: torch.Generator,
    *,
    recompute_steps: int | None = None,
    precision: Precision = "float32",
) -> Network:
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
    recompute_steps, precision
        As in `SpikingNetwork`; of no other network.
    """
    if not isinstance(spec, ModelSpec):
        return build_baseline(spec, n_inputs, n_outputs, generator)
    connections = spec.connections(n_inputs)
    layers = [SpikingLayer(c, spec, dt_s, generator) for c in connections]
    n_last = connections[-1].n_units
    readout: LeakyReadout | SpikingReadout
    if isinstance(spec.readout, SpikingReadoutSpec):
        readout = SpikingReadout(n_last, n_outputs, spec.readout, spec, dt_s, generator)
    else:
        readout = LeakyReadout(n_last, n_outputs, spec.readout, dt_s, generator)
    return SpikingNetwork(layers, readout, recompute_steps=recompute_steps, precision=precision)
