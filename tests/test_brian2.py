"""An independent witness: Brian2 simulates the same neurons from the same input spikes.

**The same steps.** Our step takes state n, the spikes S[n] that follow from it and the drive D[n] that they
and the input bring, to state n + 1 (`snnbench.models.neuron`). A step of Brian2 at t = n dt goes through
slots: groups (equations are integrated), thresholds, synapses, resets. So what its thresholds slot finds is
our state n, and what follows up to the next thresholds slot is our step. It holds two orders:

    lif, lif-delta     decay, then arrivals, then the reset: U[n + 1] = beta U[n] + ... - theta S[n]. The
                       slots are put in the order groups, synapses, resets, thresholds (Brian2 lets a network
                       choose), so that synapses and resets work on spikes of the step before. The synaptic
                       current moves the membrane by its value before its own decay and arrivals.
    adlif, se-adlif    the reset, then decay: alpha (U[n] - theta S[n]) + ... The slots stay as they are; an
                       arrival is a drive that lasts for one step. Adaptation moves right around the resets:
                       adlif's follows the membrane before its reset, se-adlif's the one after.

Brian2 integrates what is left of the equations exactly, so it takes time constants, not our factors. A unit
that is refractory for r of our steps is so for r + 1 of Brian2's, which count from the spike's own step.

**The limit.** In fine steps Brian2 solves the continuous equations, which have no order of operations. Ours
come closer in proportion to dt, with weights scaled as new ones are (`snnbench.models.layers`): a spike from
below lifts the mean membrane as a kick of the continuous model does.

Stimberg, Brette & Goodman (2019), "Brian 2, an intuitive and efficient neural simulator", eLife 8:e47314.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from snnbench.model_spec import AdlifSpec, LifDeltaSpec, LifSpec, SeAdlifSpec
from snnbench.models.kinds import AnySpec, kind_of
from snnbench.models.neuron import ResetMode
from snnbench.models.scan import scan
from snnbench.models.scan_types import Cell
from tests.brian import import_brian2
from tests.scan_cases import surrogate

# Brian2 calls pyparsing by names that pyparsing means to drop
pytestmark = pytest.mark.filterwarnings("ignore:.* deprecated(,| -) use:DeprecationWarning")

N_INPUTS, N_UNITS = 40, 50
Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def brian() -> Any:
    return import_brian2()


class Words(NamedTuple):
    """A neuron in Brian2's words: `u` is the membrane, `theta` its threshold."""

    equations: str
    arrival: str
    """What a spike does to the unit that it reaches."""
    reset: str
    slots: Mapping[str, str] = {}
    """What else happens in each step, by slot."""
    schedule: tuple[str, ...] = ("start", "groups", "thresholds", "synapses", "resets", "end")
    refractory: str | bool = False
    method: str = "exact"


