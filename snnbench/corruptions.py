"""Changed test samples: what a trained network meets when the world is not as in training.

    terms = Terms.of(spec, test)
    changed = corrupt(part, Setting("deletion", 0.25, seed=0), terms)

Levels and seeds are fixed in tables (`snnbench.corruption_spec`), and random numbers come from a generator
of each sample's own: its key is a hash of version, corruption, level, seed and the sample's name (source
id). So everybody gets the same changed samples from one data file, whatever the batches, the order or the
selection of samples.
NumPy promises the raw numbers of its Philox generator for good, but not what it makes of them; a test
holds this module to the exact spikes. Whatever changes them makes another version.

Deletion and channel loss take spikes away, noise adds some, all else conserves them: where a shifted
time or unit leaves its range, it is reflected back into it. Left out, they would be a deletion in disguise;
put on the border, they would pile up there. A level of 0 leaves every sample as it is, bit for bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Self

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from snnbench.corruption_spec import VERSION, Setting
from snnbench.data_prep.binning import Binning
from snnbench.data_prep.spikes import Spikes, SpikeSplit
from snnbench.errors import unknown_name
from snnbench.spec import RunSpec


class Terms(NamedTuple):
    """What levels refer to, of the run and its test split."""

    n_units: int
    duration_s: float
    end: np.float32
    """First time that no bin holds, s (see `Binning.end`)."""
    mean_spikes: float
    """Spikes per test sample."""

    @classmethod
    def of(cls, spec: RunSpec, test: Spikes) -> Self:
        """The terms of a run and the test split of its data."""
        binning = Binning.of(spec)
        mean_spikes = test.n_spikes / len(test)
        return cls(binning.n_units, binning.duration_s, binning.end, mean_spikes)

    @property
    def last(self) -> np.float32:
        """Last time that a bin holds, s."""
        return np.nextafter(self.end, np.float32(0))


class Draws:
    """Random numbers of one setting, the same for a sample wherever it stands."""

    def __init__(self, setting: Setting) -> None:
        self._prefix = f"{VERSION}/{setting.corruption}/{setting.level!r}/{setting.seed}"

    def common(self) -> Generator:
        """What all samples share."""
        return self._generator("all")

    def of_sample(self, source_id: str) -> Generator:
        """What the sample of this name has for itself."""
        return self._generator(f"sample/{source_id}")

    def uniform(self, part: SpikeSplit) -> NDArray[np.float64]:
        """A number in [0, 1) for every spike, shape (spike,)."""
        values = np.empty(part.n_spikes)
        for i, name in enumerate(part.source_ids):
            self.of_sample(name).random(out=values[part.offsets[i] : part.offsets[i + 1]])
        return values

    def normal(self, part: SpikeSplit) -> NDArray[np.float64]:
        """A standard normal number for every spike, shape (spike,)."""
        values = np.empty(part.n_spikes)
        for i, name in enumerate(part.source_ids):
            self.of_sample(name).standard_normal(out=values[part.offsets[i] : part.offsets[i + 1]])
        return values

    def _generator(self, name: str) -> Generator:
        digest = hashlib.blake2b(f"{self._prefix}/{name}".encode(), digest_size=16).digest()
        return Generator(Philox(key=int.from_bytes(digest, "little")))


def delete(part: SpikeSplit, p: float, draws: Draws, terms: Terms) -> SpikeSplit:
    """Every spike is left out with probability `p`, on its own."""
    return _kept(part, draws.uniform(part) >= p)


def jitter_times(part: SpikeSplit, share: float, draws: Draws, terms: Terms) -> SpikeSplit:
    """Every spike moves by its own normal time, of standard deviation `share` of the task's duration.

    Within the duration they stay within, reflected at 0 and at its end; spikes after it, which no
    network sees, stay where they are.
    """
    moved = part.times + share * terms.duration_s * draws.normal(part)
    inside = np.minimum(_folded(moved, float(np.float32(terms.duration_s))), terms.last)
    times = np.where(part.times < terms.end, inside.astype(np.float32), part.times)
    return _sorted(replace(part, times=times))


def move_units(part: SpikeSplit, share: float, draws: Draws, terms: Terms) -> SpikeSplit:
    """Every spike moves by its own normal number of units, of standard deviation `share` of all units.

    Rounded to whole units; beyond the first or last unit counting goes on backwards, from that unit.
    """
    n = terms.n_units
    shift = np.rint(share * n * draws.normal(part)).astype(np.int64)
    units = (part.units + shift) % (2 * n)
    units = np.where(units < n, units, 2 * n - 1 - units)
    return replace(part, units=units.astype(np.uint16))


def add_noise(part: SpikeSplit, share: float, draws: Draws, terms: Terms) -> SpikeSplit:
    """Poisson spikes in all units over all of the duration, on average `share` of a test sample's spikes.

    Relative to the spikes there are, since one cochlea channel fires eleven times in a spoken word, and
    of the pixels of an image most never fire: no rate suits both.
    """
    counts = np.zeros(len(part), dtype=np.int64)
    times, units = [np.zeros(0)], [np.zeros(0)]
    for i, name in enumerate(part.source_ids):
        generator = draws.of_sample(name)
        counts[i] = generator.poisson(share * terms.mean_spikes)
        times.append(np.minimum(generator.random(counts[i]) * terms.duration_s, terms.last))
        units.append(np.floor(generator.random(counts[i]) * terms.n_units))
    # where each sample's own spikes end, its noise goes in
    places = np.repeat(part.offsets[1:], counts)
    return _sorted(
        replace(
            part,
            times=np.insert(part.times, places, np.concatenate(times).astype(np.float32)),
            units=np.insert(part.units, places, np.concatenate(units).astype(np.uint16)),
            offsets=part.offsets + np.concatenate(([0], np.cumsum(counts))),
        )
    )


def silence_units(part: SpikeSplit, share: float, draws: Draws, terms: Terms) -> SpikeSplit:
    """A `share` of all units never fires, the same ones in all samples."""
    order = np.argsort(draws.common().random(terms.n_units), kind="stable")
    silent = np.zeros(terms.n_units, dtype=bool)
    silent[order[: round(share * terms.n_units)]] = True
    return _kept(part, ~silent[part.units])


def speak_faster(part: SpikeSplit, more: float, draws: Draws, terms: Terms) -> SpikeSplit:
    """Everything in 1 / (1 + `more`) of its time; what came too late to be seen may now be seen."""
    return replace(part, times=(part.times / np.float64(1 + more)).astype(np.float32))


def speak_slower(part: SpikeSplit, more: float, draws: Draws, terms: Terms) -> SpikeSplit:
    """Everything in 1 + `more` times its time; the task's duration cuts what then comes too late."""
    return replace(part, times=(part.times * np.float64(1 + more)).astype(np.float32))


