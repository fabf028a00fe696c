"""Random changes of the spikes of a training batch, on the device where the batch is made.

    events = Events.of(times_s, units, counts)           flat arrays, events per sample
    events = augment(events, labels, spec.train.augment, n_units=700, duration_s=1.4, generator=g)

Every transform is a pure function: events in, new events out, the generator's state moved on. Events
carry their sample's number, so their order means nothing, and none is kept: after blending and noise
the events of a sample no longer lie side by side. Binning does not ask for it; who needs sorted events
sorts what comes out.

What leaves the range is left out, at both ends of both axes: units outside 0..n_units-1 and times
before 0 here, times at or after the duration where the events are binned. Moved to the border instead,
these events would pile up there as a burst that no ear hears.

The same seed gives the same events on one device; CPU and GPU draw different numbers.

Cramer et al. (2022), IEEE Trans. Neural Netw. Learn. Syst. 33, trained with channel jitter and input
noise; Nowotny, Turner & Knight (2025; arXiv 2212.01232) with channel shifts and blending; Park et al. (2019;
arXiv 1904.08779) with masked bands of frequencies and masked stretches of time.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from snnbench.spec import AugmentSpec


class Events(NamedTuple):
    """Spikes of a batch, flat and in no particular order."""

    times_s: Tensor
    """When, float32 of shape (event,)."""
    units: Tensor
    """Which unit of the data set, int64 of shape (event,)."""
    samples: Tensor
    """Which sample of the batch, 0 to batch-1, int64 of shape (event,)."""

    @classmethod
    def of(cls, times_s: Tensor, units: Tensor, counts: Tensor) -> Self:
        """Events of samples that lie one behind the other, `counts` (int64, per sample) of each."""
        return cls(times_s, units, torch.repeat_interleave(counts, output_size=times_s.shape[0]))

    def where(self, keep: Tensor) -> Self:
        """The events for which `keep`, bool of shape (event,), holds."""
        # found once and gathered three times: a quarter of the time that three masks take
        kept = keep.nonzero().squeeze(1)
        return type(self)(*(column.index_select(0, kept) for column in self))


def augment(
    events: Events,
    labels: Tensor,
    spec: AugmentSpec,
    *,
    n_units: int,
    duration_s: float,
    generator: torch.Generator,
) -> Events:
    """The events after all transforms that `spec` turns on; what is off draws no random numbers.

    The order is that of a recording's making: another speaker (blend, time scale, channel shift, fade),
    then the ear (channel jitter, time jitter, deletion), then what it misses (masks), then the noise,
    whose rate thus is exact.

    Parameters
    ----------
    events
        Spikes of the batch; left as they are.
    labels
        Class of every sample, int64 of shape (batch,), on the events' device.
    n_units, duration_s
        Units of the data set, and how long noise lasts.
    generator
        On the events' device.
    """
    n_samples = len(labels)
    if spec.blend_p > 0:
        events = blend(events, labels, spec.blend_p, n_units, generator)
    if spec.time_scale > 1:
        events = scale_time(events, spec.time_scale, n_samples, generator)
    if spec.channel_shift > 0:
        events = shift_channels(events, spec.channel_shift, n_samples, n_units, generator)
    if spec.fade_p > 0:
        events = fade(events, spec.fade_p, n_samples, n_units, generator)
    if spec.channel_jitter > 0:
        events = jitter_channels(events, spec.channel_jitter, n_units, generator)
    if spec.time_jitter_s > 0:
        events = jitter_times(events, spec.time_jitter_s, generator)
    if spec.deletion_p > 0:
        events = delete(events, spec.deletion_p, generator)
    if spec.mask_units > 0:
        events = mask_units(events, spec.mask_units, n_samples, n_units, generator)
    if spec.mask_s > 0:
        events = mask_times(events, spec.mask_s, n_samples, generator)
    if spec.noise_hz > 0:
        events = add_noise(events, spec.noise_hz, n_samples, n_units, duration_s, generator)
    return events


def blend(
    events: Events, labels: Tensor, p: float, n_units: int, generator: torch.Generator
) -> Events:
    """With probability `p` a sample becomes a blend of itself and another one of its class.

    Both are moved, in time and over units, to where the middle of their two centres of mass lies, and
    of either every event is kept with probability 1/2 (Nowotny, Turner & Knight 2025, who blend all of
    the training set, where we take the partner from the batch). The partner is any other sample of the
    class with equal probability. A sample that is alone, and one whose partner or itself is silent,
    stays as it is.
    """
    counts, time_sums, unit_sums = _sums(events, len(labels))
    partner = _partners(labels, generator)
    chosen = torch.rand(len(labels), device=labels.device, generator=generator) < p
    itself = torch.arange(len(labels), device=labels.device)
    blended = chosen & (partner != itself) & (counts > 0) & (counts[partner] > 0)

    mean_time, mean_unit = time_sums / counts, unit_sums / counts
    middle_time = (mean_time + mean_time[partner]) / 2
    middle_unit = (mean_unit + mean_unit[partner]) / 2

    def moved(part: Events, source: Tensor) -> Events:
        """Events of a blend, half of those given; `source` is the sample that each was recorded in."""
        keep = torch.rand(len(source), device=source.device, generator=generator) < 0.5
        part, source = part.where(keep), source[keep]
        delay = (middle_time[part.samples] - mean_time[source]).float()
        shift = (middle_unit[part.samples] - mean_unit[source]).round().long()
        return _inside(Events(part.times_s + delay, part.units + shift, part.samples), n_units)

    own = events.where(blended[events.samples])
    # every sample is partner of exactly one: its events go there, too
    taker = torch.empty_like(partner).scatter_(0, partner, itself)[events.samples]
    lent = blended[taker]
    given = Events(events.times_s, events.units, taker).where(lent)
    return _joined(
        events.where(~blended[events.samples]),
        moved(own, own.samples),
        moved(given, events.samples[lent]),
    )


def scale_time(
    events: Events, largest: float, n_samples: int, generator: torch.Generator
) -> Events:
    """Times of a sample multiplied by one factor, log-uniform between 1/largest and largest."""
    exponent = 2 * torch.rand(n_samples, device=events.samples.device, generator=generator) - 1
    factor = torch.exp(exponent * math.log(largest))
    return events._replace(times_s=events.times_s * factor[events.samples])


def shift_channels(
    events: Events, largest: int, n_samples: int, n_units: int, generator: torch.Generator
) -> Events:
    """All units of a sample moved by one whole number from -largest..largest, all equally likely."""
    shift = torch.randint(
        -largest, largest + 1, (n_samples,), device=events.samples.device, generator=generator
    )
    return _inside(events._replace(units=events.units + shift[events.samples]), n_units)


def fade(
    events: Events, largest: float, n_samples: int, n_units: int, generator: torch.Generator
) -> Events:
    """A softer or duller voice: events left out, with a probability that is linear over units.

    Its values at the first and at the last unit are drawn for each sample, uniform from 0 to `largest`.
    """
    device = events.samples.device
    ends = largest * torch.rand(n_samples, 2, device=device, generator=generator)
    place = events.units / max(n_units - 1, 1)
    low, high = ends[events.samples].unbind(1)
    drawn = torch.rand(len(events.samples), device=device, generator=generator)
    return events.where(drawn >= low + (high - low) * place)


def mask_units(
    events: Events, widest: int, n_samples: int, n_units: int, generator: torch.Generator
) -> Events:
    """One band of neighbouring units of each sample falls silent, as in SpecAugment (Park et al. 2019).

    Its width is a whole number from 0..widest, its place any at which it lies within the units.
    """
    device = events.samples.device
    width = torch.randint(0, widest + 1, (n_samples,), device=device, generator=generator)
    width = width.clamp(max=n_units)
    # a double below 1 times a whole number, rounded down: one of the numbers below it, equally likely
    drawn = torch.rand(n_samples, dtype=torch.float64, device=device, generator=generator)
    first = (drawn * (n_units - width + 1)).long()
    above = events.units - first[events.samples]
    return events.where((above < 0) | (above >= width[events.samples]))


def mask_times(
    events: Events, longest_s: float, n_samples: int, generator: torch.Generator
) -> Events:
    """One stretch of time of each sample falls silent, uniform from 0 to `longest_s`.

    It is centred on a moment that is uniform between the sample's first and last event.
    """
    device = events.samples.device
    length_s, moment = torch.rand(2, n_samples, device=device, generator=generator).unbind(0)
    ends = torch.full((2, n_samples), torch.inf, device=device)
    first, last = (
        ends[i].scatter_reduce(0, events.samples, sign * events.times_s, "amin") * sign
        for i, sign in enumerate((1, -1))
    )
    centre_s = first + (last - first) * moment
    away_s = (events.times_s - centre_s[events.samples]).abs()
    return events.where(away_s >= longest_s / 2 * length_s[events.samples])


def jitter_channels(
    events: Events, sd_units: float, n_units: int, generator: torch.Generator
) -> Events:
    """Every event moved by its own normal number of units, rounded to a whole one."""
    shift = _normal_like(events.times_s, generator).mul_(sd_units).round_().long()
    return _inside(events._replace(units=events.units + shift), n_units)


def jitter_times(events: Events, sd_s: float, generator: torch.Generator) -> Events:
    """Every event moved in time by its own normal number of standard deviation `sd_s`."""
    times_s = _normal_like(events.times_s, generator).mul_(sd_s).add_(events.times_s)
    return events._replace(times_s=times_s).where(times_s >= 0)


def delete(events: Events, p: float, generator: torch.Generator) -> Events:
    """Every event left out with probability `p`."""
    drawn = torch.rand(len(events.samples), device=events.samples.device, generator=generator)
    return events.where(drawn >= p)


def add_noise(
    events: Events,
    rate_hz: float,
    n_samples: int,
    n_units: int,
    duration_s: float,
    generator: torch.Generator,
) -> Events:
    """Poisson spikes of `rate_hz` in every unit of every sample, from 0 to before `duration_s`."""
    device = events.samples.device
    # one Poisson number per sample, spread evenly: the same process as one per unit, and cheaper
    expected = torch.full(
        (n_samples,), rate_hz * duration_s * n_units, dtype=torch.float64, device=device
    )
    counts = torch.poisson(expected, generator=generator).long()
    total = int(counts.sum())
    noise = Events.of(
        torch.rand(total, device=device, generator=generator) * duration_s,
        torch.randint(n_units, (total,), device=device, generator=generator),
        counts,
    )
    return _joined(events, noise)


def _partners(labels: Tensor, generator: torch.Generator) -> Tensor:
    """For every sample another one of its class (itself where it is alone), each named once."""
    by_chance = torch.randperm(len(labels), device=labels.device, generator=generator)
    # members of a class side by side, in random order: everyone takes the next, the last the first
    ring = by_chance[torch.argsort(labels[by_chance], stable=True)]
    classes = labels[ring]
    following = torch.roll(ring, -1)
    partner = torch.empty_like(ring)
    partner[ring] = torch.where(
        classes == labels[following], following, ring[torch.searchsorted(classes, classes)]
    )
    return partner


def _sums(events: Events, n_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Number of events, sum of times and sum of units of every sample, float64."""

    def total(values: Tensor) -> Tensor:
        zeros = torch.zeros(n_samples, dtype=torch.float64, device=values.device)
        return zeros.index_add_(0, events.samples, values.double())

    return total(torch.ones_like(events.times_s)), total(events.times_s), total(events.units)


def _inside(events: Events, n_units: int) -> Events:
    """Without the events whose unit or time left the range at its lower end, or unit at its upper."""
    keep = (events.units >= 0) & (events.units < n_units) & (events.times_s >= 0)
    return events.where(keep)


def _joined(*parts: Events) -> Events:
    return Events(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _normal_like(values: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(values.shape, dtype=values.dtype, device=values.device, generator=generator)
