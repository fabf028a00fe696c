"""SuperSpike: online learning with three factors in layers of LIF neurons (Zenke & Ganguli 2018).

    dw_ij = rate times the mean over a block of  e_i(t) . [alpha * (sigma'(U_i) (epsilon * S_j))](t)

with the error trace e_i as third factor, sigma' the surrogate of the membrane, epsilon * S_j the presynaptic
trace and alpha the filter of the eligibility. In each step n of dt, in this order:

 (1) U += dt / tau_mem ((rest - U) + I); units that wait stay at rest
 (2) U > threshold: spike; U = rest, and wait for the refractory time
 (3) I *= exp(-dt / tau_syn)
 (4) I += W . spikes sent `delay` ago by the layer below; inputs travel as long
 (5) impulses s = target - spike, both of `delay` ago; hidden units hear F s, see `online.feedback`
 (6) raw += sigma'(U_i) P_j, both of `delay` ago;  lambda += dt / tau_decay (raw - lambda);
     raw *= exp(-dt / tau_rise);  m += lambda e
 (7) at a block's end: g = m / steps; the weights' update, see `online.updates`
 (8) P relaxes towards P', P' *= exp(-dt / tau_syn), P' += spikes that arrived;  e relaxes towards e',
     e' towards s

Errors travel as spikes do, so what a synapse remembers waits for them: in the authors' program spikes of the
output and of the target come with the delay of all spikes, and membrane and trace are kept as long.

That is how it is defined, and how tests/superspike_reference.py computes it. Here a block is computed as a
whole, which is the same because weights move only at its end: first each layer's steps 1 to 4, one layer
after the other; then traces; and m as a product of two matrices. The eligibility filter is linear, so

    m_ij = sum over n of  [E_i(n) sigma'(U_i(n))] P_j(n),   E = the filter's adjoint applied to e

and no synapse needs a state but its weight and its v. What happened before the block counts as far back as
the filter remembers within the number type's precision.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from snnbench.errors import SnnbenchError
from snnbench.models.online.constants import Heterosynaptic, Neuron
from snnbench.models.online.engine import Engine, engine_for
from snnbench.models.online.errors import train_errors
from snnbench.models.online.feedback import Feedback, Symmetric
from snnbench.models.online.metric import RunningDistance
from snnbench.models.online.rules import SUPERSPIKE, Filter, Rule, constant, post_factor
from snnbench.models.online.updates import Update

METRIC_FILTER = Filter(rise_s=5e-3, decay_s=10e-3)
"""Kernel of the distance that is reported, whatever the rule's own."""

Impulses = Callable[[Tensor], Tensor]
"""Output spikes (time, seed, unit) of a block, as floats, to error impulses of the same shape."""


@dataclass(frozen=True)
class Settings:
    """Everything that a learner does not learn."""

    neuron: Neuron = field(default_factory=Neuron)
    rule: Rule = SUPERSPIKE
    update: Update = field(default_factory=Update)
    block_s: float = 0.5
    """Time between two updates of the weights."""
    heterosynaptic: Heterosynaptic | None = None
    """Of hidden layers' weights."""
    linear_hidden: bool = False
    """Hidden units' postsynaptic factor is 1: the linear control of `symmetric-linear`."""

    def __post_init__(self) -> None:
        self.rule.check(self.neuron.dt_s)
        if self.steps < 1 or abs(self.block_s / self.neuron.dt_s - self.steps) > 1e-6:
            raise SnnbenchError(
                f"block_s is {self.block_s} s, no whole number of steps of {self.neuron.dt_s} s"
            )

    @property
    def steps(self) -> int:
        """Steps of a block."""
        return round(self.block_s / self.neuron.dt_s)


@dataclass(frozen=True)
class Block:
    """What happened in a block; the tensors are the learner's own memory and valid until the next one."""

    spikes: list[Tensor]
    """(time, seed, unit) uint8 of each layer, the first hidden layer first."""
    membranes: list[Tensor]
    """(time, seed, unit), mV, after reset."""
    errors: list[Tensor]
    """(time, seed, unit), the third factor as plasticity saw it."""
    gradients: list[Tensor]
    """(seed, post, pre): g of each layer; empty where nothing was to learn."""