@dataclass(frozen=True)
class Layer:
    """Units with constants of their own, and weights onto them."""

    constants: Mapping[str, Array]
    """As in the specification: in seconds, or plain numbers; shape (unit,)."""
    weight: Array
    """Shape (unit, input)."""
    recurrent: Array
    """Shape (unit, unit)."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """The constants by the names of our specifications."""
        ours = {"theta": "threshold"}
        return {ours.get(name, name): torch.from_numpy(c) for name, c in self.constants.items()}


class Run(NamedTuple):
    """What a simulator did."""

    spikes: Array
    """0 or 1; shape (time, unit)."""
    membranes: Array
    """Before the thresholds of the same step; shape (time, unit)."""


def in_brian(
    brian: Any,
    words: Words,
    layer: Layer,
    inputs: Array,
    dt_s: float,
    namespace: Mapping[str, Any] | None = None,
) -> Run:
    """Simulate a layer in Brian2, from input spikes of shape (time, input)."""
    dt = dt_s * brian.second
    declared = "".join(
        f"{name} : {'second' if name.endswith('_s') else '1'} (constant)\n"
        for name in layer.constants
    )
    units = brian.NeuronGroup(
        N_UNITS, words.equations + declared, threshold="u > theta", reset=words.reset,
        refractory=words.refractory, method=words.method, dt=dt, namespace=dict(namespace or {}),
    )  # fmt: skip
    for name, values in layer.constants.items():
        setattr(units, name, values * brian.second if name.endswith("_s") else values)
    for slot, code in words.slots.items():
        units.run_regularly(code, when=slot, dt=dt)
    steps, channels = inputs.nonzero()
    below = brian.SpikeGeneratorGroup(inputs.shape[1], channels, steps * dt, dt=dt)
    synapses = []
    for source, weight in ((below, layer.weight), (units, layer.recurrent)):
        between = brian.Synapses(source, units, "weight : 1", on_pre=words.arrival, dt=dt)
        between.connect()
        between.weight = weight[between.j[:], between.i[:]]
        synapses.append(between)
    heard = brian.SpikeMonitor(units)
    seen = brian.StateMonitor(units, "u", record=True, when="before_thresholds", dt=dt)
    network = brian.Network(units, below, *synapses, heard, seen)
    network.schedule = list(words.schedule)
    network.run(len(inputs) * dt, namespace={})
    spikes = np.zeros((len(inputs), N_UNITS))
    spikes[np.round(heard.t / dt).astype(int), heard.i] = 1
    return Run(spikes, seen.u.T)


def in_ours(spec: AnySpec, layer: Layer, inputs: Array, dt_s: float) -> Run:
    """The same layer through our scan."""
    kind = kind_of(spec, dt_s)
    cell = Cell(kind.neuron, kind.parameters(layer.tensors()), surrogate(), spec.reset)
    result = scan(
        torch.from_numpy(inputs)[:, None], torch.from_numpy(layer.weight),
        torch.from_numpy(layer.recurrent), cell, keep_membranes=True, engine="reference",
    )  # fmt: skip
    return Run(result.spikes[:, 0].numpy(), result.membranes[:, 0].numpy())


# ---- the same steps --------------------------------------------------------------------------------

ARRIVE_THEN_RESET = ("start", "groups", "synapses", "resets", "thresholds", "end")

LIF = Words(
    "du/dt = -u / tau_mem_s : 1\n dcurrent/dt = -current / tau_syn_s : 1\n before : 1\n",
    arrival="current_post += weight",
    reset="u -= theta",
    slots={"before_groups": "before = current", "after_groups": "u += before"},
    schedule=ARRIVE_THEN_RESET,
)
LIF_REFRACTORY = LIF._replace(
    reset="u = 0",
    slots={**LIF.slots, "after_groups": "u += before * int(not_refractory)"},
    refractory="(period + 1) * dt",
)
LIF_DELTA = Words(
    "du/dt = -u / tau_mem_s : 1\n",
    arrival="u_post += weight",
    reset="u -= theta",
    schedule=ARRIVE_THEN_RESET,
)
ADLIF = Words(
    "du/dt = (drive - w - u) / tau_mem_s : 1\n w : 1\n drive : 1\n",
    arrival="drive_post += weight",
    reset="u -= theta; w += b",
    slots={
        "after_groups": "drive = 0",
        "before_resets": "w = exp(-dt / tau_adapt_s) * w + a * u",
    },
)
SE_ADLIF = ADLIF._replace(
    reset="u -= theta; w += (1 - exp(-dt / tau_adapt_s)) * q * b",
    slots={
        "after_groups": "drive = 0",
        "before_resets": "w *= exp(-dt / tau_adapt_s)",
        "after_resets": "w += (1 - exp(-dt / tau_adapt_s)) * q * a * u",
    },
)


def drawn_layer(seed: int, scale: float, **ranges: tuple[float, float]) -> Layer:
    """Constants from ranges, weights mostly excitatory from below and balanced among units."""
    g = np.random.default_rng(seed)
    return Layer(
        {name: g.uniform(low, high, N_UNITS) for name, (low, high) in ranges.items()},
        weight=scale * g.normal(0.5, 1.0, (N_UNITS, N_INPUTS)),
        recurrent=scale * g.normal(0.0, 0.5, (N_UNITS, N_UNITS)),
    )


def poisson(seed: int, n_steps: int, n_inputs: int, probability: float) -> Array:
    """Input spikes, at most one in a step."""
    g = np.random.default_rng(seed)
    return (g.random((n_steps, n_inputs)) < probability).astype(float)


TAUS = {"tau_mem_s": (10e-3, 30e-3), "theta": (0.8, 1.2)}
WITH_CURRENT = TAUS | {"tau_syn_s": (3e-3, 9e-3)}
ADAPTIVE = TAUS | {"tau_adapt_s": (50e-3, 150e-3)}
SAME_STEPS: dict[str, tuple[AnySpec, Words, float, dict[str, tuple[float, float]]]] = {
    "lif": (LifSpec(), LIF, 0.02, WITH_CURRENT),
    "lif-refractory": (LifSpec(refractory_s=3e-3), LIF_REFRACTORY, 0.02, WITH_CURRENT),
    "lif-delta": (LifDeltaSpec(kind="lif-delta"), LIF_DELTA, 0.1, TAUS),
    "adlif": (
        AdlifSpec(kind="adlif"), ADLIF, 2.0, ADAPTIVE | {"a": (-0.01, 0.03), "b": (0.1, 0.5)},
    ),
    "se-adlif": (
        SeAdlifSpec(kind="se-adlif", q=40.0), SE_ADLIF, 2.0, ADAPTIVE | {"a": (0, 0.03), "b": (0, 1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("kind", SAME_STEPS)
def test_brian2_finds_the_same_spikes(kind: str, reset: ResetMode, brian: Any):
    spec, words, scale, ranges = SAME_STEPS[kind]
    spec = spec.model_copy(update={"reset": reset})
    if reset == "zero":
        words = words._replace(reset=words.reset.replace("u -= theta", "u = 0"))
    layer = drawn_layer(1, scale, **ranges)
    inputs = poisson(2, 1000, N_INPUTS, 0.03)
    ours = in_ours(spec, layer, inputs, 1e-3)
    theirs = in_brian(brian, words, layer, inputs, 1e-3, {"q": 40.0, "period": 3})
    assert theirs.spikes.sum() > 10 * N_UNITS
    np.testing.assert_array_equal(ours.spikes, theirs.spikes)
    np.testing.assert_allclose(ours.membranes, theirs.membranes, rtol=0, atol=1e-11)


# ---- the limit of fine steps ------------------------------------------------------------------------

CONTINUOUS_LIF = Words(
    "du/dt = (current - u) / tau_mem_s : 1\n dcurrent/dt = -current / tau_syn_s : 1\n",
    arrival="current_post += weight * tau_mem_s_post / tau_syn_s_post",
    reset="u -= theta",
)
CONTINUOUS_LIF_DELTA = Words(
    "du/dt = -u / tau_mem_s : 1\n", arrival="u_post += weight", reset="u -= theta"
)
CONTINUOUS_ADLIF = Words(
    "du/dt = (-w - u) / tau_mem_s : 1\n dw/dt = (a * u - w) / tau_adapt_s : 1\n",
    arrival="u_post += weight",
    reset="u -= theta; w += b",
    method="rk2",
)
COUPLED = ADAPTIVE | {"a": (0.2, 1.0), "b": (0.1, 0.5)}
LIMITS: dict[str, tuple[AnySpec, Words, dict[str, tuple[float, float]]]] = {
    "lif": (LifSpec(), CONTINUOUS_LIF, WITH_CURRENT),
    "lif-delta": (LifDeltaSpec(kind="lif-delta"), CONTINUOUS_LIF_DELTA, TAUS),
    "adlif": (AdlifSpec(kind="adlif"), CONTINUOUS_ADLIF, COUPLED),
    "se-adlif": (
        SeAdlifSpec(kind="se-adlif", q=1.0, reset="subtract"), CONTINUOUS_ADLIF, COUPLED,
    ),
}  # fmt: skip
SPAN_S, FINE_S = 0.3, 25e-6
FINE_STEPS_IN_A_BIN = (80, 40, 20, 10)  # 2, 1, 0.5 and 0.25 ms
SPIKING = slice(0, N_UNITS // 2)
SILENT = slice(N_UNITS // 2, N_UNITS)  # a threshold out of reach, so that membranes may be compared


def in_bins(spec: AnySpec, layer: Layer, dt_s: float) -> Layer:
    """A layer of the continuous model as ours has to say it in bins of `dt_s`.

    Weights stand for the area under the response to a spike, divided by tau_mem. Of the adaptation, adlif
    takes the pull of the membrane per bin, and se-adlif undoes a factor 1 - beta in the kick of a spike.
    """
    constants = dict(layer.constants)
    if isinstance(spec, SeAdlifSpec):
        constants["b"] = constants["b"] / (1 - np.exp(-dt_s / constants["tau_adapt_s"]))
    elif isinstance(spec, AdlifSpec):
        constants["a"] = constants["a"] * dt_s / constants["tau_adapt_s"]
    kind = kind_of(spec, dt_s)
    p = kind.parameters(layer.tensors())
    scale = layer.constants["tau_mem_s"] / dt_s
    for factor in kind.inverse_area(p):
        scale = scale * np.asarray(factor)
    return Layer(constants, layer.weight * scale[:, None], layer.recurrent * scale[:, None])


def binned(inputs: Array, fine_steps: int) -> Array:
    """Counts in bins of so many fine steps."""
    return inputs.reshape(-1, fine_steps, inputs.shape[1]).sum(axis=1)


def times_apart_s(ours: Array, dt_s: float, theirs: Array, fine_s: float) -> float:
    """Mean distance of the k-th spikes of the same unit, over all k that both have."""
    apart: list[float] = []
    for unit in range(ours.shape[1]):
        a, b = ours[:, unit].nonzero()[0] * dt_s, theirs[:, unit].nonzero()[0] * fine_s
        apart.extend(abs(x - y) for x, y in zip(a, b, strict=False))
    return float(np.mean(apart))


def order(errors: list[float]) -> float:
    """Slope of log(error) over log(dt): 1 where the error is proportional to dt, 0 where it stays."""
    return float(np.polyfit(np.log(FINE_STEPS_IN_A_BIN), np.log(errors), 1)[0])


@pytest.mark.parametrize("kind", LIMITS)
def test_spikes_and_membranes_converge_to_brian2s(kind: str, brian: Any):
    spec, words, ranges = LIMITS[kind]
    drawn = drawn_layer(3, 1.0, **ranges)
    drawn.constants["theta"][SILENT] = 1e9
    weight = np.random.default_rng(4).uniform(0.0, 0.15, (N_UNITS, N_INPUTS))
    layer = Layer(drawn.constants, weight, np.zeros((N_UNITS, N_UNITS)))
    inputs = poisson(5, round(SPAN_S / FINE_S / 80) * 80, N_INPUTS, 40 * FINE_S)
    theirs = in_brian(brian, words, layer, inputs, FINE_S)
    of_times, of_membranes = [], []
    for fine_steps in FINE_STEPS_IN_A_BIN:
        dt_s = fine_steps * FINE_S
        ours = in_ours(spec, in_bins(spec, layer, dt_s), binned(inputs, fine_steps), dt_s)
        of_times.append(
            times_apart_s(ours.spikes[:, SPIKING], dt_s, theirs.spikes[:, SPIKING], FINE_S)
        )
        apart = ours.membranes[:, SILENT] - theirs.membranes[::fine_steps, SILENT]
        of_membranes.append(float(abs(apart).mean()))
    n_theirs, n_ours = theirs.spikes.sum(), ours.spikes.sum()
    assert n_theirs > 5 * N_UNITS / 2
    assert abs(n_ours - n_theirs) < 0.05 * n_theirs
    # Brian2's own fine steps are 1/10 of our last, and bend the line of the membranes a little
    assert 0.7 < order(of_times) < 1.3
    assert 0.7 < order(of_membranes) < 1.1
