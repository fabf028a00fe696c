"""Activity regularisers of Cramer et al. 2020: keep neurons from falling silent and from firing always."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snnbench.spec import ActivitySpec


def activity_loss(spike_counts: Sequence[Tensor], spec: ActivitySpec) -> Tensor:
    """Sum over layers of the lower and the upper bound's penalty; a scalar.

    With z_i the mean count of unit i over the batch, a layer adds
    lower_strength * mean_i relu(lower - z_i)^2 + upper_strength * relu(mean_i z_i - upper)^2:
    the lower bound holds for every unit, the upper one for the layer's mean, unless the spec's scopes say
    otherwise.

    Parameters
    ----------
    spike_counts
        Spikes per sample and unit of every hidden layer, each of shape (batch, unit); 0 where none spikes.
    spec
        Bounds in spikes per sample, and strengths.
    """
    total = spike_counts[0].new_zeros(()) if spike_counts else torch.zeros(())
    if not (spec.lower_strength or spec.upper_strength):
        return total  # the same bits without some twenty operations in every step
    for counts in spike_counts:
        units = counts.mean(dim=0)
        low, high = (
            units if scope == "unit" else units.mean()
            for scope in (spec.lower_scope, spec.upper_scope)
        )
        total = total + spec.lower_strength * torch.relu(spec.lower - low).square().mean()
        total = total + spec.upper_strength * torch.relu(high - spec.upper).square().mean()
    return total
