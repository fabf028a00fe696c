"""EventProp: spikes as events, and the exact gradient of their times (Wunderlich & Pehle 2021, table 1).

    tau_mem dV/dt = I - V,    tau_syn dI/dt = -I,    an input spike adds its weight to I,
    V = 1 is a spike and sets V to 0

Two adjoint variables run backwards in time, t' = -t, from the last event:

    tau_mem dlV/dt' = -lV,    tau_syn dlI/dt' = lV - lI

With V'- and V'+ the slopes before and after, an output spike at t_k, on which the loss L may depend, and an
input spike at t_j with weight w have

    lV-  =  V'+ / V'- lV+  +  1 / (tau_mem V'-) dL/dt_k
    dL/dw  gets  -tau_syn lI,    dL/dt_j  gets  w (lV - lI)

The last is the dL/dt_k of the layer below. Here tau_mem = 2 tau_syn, for which with x = exp(-t / tau_mem) the
membrane is V = (V0 + I0) x - I0 x^2, and the next spike is the larger root of V = 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

TAU_SYN_S = 5e-3
TAU_MEM_S = 2 * TAU_SYN_S
LATE_S = 0.1
"""When a neuron that stays silent counts as firing, without a gradient."""
EARLY = 3e-2
"""Weight of the loss's second term."""


class Event(NamedTuple):
    """What comes next in each neuron, all (sample, unit); a neuron that is done has neither."""

    fires: Tensor
    arrives: Tensor
    at_s: Tensor
    current: Tensor
    """Before the event."""
    place: Tensor
    """Of the input spike, among those of the sample."""


def spike_times(times_s: Tensor, weights: Tensor) -> Tensor:
    """Spikes of a layer, (sample, unit, count), of those of its inputs (sample, input, count).

    inf stands for no spike; weights (unit, input).
    """
    in_order, order = times_s.flatten(1).sort(1)
    weight_of = weights[:, order // times_s.shape[2]].transpose(0, 1)
    found: Tensor = _Layer.apply(in_order, weight_of)
    return found


def loss_of(times_s: Tensor, labels: Tensor, *, tau_s: float = 5e-3) -> Tensor:
    """Cross-entropy of minus the first spikes' times, and a term that pulls the right one forward.

    The second term, too, is the paper's. It keeps spikes alive: a gradient of spike times knows nothing of
    spikes that come or go, and without the term the outputs fell silent one after the other.
    """
    first_s = times_s[..., 0].clamp(max=LATE_S)
    right_s = first_s.gather(1, labels[:, None])
    late = torch.expm1(right_s / TAU_MEM_S).mean()
    return torch.nn.functional.cross_entropy(-first_s / tau_s, labels) + EARLY * late


def events(in_order_s: Tensor, weight_of: Tensor) -> list[Event]:
    """Of input spikes (sample, spike) in order, with weights (sample, unit, spike)."""
    coming = torch.nn.functional.pad(in_order_s, (0, 1), value=torch.inf)
    weight_of = torch.nn.functional.pad(weight_of, (0, 1))
    membrane = torch.zeros_like(weight_of[..., 0])
    current, now = membrane.clone(), membrane.clone()
    place = torch.zeros_like(membrane, dtype=torch.long)
    found: list[Event] = []
    while True:
        input_s, own_s = coming.gather(1, place), now + _until_spike(membrane, current)
        fires = own_s < input_s
        arrives = ~fires & input_s.isfinite()
        if not (fires | arrives).any():
            return found
        at = torch.where(fires, own_s, torch.where(arrives, input_s, now))
        x = torch.exp((now - at) / TAU_MEM_S)
        membrane = torch.where(fires, 0.0, (membrane + current * (1 - x)) * x)
        current = current * x**2
        found.append(Event(fires, arrives, at, current, place))
        gained = weight_of.gather(2, place[..., None]).squeeze(2)
        current = current + torch.where(arrives, gained, 0.0)
        place, now = place + arrives, at


def _until_spike(membrane: Tensor, current: Tensor) -> Tensor:
    half = (membrane + current) / 2
    under_root = half**2 - current
    crosses = (current > 0) & (current > membrane) & (under_root > 0)
    x = (half + under_root.clamp(min=0).sqrt()) / torch.where(crosses, current, 1.0)
    return torch.where(crosses, -TAU_MEM_S * x.clamp(1e-300, 1.0).log(), torch.inf)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, in_order_s: Tensor, weight_of: Tensor) -> Tensor:
        ctx.events = events(in_order_s, weight_of)
        ctx.save_for_backward(weight_of)
        count = torch.zeros_like(weight_of[..., 0], dtype=torch.long)
        ctx.numbers = []  # of an event's spike, among those of its neuron
        for event in ctx.events:
            ctx.numbers.append(count)
            count = count + event.fires
        out = weight_of.new_full((*count.shape, max(int(count.max()), 1)), torch.inf)
        for event, number in zip(ctx.events, ctx.numbers, strict=True):
            sample, unit = event.fires.nonzero(as_tuple=True)
            out[sample, unit, number[sample, unit]] = event.at_s[sample, unit]
        return out

    @staticmethod
    def backward(ctx: Any, *wanted: Tensor) -> tuple[Tensor, Tensor]:
        (weight_of,) = ctx.saved_tensors
        weight_of = torch.nn.functional.pad(weight_of, (0, 1))
        by_time = torch.nn.functional.pad(wanted[0], (0, 1))
        of_weight, of_time = torch.zeros_like(weight_of), torch.zeros_like(weight_of)
        l_v = torch.zeros_like(weight_of[..., 0])
        l_i, later = l_v.clone(), l_v
        for event, number in zip(reversed(ctx.events), reversed(ctx.numbers), strict=True):
            fires, arrives, at, current, place = event
            x = torch.exp((at - later).clamp(max=0) / TAU_MEM_S)
            l_i = (l_i * x + 2 * l_v * (1 - x)) * x
            l_v, later = l_v * x, at
            # tau_mem V' is I - 1 before a spike and I after it
            jumped = (
                current * l_v + by_time.gather(2, number[..., None]).squeeze(2)
            ) / torch.where(fires, current - 1, 1.0)
            l_v = torch.where(fires, jumped, l_v)
            weight = weight_of.gather(2, place[..., None]).squeeze(2)
            for total, part in ((of_weight, -TAU_SYN_S * l_i), (of_time, weight * (l_v - l_i))):
                total.scatter_add_(2, place[..., None], (arrives * part)[..., None])
        return of_time[..., :-1].sum(1), of_weight[..., :-1]
