"""What the output should have done: spikes at given times, or a spike of the right unit in a window.

Each task turns a block of output spikes into impulses (time, seed, unit): +1 where a spike is missing, -1
where one is wrong, in the step where that becomes known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Steps in which one output unit should fire at least once and the others not at all."""

    first: int
    last: int
    """The step after the window's last, within the block."""
    unit: int


def train_errors(spikes: Tensor, targets: Tensor) -> Tensor:
    """Target spikes minus output spikes, (time, seed or 1, unit) (Zenke & Ganguli 2018, eq. 3)."""
    return targets.to(spikes) - spikes


def window_errors(spikes: Tensor, windows: Sequence[Sequence[Window]]) -> Tensor:
    """Errors of classification by spikes in windows (Zenke & Ganguli 2018, fig. 5).

    A spike of a wrong unit counts -1 at once; a silent right unit counts +1 in the window's last step.
    Spikes of the right unit, and those between windows, are free.

    spikes (time, seed, unit); windows of each seed.
    """
    impulses = spikes.new_zeros(spikes.shape)
    for seed, of_seed in enumerate(windows):
        for w in of_seed:
            inside = spikes[w.first : w.last, seed]
            impulses[w.first : w.last, seed] = -inside
            impulses[w.first : w.last, seed, w.unit] = 0
            if not inside[:, w.unit].any():
                impulses[w.last - 1, seed, w.unit] = 1
    return impulses


def solved(spikes: Tensor, windows: Sequence[Sequence[Window]]) -> list[list[bool]]:
    """For each seed and window, whether the right unit fired and no other did."""
    return [
        [
            bool(spikes[w.first : w.last, seed, w.unit].any())
            and int(spikes[w.first : w.last, seed].any(0).sum()) == 1
            for w in of_seed
        ]
        for seed, of_seed in enumerate(windows)
    ]
