"""Readouts: from what the last hidden layer sends to one logit per class.

The leaky readout has an integrator per class. Its units follow the hidden neurons' update without spikes
and reset,

    I[n + 1] = alpha I[n] + W S[n],    U[n + 1] = beta U[n] + I[n],

and a class's logit is, over the steps n, the maximum of U (Cramer et al. 2020; as in the tempotron: the
gradient goes to one step), its last value, sum or mean, or

    sum_n exp(U_c[n]) / sum_k exp(U_k[n])                              (Hammouamri et al. 2024)

With normalisation W S[n] is brought to mean 0 and variance 1 for each class first, and multiplied by a
trained factor that begins at (1 - alpha) (1 - beta): a drive of 1 that lasts brings the membrane to 1.

The spiking readouts have a LIF neuron per class. With S its spikes the logit is their number, or minus the
time of the first one,

    -dt / scale * sum_n prod_{m <= n} (1 - S[m])

which counts the steps before it, has the surrogate's gradient through every factor, and is the whole
duration where no spike comes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snnbench.model_spec import LifSpec, ModelSpec, ReadoutSpec, SpikingReadoutSpec
from snnbench.models.engines import Engine
from snnbench.models.kinds import decay, kind_of
from snnbench.models.layers import initial_weight, make_norm
from snnbench.models.neurons.leaky import LEAKY, Parameters
from snnbench.models.scan import scan
from snnbench.models.scan_types import Cell, ScanResult
from snnbench.models.surrogate import make_surrogate


class ReadoutResult(NamedTuple):
    """What a readout makes of a stretch of time steps."""

    partial: Tensor
    """For each sample and class, (batch, class); `finish` makes logits of those of all stretches."""
    state: Any
    """After the stretch."""


class LeakyReadout(nn.Module):
    """Leaky integrators without spikes.

    Parameters
    ----------
    n_in, n_classes
        Units of the last hidden layer, classes.
    spec
        Time constants, and what becomes of the membranes.
    dt_s
        Width of a time bin.
    generator
        Where the initial weights come from.
    """

    def __init__(
        self, n_in: int, n_classes: int, spec: ReadoutSpec, dt_s: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        alpha, beta = decay(dt_s, spec.tau_syn_s), decay(dt_s, spec.tau_mem_s)
        self.cell = Cell(LEAKY, Parameters(alpha, beta))
        self.reduce = spec.reduce
        # what a scan has to keep for `reduced`
        self.keep_spikes, self.keep_peaks = False, spec.reduce == "max"
        self.keep_membranes = not self.keep_peaks
        self.norm = make_norm(spec.norm, n_classes, (1 - alpha) * (1 - beta))
        self.weight = initial_weight(
            n_classes,
            n_in,
            gain=1.0,
            tau_mem_s=spec.tau_mem_s,
            inverse_area=(1 - alpha, 1 - beta),
            dt_s=dt_s,
            generator=generator,
        )

    def forward(
        self, drive: Tensor, *, state: Any = None, engine: Engine = "auto"
    ) -> ReadoutResult:
        """What the integrators do with a drive of shape (time, batch, class): spikes through this readout's
        weight.
        """
        result = scan(
            self.arriving(drive),
            None,
            None,
            self.cell,
            state=state,
            keep_membranes=self.keep_membranes,
            keep_peaks=self.keep_peaks,
            engine=engine,
        )
        return ReadoutResult(self.reduced(result), result.state)

    def arriving(self, drive: Tensor) -> Tensor:
        """What the scan is given: the drive, normalised where the spec asks for it."""
        normed: Tensor = drive if self.norm is None else self.norm(drive)
        return normed

    def reduced(self, result: ScanResult) -> Tensor:
        """What a stretch of time steps came to, (batch, class), from what the scan has kept."""
        if self.keep_peaks:
            return result.peaks
        membranes = result.membranes
        if self.reduce == "last":
            return membranes[-1]
        if self.reduce == "softmax-sum":
            membranes = membranes.softmax(dim=2)
        return membranes.sum(dim=0)

    def finish(self, partials: Tensor, n_steps: int) -> Tensor:
        """Logits (batch, class) from those of all stretches, (stretch, batch, class), of `n_steps` steps."""
        if self.reduce == "max":
            # no copy where there is one
            return partials[0] if len(partials) == 1 else partials.max(dim=0).values
        if self.reduce == "last":
            return partials[-1]
        total = partials.sum(dim=0)
        return total / n_steps if self.reduce == "mean" else total


class SpikingReadout(nn.Module):
    """LIF neurons whose spikes are counted, or whose first spike counts. Parameters as in `LeakyReadout`."""

    def __init__(
        self,
        n_in: int,
        n_classes: int,
        spec: SpikingReadoutSpec,
        model: ModelSpec,
        dt_s: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        neuron = LifSpec(
            tau_mem_s=spec.tau_mem_s, tau_syn_s=spec.tau_syn_s, threshold=spec.threshold
        )
        kind = kind_of(neuron, dt_s)
        constants = kind.parameters(
            {
                "tau_mem_s": spec.tau_mem_s,
                "tau_syn_s": spec.tau_syn_s,
                "threshold": spec.threshold,
            }
        )
        self.cell = Cell(kind.neuron, constants, make_surrogate(model.surrogate))
        self.counts = spec.kind == "spike-count"
        # what a scan has to keep for `reduced`
        self.keep_spikes, self.keep_membranes, self.keep_peaks = not self.counts, False, False
        self.steps_to_logit = -dt_s / spec.scale_s
        self.weight = initial_weight(
            n_classes,
            n_in,
            gain=1.0,
            tau_mem_s=spec.tau_mem_s,
            inverse_area=kind.inverse_area(constants),
            dt_s=dt_s,
            generator=generator,
        )

    def forward(
        self, drive: Tensor, *, state: Any = None, engine: Engine = "auto"
    ) -> ReadoutResult:
        """What the neurons do with a drive of shape (time, batch, class)."""
        result = scan(
            drive, None, None, self.cell, state=state, keep_spikes=self.keep_spikes, engine=engine
        )
        return ReadoutResult(self.reduced(result), result.state)

    def arriving(self, drive: Tensor) -> Tensor:
        """What the scan is given."""
        return drive

    def reduced(self, result: ScanResult) -> Tensor:
        """What a stretch of time steps came to, (batch, class), from what the scan has kept."""
        if self.counts:
            return result.counts
        silent = (1 - result.spikes).cumprod(dim=0)
        return silent.sum(dim=0)

    def finish(self, partials: Tensor, n_steps: int) -> Tensor:
        """Logits (batch, class); with first-spike there is one stretch only, see `snnbench.spec`."""
        total = partials.sum(dim=0)
        return total if self.counts else total * self.steps_to_logit
