"""Kinds of neurons as a specification names them: which `Neuron` each is, and its constants in a bin width.

Besides a file in `snnbench.models.neurons` and a specification in `snnbench.model_spec`, this is what a new
kind needs to stand in a TOML file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from snnbench.model_spec import (
    AdlifSpec,
    LifDeltaSpec,
    LifSpec,
    PerUnit,
    PositivePerUnit,
    SeAdlifSpec,
)
from snnbench.models.neuron import Neuron
from snnbench.models.neurons import adlif, lif, lif_delta, lif_refractory, se_adlif

AnySpec = LifSpec | LifDeltaSpec | AdlifSpec | SeAdlifSpec


@dataclass(frozen=True)
class Kind:
    """A kind of neuron, at a bin width."""

    neuron: Neuron
    parameters: Callable[[Mapping[str, Any]], Any]
    """From the specification's constants by name, numbers or tensors of shape (unit,), to `Parameters`."""
    inverse_area: Callable[[Any], tuple[float, ...]]
    """From plain `Parameters`: factors whose product is 1 / A, with A the sum over steps of the membrane's
    response to a drive of 1 in one step, without spikes and adaptation. The scale of initial weights."""


def kind_of(spec: AnySpec, dt_s: float) -> Kind:
    """What a neuron's specification means in bins of `dt_s`."""

    def fade(tau_s: Any) -> Any:
        return decay(dt_s, tau_s)

    def synaptic(p: Any) -> tuple[float, ...]:
        return (1 - p.alpha, 1 - p.beta)

    if isinstance(spec, LifSpec) and spec.refractory_s:
        period = float(max(1, round(spec.refractory_s / dt_s)))
        return Kind(
            lif_refractory.LIF_REFRACTORY,
            lambda c: lif_refractory.Parameters(
                fade(c["tau_syn_s"]), fade(c["tau_mem_s"]), c["threshold"], period
            ),
            synaptic,
        )
    if isinstance(spec, LifSpec):
        return Kind(
            lif.LIF,
            lambda c: lif.Parameters(fade(c["tau_syn_s"]), fade(c["tau_mem_s"]), c["threshold"]),
            synaptic,
        )
    if isinstance(spec, LifDeltaSpec):
        return Kind(
            lif_delta.LIF_DELTA,
            lambda c: lif_delta.Parameters(fade(c["tau_mem_s"]), c["threshold"]),
            lambda p: (1 - p.beta,),
        )
    if isinstance(spec, SeAdlifSpec):
        return Kind(
            se_adlif.SE_ADLIF,
            lambda c: se_adlif.Parameters(
                fade(c["tau_mem_s"]), fade(c["tau_adapt_s"]), c["a"], c["b"], spec.q, c["threshold"]
            ),
            lambda _: (),
        )
    return Kind(
        adlif.ADLIF,
        lambda c: adlif.Parameters(
            fade(c["tau_mem_s"]), fade(c["tau_adapt_s"]), c["a"], c["b"], c["threshold"]
        ),
        lambda _: (),
    )


def constants_of(spec: AnySpec) -> dict[str, float | PerUnit]:
    """The constants of a specification that may differ from unit to unit, by name."""
    names = ("tau_mem_s", "tau_syn_s", "tau_adapt_s", "a", "b", "threshold")
    return {name: getattr(spec, name) for name in names if hasattr(spec, name)}


def decay(dt_s: float, tau_s: Any) -> Any:
    """Factor exp(-dt / tau) by which an exponential trace falls in one bin; of a number or a tensor."""
    return math.exp(-dt_s / tau_s) if isinstance(tau_s, float | int) else (-dt_s / tau_s).exp()


def middle(constant: float | PerUnit) -> float:
    """One number that stands for a constant: its own, or the middle of its range."""
    if not isinstance(constant, PerUnit):
        return constant
    if constant.mean is not None:
        return constant.mean
    if isinstance(constant, PositivePerUnit):
        return math.sqrt(constant.low * constant.high)
    return (constant.low + constant.high) / 2
