"""Learning rules as three factors: what the synapse knows of its input, of its neuron, and what it is told.

A synapse from unit j to unit i gathers, over the steps n of a block,

    m_ij = sum over n of lambda_ij(n) third_i(n),   lambda_ij = eligibility filter of post_i(n) pre_j(n)

and each factor is a plug-in: `pre` and `eligibility` are filters, `post` a function of membrane and spikes,
`third` an error trace or none. A new rule is a new `Rule`, and needs no kernel:

    >>> anti = Rule("anti-hebb", post=lambda membrane, spikes, neuron: -spikes, third=None)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from snnbench.errors import SnnbenchError, unknown_name
from snnbench.models.online.constants import Neuron, require_times
from snnbench.models.surrogate import triangle

if TYPE_CHECKING:
    from torch import Tensor

PostFactor = Callable[[Any, Any, Neuron], Any]
"""post(membrane_mv, spikes, neuron): two tensors (time, seed, unit) to a third; membranes after reset."""


@dataclass(frozen=True)
class Filter:
    """A double exponential, exp(-t / decay_s) - exp(-t / rise_s) up to scale; rise 0 is a single one.

    With both 0 what comes in comes out at once.
    """

    rise_s: float
    decay_s: float

    def check(self, dt_s: float) -> None:
        """Raise a SnnbenchError where a time constant is shorter than a step, but not 0."""
        require_times(self, dt_s, *(n for n in ("rise_s", "decay_s") if getattr(self, n) != 0))


@dataclass(frozen=True)
class Rule:
    """A three-factor rule; `snnbench.models.superspike.Learner` runs it."""

    name: str
    post: PostFactor
    pre: Filter = field(default_factory=lambda: Filter(rise_s=5e-3, decay_s=10e-3))
    """Of presynaptic spikes; rise and decay as of the potential that a spike evokes."""
    eligibility: Filter = field(default_factory=lambda: Filter(0.0, 0.0))
    """Of the product of both factors, in every synapse."""
    third: Filter | None = field(default_factory=lambda: Filter(0.0, 0.0))
    """Of the error impulses that reach a unit; None for a rule without a third factor."""
    cutoff: float = 1e-7
    """Traces and errors up to here count as 0."""

    def check(self, dt_s: float) -> None:
        """Raise a SnnbenchError where a filter is faster than a step."""
        for part in (self.pre, self.eligibility, *([self.third] if self.third else ())):
            part.check(dt_s)


@dataclass(frozen=True)
class SurrogateOfMembrane:
    """sigma'(U) = 1 / (1 + beta |U - threshold|)^2, 0 below `floor_mv` (Zenke & Ganguli 2018, eq. 6)."""

    beta_per_mv: float = 1.0
    floor_mv: float = -80.0

    def __call__(self, membrane_mv: Tensor, spikes: Tensor, neuron: Neuron) -> Tensor:
        # `superspike` and the floor, in place: new memory for every step of it would take twice as long
        factor = membrane_mv - neuron.threshold_mv
        factor.abs_().mul_(self.beta_per_mv).add_(1).square_().reciprocal_()
        return factor.mul_(membrane_mv.clone().ge_(self.floor_mv))


def constant(membrane_mv: Tensor, spikes: Tensor, neuron: Neuron) -> Tensor:
    """1 whatever the membrane does: the linear control."""
    import torch

    return torch.ones_like(membrane_mv)


def own_spikes(membrane_mv: Tensor, spikes: Tensor, neuron: Neuron) -> Tensor:
    """1 in the step of a spike: what fires together."""
    return spikes


@dataclass(frozen=True)
class TriangleOfMembrane:
    """max(0, 1 - |U - threshold| / (threshold - rest)) times 0.3 (Bellec et al. 2020, eq. 5)."""

    peak: float = 0.3

    def __call__(self, membrane_mv: Tensor, spikes: Tensor, neuron: Neuron) -> Tensor:
        width = neuron.threshold_mv - neuron.rest_mv
        return self.peak * triangle(membrane_mv - neuron.threshold_mv, 1 / width)


SUPERSPIKE = Rule(
    "superspike",
    post=SurrogateOfMembrane(),
    eligibility=Filter(rise_s=5e-3, decay_s=10e-3),
    third=Filter(rise_s=5e-3, decay_s=10e-3),
)
"""Zenke & Ganguli 2018, eqs. 7 to 10: surrogate, and error and eligibility through one kernel."""

E_PROP = Rule(
    "e-prop",
    post=TriangleOfMembrane(),
    eligibility=Filter(rise_s=0.0, decay_s=10e-3),
    third=Filter(rise_s=0.0, decay_s=10e-3),
)
"""Bellec et al. 2020 for LIF neurons (eqs. 22 to 24): pseudo-derivative, one exponential for eligibility as
for the output trace that the learning signal compares."""

HEBB = Rule("hebb", post=own_spikes, third=None)
"""What fires together wires together: presynaptic trace at a spike, nobody tells right from wrong."""

RULES = {rule.name: rule for rule in (SUPERSPIKE, E_PROP, HEBB)}


def rule_named(name: str) -> Rule:
    """A rule of `RULES`.

    Raises
    ------
    UsageError
        Unknown; near names are suggested.
    """
    if name not in RULES:
        raise unknown_name("rule", name, RULES)
    return RULES[name]


def post_factor(rule: Rule, membrane_mv: Tensor, spikes: Tensor, neuron: Neuron) -> Tensor:
    """The rule's postsynaptic factor (time, seed, unit), checked for its shape.

    Raises
    ------
    SnnbenchError
        It has another shape than the membranes.
    """
    factor: Tensor = rule.post(membrane_mv, spikes.to(membrane_mv.dtype), neuron)
    if factor.shape != membrane_mv.shape:
        raise SnnbenchError(
            f"rule {rule.name}: its post factor has shape {tuple(factor.shape)}, "
            f"the membranes {tuple(membrane_mv.shape)}"
        )
    return factor