CHANGES: dict[str, Callable[[SpikeSplit, float, Draws, Terms], SpikeSplit]] = {
    "deletion": delete,
    "time-jitter": jitter_times,
    "channel-noise": move_units,
    "noise-spikes": add_noise,
    "channel-loss": silence_units,
    "faster": speak_faster,
    "slower": speak_slower,
}
"""By name, as in `snnbench.corruption_spec.CORRUPTIONS`."""


def corrupt(part: SpikeSplit, setting: Setting, terms: Terms) -> SpikeSplit:
    """The samples, changed; times stay sorted within each. What is given is left as it is.

    Raises
    ------
    UsageError
        There is no such corruption.
    """
    if setting.corruption not in CHANGES:
        raise unknown_name("corruption", setting.corruption, list(CHANGES))
    return CHANGES[setting.corruption](part, setting.level, Draws(setting), terms)


def _folded(values: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Values reflected at 0 and at `length` as often as it takes; those in between are unchanged."""
    there_and_back = np.mod(values, 2 * length)
    return np.where(there_and_back > length, 2 * length - there_and_back, there_and_back)


def _kept(part: SpikeSplit, keep: NDArray[np.bool_]) -> SpikeSplit:
    """The spikes for which `keep`, of shape (spike,), holds."""
    before = np.concatenate(([0], np.cumsum(keep)))
    return replace(
        part, times=part.times[keep], units=part.units[keep], offsets=before[part.offsets]
    )


def _sorted(part: SpikeSplit) -> SpikeSplit:
    """Spikes of every sample by time; those of one time keep their order."""
    order = np.concatenate(
        [
            np.zeros(0, dtype=np.int64),
            *(
                start + np.argsort(part.times[start:stop], kind="stable")
                for start, stop in zip(part.offsets, part.offsets[1:], strict=False)
            ),
        ]
    )
    return replace(part, times=part.times[order], units=part.units[order])
