"""Distance of spike trains: van Rossum's, as a running mean while a network learns.

The squared error trace of an output, averaged over the past with a window of 10 s, corrected for the window's
beginning, and scaled such that for errors far apart it is four times the wrong or missing spikes per second:
a silent output with a target of 10 Hz has 40. Close errors overlap and count more, or less where they differ
in sign.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from snnbench.models.online.rules import Filter

WINDOW_S = 10.0


class RunningDistance:
    """Running van Rossum distance of each output, (seed, unit)."""

    def __init__(self, kernel: Filter, dt_s: float) -> None:
        a, b = kernel.decay_s, kernel.rise_s
        # integral of the squared kernel, and with it the value that one error a second gives: 4
        energy = (a * b / (a - b)) ** 2 * (a / 2 + b / 2 - 2 * a * b / (a + b))
        self._scale = 1 / energy / WINDOW_S
        self._dt_s = dt_s
        self._steps = 0
        self._sum: Tensor | None = None

    def add(self, errors: Tensor) -> None:
        """Take in a block's error traces (time, seed, unit), as they are after each step."""
        import torch

        steps = errors.shape[0]
        ages = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (self._dt_s / WINDOW_S)
        weights = torch.exp(-ages).to(errors) * self._dt_s
        new = torch.einsum("t,tsk->sk", weights, errors**2)
        old = 0 if self._sum is None else self._sum * math.exp(-steps * self._dt_s / WINDOW_S)
        self._sum = old + new
        self._steps += steps

    def value(self) -> Tensor:
        """(seed, unit), nan before the first block."""
        if self._sum is None:
            raise ValueError("no block yet")
        age_s = self._steps * self._dt_s
        return self._scale * self._sum / -math.expm1(-age_s / WINDOW_S)

    def state(self) -> tuple[int, Tensor | None]:
        """For a checkpoint."""
        return self._steps, self._sum

    def restore(self, steps: int, total: Tensor | None) -> None:
        """From a checkpoint."""
        self._steps, self._sum = steps, total


def van_rossum(first: Tensor, second: Tensor, kernel: Filter, dt_s: float) -> Tensor:
    """Half the time integral of the squared difference of two trains, filtered (their eq. 3).

    first, second (time, unit), 0 or 1; returns (unit,). The trains' filtered difference is followed until it
    has decayed. 0 for equal trains.
    """
    import torch

    from snnbench.models.online.kernels import errors as relax

    tail = math.ceil(20 * kernel.decay_s / dt_s)
    difference = torch.nn.functional.pad((first - second).double().cpu(), (0, 0, 0, tail)).numpy()
    units = difference.shape[1]
    out = torch.empty(difference.shape[0] + 1, units, dtype=torch.float64)
    state = torch.zeros(2, units, dtype=torch.float64).numpy()
    rise, fall = dt_s / kernel.rise_s, dt_s / kernel.decay_s
    relax(difference, state[0], state[1], out.numpy(), rise, fall)
    # an impulse of one step weighs dt; the loss is of trains of unit area
    return 0.5 * (out**2).sum(0) * dt_s / dt_s**2
