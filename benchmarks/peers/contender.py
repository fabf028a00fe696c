"""What is timed: one training step of a recurrent spiking network on spikes as dense as spoken digits.

The network everywhere: 700 inputs, one recurrent layer of leaky integrate-and-fire neurons with a synaptic
current, 20 leaky readout units whose largest membrane over time is the logit, cross-entropy, Adam. In the
equations of `snnbench.models.neurons.lif`, with drive D and spikes S,

    I[n + 1] = alpha I[n] + W S_in[n] + V S[n],    U[n + 1] = beta U[n] + I[n] - S[n],    S = Theta(U - 1).

Libraries differ in when a current reaches the membrane, in the reset and in the scale of weights; each
module says so. None of that changes how much there is to compute.

A sample has 8,000 spikes, as one of the Spiking Heidelberg Digits has (Cramer et al. 2020), spread evenly
over channels and one second of time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

N_INPUTS = 700
N_CLASSES = 20
SPIKES_PER_SAMPLE = 8000
DURATION_S = 1.0
TAU_MEM_S = 20e-3
TAU_SYN_S = 10e-3
SURROGATE_SLOPE = 10.0
RECURRENT_GAIN = 0.3
HIDDEN_RATE = 0.05
"""Share of (step, unit) bins with a spike that every hidden layer is brought to."""
LEARNING_RATE = 1e-8
"""Small, so that the weights stay where they give this rate; Adam's work does not depend on it."""


class Case(NamedTuple):
    """Sizes of a training step."""

    batch: int
    steps: int
    hidden: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "256x100x128": batch, time steps, hidden units."""
        sizes = [int(part) for part in text.split("x")]
        if len(sizes) != 3 or min(sizes) < 1:
            raise ValueError(f"{text!r}: write BATCHxSTEPSxHIDDEN, for example 256x100x128")
        return cls(*sizes)

    def __str__(self) -> str:
        return "x".join(map(str, self))

    @property
    def dt_s(self) -> float:
        """Width of a time bin."""
        return DURATION_S / self.steps

    @property
    def alpha(self) -> float:
        """Decay of the synaptic current in one bin."""
        return math.exp(-self.dt_s / TAU_SYN_S)

    @property
    def beta(self) -> float:
        """Decay of the membrane in one bin."""
        return math.exp(-self.dt_s / TAU_MEM_S)


class Data(NamedTuple):
    """Spikes and labels of one batch."""

    cells: NDArray[np.int64]
    """step * N_INPUTS + channel of every spike, ascending within a sample; (batch, SPIKES_PER_SAMPLE)."""
    labels: NDArray[np.int64]
    """(batch,)"""

    @classmethod
    def draw(cls, case: Case, seed: int = 0) -> Self:
        """Random spikes, every cell of (step, channel) alike."""
        rng = np.random.default_rng(seed)
        cells = rng.integers(case.steps * N_INPUTS, size=(case.batch, SPIKES_PER_SAMPLE))
        return cls(np.sort(cells, axis=1), rng.integers(N_CLASSES, size=case.batch))

    def dense(self, case: Case) -> NDArray[np.float32]:
        """Counts, float32 of shape (time, batch, channel)."""
        counts = np.empty((case.steps, case.batch, N_INPUTS), np.float32)
        for sample, cells in enumerate(self.cells):
            of_sample = np.bincount(cells, minlength=case.steps * N_INPUTS)
            counts[:, sample] = of_sample.reshape(case.steps, N_INPUTS)
        return counts


@dataclass(frozen=True)
class Contender:
    """A network with its data, ready to be timed."""

    step: Callable[[], None]
    """One training step, from the batch to the updated weights; returns when all of it is done."""
    rate: Callable[[], float]
    """Share of (step, unit) bins in which the hidden layer spikes."""
    scale_inputs: Callable[[float], None]
    """Set the input weights to this many times their first value."""
    compile_s: float = 0.0
    """Time spent compiling so far."""
    csr_ms: float | None = None
    """Time to make a batch of events, where the batch is one."""


class Options(NamedTuple):
    """What the command line says about how to run."""

    device: str = "cpu"
    graphed: bool = False
    """Whether a whole training step is captured in a CUDA graph."""
    engine: str = "auto"
    """Implementation of our scan."""
    replicas: int = 1
    """Networks trained at once, ours only."""
    recompute_steps: int | None = None
    """Steps between the states that our forward pass keeps; None keeps everything."""


def weight_bound(n_in: int, gain: float, case: Case) -> float:
    """Bound of uniform first weights for the equations above.

    The area under the membrane's response to one spike is 1 / ((1 - alpha) (1 - beta)) bins; this bound
    makes it gain / sqrt(n_in) * tau_mem whatever the width of a bin, as `snnbench.models.layers` does.
    """
    area_s = case.dt_s / ((1 - case.alpha) * (1 - case.beta))
    return gain / math.sqrt(n_in) * TAU_MEM_S / area_s


def draw_weights(case: Case, seed: int = 1) -> dict[str, NDArray[np.float32]]:
    """First weights: input (unit, input), recurrent (unit, unit) and output (class, unit)."""
    rng = np.random.default_rng(seed)
    shapes = {
        "input": (case.hidden, N_INPUTS, 1.0),
        "recurrent": (case.hidden, case.hidden, RECURRENT_GAIN),
        "output": (N_CLASSES, case.hidden, 1.0),
    }
    weights = {}
    for name, (n_out, n_in, gain) in shapes.items():
        bound = weight_bound(n_in, gain, case)
        weights[name] = rng.uniform(-bound, bound, (n_out, n_in)).astype(np.float32)
    return weights


def settle_rate(contender: Contender, wanted: float = HIDDEN_RATE) -> float:
    """Scale the input weights until the hidden rate is `wanted`, within 1 %; the rate that was reached.

    Input weights are as often positive as negative, so the rate rises with their scale.

    Raises
    ------
    ValueError
        No scale between 1e-4 and 1e4 gives this rate within 10 %.
    """
    low, high = 1e-4, 1e4
    rate = math.nan
    for _ in range(40):
        scale = math.sqrt(low * high)
        contender.scale_inputs(scale)
        rate = contender.rate()
        if abs(rate - wanted) <= 0.01 * wanted:
            return rate
        low, high = (scale, high) if rate < wanted else (low, scale)
    if abs(rate - wanted) > 0.1 * wanted:
        raise ValueError(f"hidden rate stays at {rate:.4f}, wanted {wanted}")
    return rate
