"""Which kernels run a block: numba on the CPU, Triton on a GPU, one interface on tensors for both."""

from __future__ import annotations

import math
from typing import Any, Protocol

from torch import Tensor

from snnbench.models.online.constants import Heterosynaptic, Neuron
from snnbench.models.online.rules import Filter


class Engine(Protocol):
    """What `snnbench.models.superspike.Learner` asks for. All tensors (time, seed, unit) unless said."""

    def lif(
        self, below: Tensor, weights: Tensor, state: tuple[Tensor, Tensor, Tensor], out: Tensor,
        membranes: Tensor, neuron: Neuron,
    ) -> None:  # fmt: skip
        """Steps of a layer. weights (seed, post, pre); state (seed, post): voltage, current, waits."""

    def trace(
        self, spikes: Tensor, state: Tensor, out: Tensor, filter: Filter, dt_s: float, cutoff: float
    ) -> None:
        """Presynaptic traces. state (2, seed, unit)."""

    def errors(
        self, impulses: Tensor, state: Tensor, out: Tensor, filter: Filter, dt_s: float
    ) -> None:
        """Error traces. state (2, seed, unit); out has a row more than impulses."""

    def credit(
        self, third: Tensor, factor: Tensor, out: Tensor, filter: Filter, dt_s: float, cutoff: float
    ) -> None:
        """Credit of each step, times the postsynaptic factor. factor and out have rows of history first."""

    def activity(
        self, spikes: Tensor, z: Tensor, third: Tensor, term: Heterosynaptic, dt_s: float
    ) -> Tensor:
        """Sum of powers of the activity trace z (seed, unit), which is state."""


def engine_for(tensor: Tensor) -> Engine:
    """The engine of the device that a tensor is on."""
    if tensor.is_cuda:
        from snnbench.models.online.triton_engine import TritonEngine

        return TritonEngine()
    return CpuEngine()


class CpuEngine:
    """numba's kernels, compiled at first use and kept in a cache. One thread."""

    def lif(
        self, below: Tensor, weights: Tensor, state: tuple[Tensor, Tensor, Tensor], out: Tensor,
        membranes: Tensor, neuron: Neuron,
    ) -> None:  # fmt: skip
        from snnbench.models.online import kernels

        by_input = weights.mT.contiguous()
        kernels.lif(
            below.numpy(), by_input.numpy(), *(s.numpy() for s in state), membranes.numpy(),
            out.numpy(), neuron.euler_mem, neuron.decay_syn, neuron.rest_mv, neuron.threshold_mv,
            neuron.refractory_steps,
        )  # fmt: skip

    def trace(
        self, spikes: Tensor, state: Tensor, out: Tensor, filter: Filter, dt_s: float, cutoff: float
    ) -> None:
        from snnbench.models.online import kernels

        first, second = _flat(state)
        kernels.trace(
            _flat(spikes), first, second, _flat(out), decay(filter.rise_s, dt_s),
            euler(filter.decay_s, dt_s), cutoff,
        )  # fmt: skip

    def errors(
        self, impulses: Tensor, state: Tensor, out: Tensor, filter: Filter, dt_s: float
    ) -> None:
        from snnbench.models.online import kernels

        first, second = _flat(state)
        rise, fall = euler(filter.rise_s, dt_s), euler(filter.decay_s, dt_s)
        kernels.errors(_flat(impulses), first, second, _flat(out), rise, fall)

    def credit(
        self, third: Tensor, factor: Tensor, out: Tensor, filter: Filter, dt_s: float, cutoff: float
    ) -> None:
        from snnbench.models.online import kernels

        fall, kept = euler(filter.decay_s, dt_s), decay(filter.rise_s, dt_s)
        kernels.credit(_flat(third), _flat(factor), _flat(out), fall, kept, cutoff)

    def activity(
        self, spikes: Tensor, z: Tensor, third: Tensor, term: Heterosynaptic, dt_s: float
    ) -> Tensor:
        from snnbench.models.online import kernels

        total = z.new_empty(z.shape)
        kernels.activity(
            _flat(spikes), z.view(-1).numpy(), _flat(third), total.view(-1).numpy(),
            decay(term.tau_s, dt_s), term.exponent, term.times_error,
        )  # fmt: skip
        return total


def euler(tau_s: float, dt_s: float) -> float:
    """dt / tau; 1 where tau is 0: all the way in one step."""
    return dt_s / tau_s if tau_s else 1.0


def decay(tau_s: float, dt_s: float) -> float:
    """exp(-dt / tau); 0 where tau is 0: gone in one step."""
    return math.exp(-dt_s / tau_s) if tau_s else 0.0


def _flat(tensor: Tensor) -> Any:
    # seeds and units side by side: one inner loop over all of them
    return tensor.view(tensor.shape[0], -1).numpy()
