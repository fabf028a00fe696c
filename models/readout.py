"""The readout: a leaky integrator per class, whose largest membrane over time is the class's logit.

The units follow the hidden neurons' update without spikes and reset,

    I[n + 1] = alpha I[n] + W S[n],    U[n + 1] = beta U[n] + I[n],    logit = max_n U[n],

and a softmax of the logits with cross-entropy is the loss (Cramer et al. 2020; the maximum as in the
tempotron). The maximum passes the gradient on to one time step only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snnbench.models.engines import Engine
from snnbench.models.layers import initial_weight
from snnbench.models.neurons.leaky import LEAKY, Parameters
from snnbench.models.neurons.lif import decay
from snnbench.models.scan import scan
from snnbench.models.scan_types import Cell, ScanResult
from snnbench.spec import ReadoutSpec


class LeakyReadout(nn.Module):
    """Leaky integrators without spikes.

    Parameters
    ----------
    n_in, n_classes
        Units of the last hidden layer, classes.
    spec
        Time constants.
    dt_s
        Width of a time bin.
    generator
        Where the initial weights come from.
    """

    def __init__(
        self, n_in: int, n_classes: int, spec: ReadoutSpec, dt_s: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.cell = Cell(
            LEAKY, Parameters(decay(dt_s, spec.tau_syn_s), decay(dt_s, spec.tau_mem_s))
        )
        self.weight = initial_weight(
            n_classes,
            n_in,
            gain=1.0,
            tau_mem_s=spec.tau_mem_s,
            tau_syn_s=spec.tau_syn_s,
            dt_s=dt_s,
            generator=generator,
        )

    def forward(
        self,
        drive: Tensor,
        *,
        state: Any = None,
        keep_membranes: bool = False,
        engine: Engine = "auto",
    ) -> ScanResult:
        """What the integrators do with a drive of shape (time, batch, class): spikes through this readout's
        weight. The result's `peaks` are the logits.
        """
        return scan(
            drive,
            None,
            None,
            self.cell,
            state=state,
            keep_membranes=keep_membranes,
            keep_peaks=True,
            engine=engine,
        )