class Learner:
    """Networks of one shape, one for each seed, that learn while they run.

    Parameters
    ----------
    weights
        (seed, post, pre) in mV for each layer, the layer next to the input first; changed in place. Their
        device and type of number are the learner's: float32 is fast, float64 follows the definition closely.
    feedback
        Strategy for hidden layers; symmetric unless given.
    settings
        Neuron, rule, update.

    Raises
    ------
    SnnbenchError
        Layers that do not fit each other.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        feedback: Feedback | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.weights = list(weights)
        self.feedback: Feedback = feedback or Symmetric()
        _check_shapes(self.weights)
        self.engine = engine_for(self.weights[0])
        self.blocks_done = 0
        self.distance = RunningDistance(METRIC_FILTER, self.settings.neuron.dt_s)
        self._squares = [torch.zeros_like(w) for w in self.weights]
        self._layers = [
            _LayerMemory(w, self.settings, hidden=k < len(self.weights) - 1)
            for k, w in enumerate(self.weights)
        ]
        output = self.weights[-1].shape[:2]
        self._metric_state = self.weights[-1].new_zeros(2, *output)
        self._underway = self.weights[-1].new_zeros(self.settings.neuron.delay_steps, *output)

    def run(
        self,
        inputs: Tensor,
        impulses: Impulses | Tensor,
        *,
        learn: bool = True,
        rate_scale: float = 1.0,
    ) -> Block:
        """One block, and the update at its end.

        Parameters
        ----------
        inputs
            (time, seed or 1, pre), uint8: spikes sent in each step, 0 or 1.
        impulses
            Target spikes (time, seed or 1, unit), or a function of the output's spikes.
        learn
            False: everything runs but weights stay as they are.
        rate_scale
            Factor of the update's rate.

        Raises
        ------
        SnnbenchError
            The input has another length or width; or weights or rates have diverged.
        """
        s = self.settings
        below = self._input(inputs)
        for weights, layer in zip(self.weights, self._layers, strict=True):
            below = layer.advance(self.engine, below, weights)
        fired = below.to(self.weights[0].dtype)
        made = impulses(fired) if callable(impulses) else train_errors(fired, impulses)
        to_hidden = self.feedback.matrices(self.weights)
        made = self._delayed(made)
        heard = [*(_transported(made, f) for f in to_hidden), made]
        for layer, of_layer in zip(self._layers, heard, strict=True):
            layer.hear(self.engine, of_layer)
        self._measure(made)
        gradients = self._gradients() if learn else []
        if learn:
            changes = [
                s.update.apply(w, g, v, s.block_s, rate_scale) if self._plastic(k) else w * 0
                for k, (w, g, v) in enumerate(
                    zip(self.weights, gradients, self._squares, strict=True)
                )
            ]
            self.feedback.learnt(changes)
        self.blocks_done += 1
        self._check_divergence()
        return Block(
            spikes=[x.fired for x in self._layers],
            membranes=[x.membranes for x in self._layers],
            errors=[x.third[:-1] for x in self._layers],
            gradients=gradients,
        )

    def metric(self) -> Tensor:
        """Running van Rossum distance (seed, output), see `online.metric`."""
        return self.distance.value()

    def state(self) -> dict[str, Tensor]:
        """All that a later `restore` needs to go on with the same bits, the feedback's own apart."""
        steps, total = self.distance.state()
        state = {
            "blocks": torch.tensor(self.blocks_done),
            "metric.steps": torch.tensor(steps),
            "metric.trace": self._metric_state,
            "underway": self._underway,
        }
        if total is not None:
            state["metric.sum"] = total
        for k, layer in enumerate(self._layers):
            state |= {f"{k}.weights": self.weights[k], f"{k}.squares": self._squares[k]}
            state |= {f"{k}.{name}": x for name, x in layer.state().items()}
        return {name: x.clone() for name, x in state.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state` of a learner of the same shape and settings."""
        self.blocks_done = int(state["blocks"])
        total = state.get("metric.sum")
        if total is not None:
            total = total.to(self._metric_state.device)  # a checkpoint may be read on the CPU
        self.distance.restore(int(state["metric.steps"]), total)
        self._metric_state.copy_(state["metric.trace"])
        self._underway.copy_(state["underway"])
        for k, layer in enumerate(self._layers):
            self.weights[k].copy_(state[f"{k}.weights"])
            self._squares[k].copy_(state[f"{k}.squares"])
            for name, x in layer.state().items():
                x.copy_(state[f"{k}.{name}"])

    def _plastic(self, k: int) -> bool:
        return self.feedback.learns_hidden or k == len(self.weights) - 1

    def _input(self, inputs: Tensor) -> Tensor:
        seeds, _, width = self.weights[0].shape
        wanted = (self.settings.steps, width)
        if (inputs.shape[0], inputs.shape[2]) != wanted or inputs.shape[1] not in (1, seeds):
            raise SnnbenchError(
                f"inputs of shape {tuple(inputs.shape)}: this network takes "
                f"({wanted[0]} steps, 1 or {seeds} seeds, {width} units)"
            )
        return inputs.expand(-1, seeds, -1)

    def _delayed(self, impulses: Tensor) -> Tensor:
        waiting = torch.cat([self._underway, impulses])
        self._underway.copy_(waiting[impulses.shape[0] :])
        return waiting[: impulses.shape[0]]

    def _measure(self, impulses: Tensor) -> None:
        s, last = self.settings, self._layers[-1]
        if s.rule.third == METRIC_FILTER:
            self.distance.add(last.third[1:])
            return
        trace = impulses.new_empty(impulses.shape[0] + 1, *impulses.shape[1:])
        self.engine.errors(impulses, self._metric_state, trace, METRIC_FILTER, s.neuron.dt_s)
        self.distance.add(trace[1:])

    def _gradients(self) -> list[Tensor]:
        return [
            layer.gathered(self.engine, w) / self.settings.steps
            if self._plastic(k)
            else torch.zeros_like(w)
            for k, (w, layer) in enumerate(zip(self.weights, self._layers, strict=True))
        ]

    def _check_divergence(self) -> None:
        neuron = self.settings.neuron
        for k, (weights, layer) in enumerate(zip(self.weights, self._layers, strict=True)):
            name = "output" if k == len(self.weights) - 1 else f"hidden layer {k + 1}"
            now = self.blocks_done * self.settings.block_s
            if not weights.isfinite().all():
                raise SnnbenchError(
                    f"weights into {name} are no longer finite after {now:g} s: "
                    f"take a smaller rate than {self.settings.update.rate_mv:g} mV"
                )
            rate_hz = float(layer.fired.float().mean()) / neuron.dt_s
            # what a unit does that fires as soon as it may
            limit_hz = 0.9 / (neuron.refractory_s + neuron.dt_s)
            if rate_hz > limit_hz:
                raise SnnbenchError(
                    f"rates have diverged: {name} fires {rate_hz:.0f} spikes a second and unit after "
                    f"{now:g} s, near the most that {neuron.refractory_s} s of refractory time allow; "
                    f"take a smaller rate than {self.settings.update.rate_mv:g} mV or smaller weights"
                )


class _LayerMemory:
    """A layer's state and its last block: what is needed of the past comes first in each array."""

    def __init__(self, weights: Tensor, settings: Settings, *, hidden: bool) -> None:
        seeds, post, pre = weights.shape
        self._neuron, self._rule = settings.neuron, settings.rule
        if hidden and settings.linear_hidden:
            self._rule = replace(settings.rule, post=constant)
        self._term = settings.heterosynaptic if hidden else None
        self._steps = settings.steps
        delay = settings.neuron.delay_steps
        # the eligibility filter has forgotten to the last bit what is older than this
        slowest = max(self._rule.eligibility.decay_s, self._rule.eligibility.rise_s)
        remembers = -math.log(torch.finfo(weights.dtype).eps) * slowest
        history = math.ceil(remembers / settings.neuron.dt_s)
        rows = history + delay + self._steps
        device = weights.device
        self.voltage = weights.new_full((seeds, post), settings.neuron.rest_mv)
        self.current = weights.new_zeros(seeds, post)
        self.waits = torch.zeros(seeds, post, dtype=torch.int32, device=device)
        self.received = torch.zeros(
            delay + self._steps, seeds, pre, dtype=torch.uint8, device=device
        )
        self.fired = torch.zeros(self._steps, seeds, post, dtype=torch.uint8, device=device)
        self.membranes = weights.new_empty(self._steps, seeds, post)
        self.pre = weights.new_zeros(rows, seeds, pre)
        self.pre_state = weights.new_zeros(2, seeds, pre)
        self.factor = weights.new_zeros(rows, seeds, post)
        self.third = weights.new_empty(self._steps + 1, seeds, post)
        self.third_state = weights.new_zeros(2, seeds, post)
        self.worth = weights.new_empty(history + self._steps, seeds, post)
        self.z = weights.new_zeros(seeds, post)
        self._pull: Tensor | None = None

    def state(self) -> dict[str, Tensor]:
        """Memory that the next block looks at."""
        names = ("voltage", "current", "waits", "received", "pre", "pre_state", "factor")
        return {name: getattr(self, name) for name in (*names, "third_state", "z")}

    def advance(self, engine: Engine, below: Tensor, weights: Tensor) -> Tensor:
        """Spikes of the layer below to this one's, and the first two factors."""
        neuron, rule = self._neuron, self._rule
        for rows in (self.received, self.pre, self.factor):
            keep = rows.shape[0] - self._steps
            rows[:keep] = rows[-keep:].clone()
        self._now(self.received).copy_(below)
        state = (self.voltage, self.current, self.waits)
        arriving = self.received[: self._steps]
        engine.lif(arriving, weights, state, self.fired, self.membranes, neuron)
        engine.trace(
            arriving, self.pre_state, self._now(self.pre), rule.pre, neuron.dt_s, rule.cutoff
        )  # fmt: skip
        self._now(self.factor).copy_(post_factor(rule, self.membranes, self.fired, neuron))
        return self.fired

    def hear(self, engine: Engine, impulses: Tensor) -> None:
        """Error impulses to the third factor; with it the pull of activity."""
        third, dt_s = self._rule.third, self._neuron.dt_s
        if third is None:
            self.third.fill_(1)
        else:
            engine.errors(impulses, self.third_state, self.third, third, dt_s)
        if self._term:
            powers = engine.activity(self.fired, self.z, self.third[:-1], self._term, dt_s)
            self._pull = self._term.scale * powers.unsqueeze(-1)

    def gathered(self, engine: Engine, weights: Tensor) -> Tensor:
        """m (seed, post, pre) of the block."""
        rows = self.worth.shape[0]
        engine.credit(
            self.third[:-1], self.factor[:rows], self.worth, self._rule.eligibility,
            self._neuron.dt_s, self._rule.cutoff,
        )  # fmt: skip
        m = torch.einsum("tsi,tsj->sij", self.worth, self.pre[:rows])
        return m if self._pull is None else m - self._pull * weights

    def _now(self, rows: Tensor) -> Tensor:
        return rows[-self._steps :]


def _transported(impulses: Tensor, feedback: Tensor) -> Tensor:
    """Impulses (time, seed, out) through F (seed, hidden, out); in most steps there are none."""
    # squares do not cancel, and their sum costs less than to ask for any
    steps = (impulses.flatten(1) ** 2).sum(1).nonzero().squeeze(1)
    heard = impulses.new_zeros(*impulses.shape[:2], feedback.shape[1])
    heard[steps] = torch.einsum("tsk,sik->tsi", impulses[steps], feedback)
    return heard


def _check_shapes(weights: Sequence[Tensor]) -> None:
    if not weights:
        raise SnnbenchError("a network without layers has nothing to learn")
    for k, (lower, upper) in enumerate(itertools.pairwise(weights)):
        if (lower.shape[0], lower.shape[1]) != (upper.shape[0], upper.shape[2]):
            raise SnnbenchError(
                f"weights of layers {k + 1} and {k + 2} do not fit: {tuple(lower.shape)} and "
                f"{tuple(upper.shape)} (seed, post, pre)"
            )


def initial_weights(
    sizes: Sequence[int], generators: Sequence[torch.Generator], *, w0_mv: float = 50.0,
    bound_mv: float = 100.0, dtype: torch.dtype = torch.float32,
) -> list[Tensor]:  # fmt: skip
    """Weights from N(0, w0 / sqrt(pre)) within the bound, (seed, post, pre) for each layer.

    sizes are of input, hidden layers, output; one generator for each seed, of the CPU, so that a seed is the
    same on all devices.

    Raises
    ------
    SnnbenchError
        A layer of size zero, or fewer than two sizes.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise SnnbenchError(f"sizes {tuple(sizes)}: give input, hidden layers and output, none 0")
    return [
        torch.stack([torch.randn(post, pre, generator=g, dtype=torch.float64) for g in generators])
        .mul_(w0_mv / math.sqrt(pre))
        .clamp_(-bound_mv, bound_mv)
        .to(dtype)
        for pre, post in itertools.pairwise(sizes)
    ]
