"""The readout: a leaky integrator per class, whose largest membrane over time is the class's logit.

The units follow the hidden neurons' update without spikes and reset,

    I[n + 1] = alpha I[n] + W S[n],    U[n + 1] = beta U[n] + I[n],    logit = max_n U[n],

and a softmax of the logits with cross-entropy is the loss (Cramer et al. 2020; the maximum as in the
tempotron). The maximum passes the gradient on to one time step only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snnbench.models.layers import initial_weight
from snnbench.models.neurons import decay, impulse_response
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
        self.alpha, self.beta = decay(dt_s, spec.tau_syn_s), decay(dt_s, spec.tau_mem_s)
        self.weight = initial_weight(
            n_classes,
            n_in,
            gain=1.0,
            tau_mem_s=spec.tau_mem_s,
            tau_syn_s=spec.tau_syn_s,
            dt_s=dt_s,
            generator=generator,
        )

    def membranes(self, spikes: Tensor) -> Tensor:
        """U[n] for spikes of shape (time, batch, unit); shape (time, batch, class)."""
        drive = nn.functional.linear(spikes, self.weight)
        # linear in the drive, so all steps are one product with the impulse response
        kernel = impulse_matrix(self.alpha, self.beta, len(drive)).to(drive)
        return (kernel @ drive.flatten(1)).view_as(drive)

    def forward(self, spikes: Tensor) -> Tensor:
        """Logits of shape (batch, class)."""
        return self.membranes(spikes).max(dim=0).values


def impulse_matrix(alpha: float, beta: float, n_steps: int) -> Tensor:
    """K with U = K D: K[n, m] is the membrane at n after a drive of 1 at m; float64, (time, time)."""
    response = torch.tensor(impulse_response(alpha, beta, n_steps), dtype=torch.float64)
    lag = torch.arange(n_steps)[:, None] - torch.arange(n_steps)[None, :]
    return torch.where(lag >= 0, response[lag.clamp(min=0)], 0.0)
