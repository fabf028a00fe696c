"""Which changes of test samples there are, how strong, and which random draws: tables without torch.

What each does to spikes is in `snnbench.corruptions`; what a run on them comes to in `snnbench.robustness`,
which a board reads without torch, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from snnbench.spec import TaskSpec

VERSION = "corruptions/1"
"""Of the tables below and of all that decides the changed spikes (`snnbench.corruptions`)."""

SEEDS = (0, 1, 2)
"""Draws of what is random; three show how much the draw matters."""

_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Of what is lost: from a tenth, to all but a tenth."""

_WIDTHS = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Standard deviations as a share of the whole axis, duration or units. A word of 1.4 s and an image of
0.1 s then both go from half a bin, of the usual hundred, to ten bins: from 7 to 140 ms the one, from 0.5
to 10 ms the other; 700 cochlea channels from 3.5 units to 70, 784 pixels from 4 to 78."""

_TEMPI = (0.1, 0.2, 0.35, 0.5, 1.0)
"""How much faster or slower: from a tenth, as one speaker varies, to twice or half the tempo."""


class Setting(NamedTuple):
    """Which corruption, how strong, and which of its random draws."""

    corruption: str
    level: float
    """0 changes nothing; what else it means, each corruption says."""
    seed: int


@dataclass(frozen=True)
class Corruption:
    """A way to change samples, and how strongly."""

    title: str
    axis: str
    """What `in_terms` gives, with its unit."""
    levels: tuple[float, ...]
    """Without 0, which is the clean sample."""
    in_terms: Callable[[float, TaskSpec], float]
    """A level as a person would say it of a task."""
    random: bool = True

    @property
    def seeds(self) -> tuple[int, ...]:
        """Draws of every level; of what is not random there is one."""
        return SEEDS if self.random else SEEDS[:1]


def _percent(level: float, task: TaskSpec) -> float:
    return 100 * level


CORRUPTIONS = {
    "deletion": Corruption("Spike deletion", "Spikes left out (%)", _SHARES, _percent),
    "time-jitter": Corruption(
        "Time jitter", "sd (ms)", _WIDTHS, lambda level, t: 1e3 * level * t.duration_s
    ),
    "channel-noise": Corruption(
        "Channel noise", "sd (units)", _WIDTHS, lambda level, t: level * t.n_units
    ),
    # a tenth of noise can take more than half of what a network knows of words: it is everywhere, where
    # their own spikes stand close together
    "noise-spikes": Corruption(
        "Noise spikes", "Spikes added (%)", (0.02, 0.05, 0.1, 0.25, 0.5), _percent
    ),
    "channel-loss": Corruption("Channel loss", "Silent units (%)", _SHARES, _percent),
    "faster": Corruption(
        "Faster", "Times as fast", _TEMPI, lambda level, t: 1 + level, random=False
    ),
    "slower": Corruption(
        "Slower", "Times as long", _TEMPI, lambda level, t: 1 + level, random=False
    ),
}
"""By name, in the order in which they are told."""


def settings_of(corruption: str) -> list[Setting]:
    """All levels and seeds of a corruption, level by level."""
    kind = CORRUPTIONS[corruption]
    return [Setting(corruption, level, seed) for level in kind.levels for seed in kind.seeds]
