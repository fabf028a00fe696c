"""Augmentation: every transform does to the spikes what its formula says, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from snnbench.data_prep.augment import (
    Events,
    add_noise,
    augment,
    blend,
    delete,
    fade,
    jitter_channels,
    jitter_times,
    mask_times,
    mask_units,
    scale_time,
    shift_channels,
)
from snnbench.seeding import deterministic
from snnbench.spec import AugmentSpec

N = 100_000
N_UNITS, DURATION_S = 700, 1.4
STRONG = AugmentSpec(
    blend_p=0.7,
    time_scale=1.3,
    channel_shift=40,
    channel_jitter=20,
    time_jitter_s=0.1,
    deletion_p=0.3,
    fade_p=0.4,
    mask_units=10,
    mask_s=0.1,
    noise_hz=1.6,
)


Transform = Callable[[Events, torch.Generator], Events]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same_events(n: int, time_s: float = 0.5, unit: int = 350) -> Events:
    """`n` events of one sample, all alike."""
    return Events.of(torch.full((n,), time_s), torch.full((n,), unit), torch.tensor([n]))


def one_each(n: int, time_s: float = 0.5, unit: int = 350) -> Events:
    """One event, always the same, in each of `n` samples."""
    return same_events(n, time_s, unit)._replace(samples=torch.arange(n))


def assert_share(found: float, p: float, n: int) -> None:
    """`found` of `n` agree with probability `p`: within 5 standard deviations of a binomial."""
    assert abs(found - n * p) < 5 * math.sqrt(n * p * (1 - p)) + 1e-9


def assert_moments(values: Tensor, mean: float, variance: float, kurtosis: float) -> None:
    """Mean and variance within 5 standard errors of those of a known distribution."""
    n = len(values)
    values = values.double()
    assert abs(float(values.mean()) - mean) < 5 * math.sqrt(variance / n)
    assert abs(float(values.var()) - variance) < 5 * variance * math.sqrt((kurtosis - 1) / n)


def listed(events: Events) -> list[tuple[float, ...]]:
    """The events in an order that does not depend on theirs."""
    return sorted(zip(*(column.tolist() for column in events), strict=True))


# --- time


def test_time_jitter_is_normal() -> None:
    jittered = jitter_times(same_events(N), 0.01, seeded())
    assert len(jittered.times_s) == N
    assert_moments(jittered.times_s, 0.5, 0.01**2, kurtosis=3)
    within = ((jittered.times_s - 0.5).abs() < 0.01).sum()
    assert_share(float(within), math.erf(math.sqrt(0.5)), N)


def test_events_before_the_recording_are_left_out() -> None:
    jittered = jitter_times(same_events(N, time_s=0.0), 0.01, seeded())
    assert_share(len(jittered.times_s), 0.5, N)
    # what is left of a normal distribution is its upper half: nothing is piled up at 0
    mean = 0.01 * math.sqrt(2 / math.pi)
    assert_moments(jittered.times_s, mean, 0.01**2 - mean**2, kurtosis=3.87)


def test_one_factor_scales_all_times_of_a_sample() -> None:
    events = Events.of(
        torch.tensor([0.1, 0.4, 1.0]).repeat(N), torch.zeros(3 * N).long(), torch.full((N,), 3)
    )
    scaled = scale_time(events, 2.0, N, seeded())
    factors = scaled.times_s.view(N, 3) / events.times_s.view(N, 3)
    torch.testing.assert_close(factors, factors[:, :1].expand(N, 3))
    octaves = factors[:, 0].log2()
    assert -1 <= octaves.min() < -0.99
    assert 0.99 < octaves.max() <= 1
    assert_moments(octaves, 0, 1 / 3, kurtosis=1.8)


# --- units


def test_channel_jitter_is_a_rounded_normal_number() -> None:
    jittered = jitter_channels(same_events(N), 1.5, N_UNITS, seeded())
    assert len(jittered.units) == N
    normal = NormalDist(0, 1.5)
    for k in range(-5, 6):
        p = normal.cdf(k + 0.5) - normal.cdf(k - 0.5)
        assert_share(float((jittered.units == 350 + k).sum()), p, N)


@pytest.mark.parametrize("unit", [0, N_UNITS - 1])
def test_units_beyond_the_ends_are_left_out(unit: int) -> None:
    jittered = jitter_channels(same_events(N, unit=unit), 1.5, N_UNITS, seeded())
    assert_share(len(jittered.units), NormalDist(0, 1.5).cdf(0.5), N)
    # those that round to no move at all: nothing is piled up in the last unit
    unmoved = 2 * NormalDist(0, 1.5).cdf(0.5) - 1
    assert_share(float((jittered.units == unit).sum()), unmoved, N)


def test_a_shift_is_uniform_and_both_ends_occur() -> None:
    shifted = shift_channels(one_each(N), 40, N, N_UNITS, seeded())
    counts = torch.bincount(shifted.units - 350 + 40)
    assert len(counts) == 81
    for count in counts.tolist():
        assert_share(count, 1 / 81, N)


def test_a_shift_moves_a_sample_as_a_whole() -> None:
    units = torch.tensor([0, 1, 350, 698, 699])
    events = Events.of(torch.arange(5.0).repeat(200), units.repeat(200), torch.full((200,), 5))
    shifted = shift_channels(events, 2, 200, N_UNITS, seeded())
    wanted = {
        k: [(t, u + k) for t, u in enumerate(units.tolist()) if 0 <= u + k < N_UNITS]
        for k in range(-2, 3)
    }
    seen = set()
    for i in range(200):
        mine = shifted.where(shifted.samples == i)
        shift = int(mine.units[mine.times_s == 2] - 350)
        assert list(zip(mine.times_s.tolist(), mine.units.tolist(), strict=True)) == wanted[shift]
        seen.add(shift)
    assert seen == set(wanted)


# --- more and fewer events


def test_deletion_keeps_each_event_by_chance() -> None:
    events = same_events(N)._replace(times_s=torch.arange(N) / N)
    kept = delete(events, 0.3, seeded())
    assert_share(len(kept.units), 0.7, N)
    # early and late alike
    assert_share(float((kept.times_s < 0.5).sum()), 0.7, N // 2)
    assert set(kept.times_s.tolist()) < set(events.times_s.tolist())


def test_a_fade_is_linear_from_the_first_unit_to_the_last() -> None:
    n, each, p = 400, 900, 0.8
    units = torch.tensor([0, 350, 700]).repeat(n * each // 3)  # first, middle and last of 701
    events = Events.of(torch.zeros(n * each), units, torch.full((n,), each))
    kept = fade(events, p, n, 701, seeded())
    lost = [
        1 - torch.bincount(kept.samples[kept.units == unit], minlength=n) / (each / 3)
        for unit in (0, 350, 700)
    ]
    for end in (lost[0], lost[2]):
        # uniform from 0 to p, plus what 300 events with that probability add
        chance = (p / 2 - p**2 / 3) / (each / 3)
        assert_moments(end, p / 2, p**2 / 12 + chance, kurtosis=1.8)
    assert abs(float(torch.corrcoef(torch.stack([lost[0], lost[2]]))[0, 1])) < 5 / math.sqrt(n)
    middle = lost[1] - (lost[0] + lost[2]) / 2
    assert float(middle.std()) < 2 * math.sqrt(1.5 * 0.25 / (each / 3))
    assert abs(float(middle.mean())) < 5 * math.sqrt(1.5 * 0.25 / (each / 3) / n)


def gaps(kept: Events, n_samples: int, n_places: int, place: Tensor) -> list[list[int]]:
    """Of samples that had one event at each of `n_places` places, those where it is gone."""
    present = torch.zeros(n_samples, n_places, dtype=torch.bool)
    present[kept.samples, place] = True
    return [(~row).nonzero().flatten().tolist() for row in present]


def test_a_mask_is_a_band_of_units_anywhere() -> None:
    n, n_units, widest = 20_000, 20, 3
    events = Events.of(
        torch.zeros(n * n_units), torch.arange(n_units).repeat(n), torch.full((n,), n_units)
    )
    kept = mask_units(events, widest, n, n_units, seeded())
    found = gaps(kept, n, n_units, kept.units)
    for width in range(widest + 1):
        firsts = [gap[0] if gap else 0 for gap in found if len(gap) == width]
        assert_share(len(firsts), 1 / (widest + 1), n)
        if width:
            places = n_units - width + 1
            assert set(firsts) == set(range(places))
            for first in (0, places - 1):
                assert_share(firsts.count(first), 1 / places, len(firsts))
    assert all(gap == list(range(gap[0], gap[0] + len(gap))) for gap in found if gap)


def test_a_mask_wider_than_the_ear_silences_it() -> None:
    events = one_each(1000, unit=3)
    kept = mask_units(events, 14, 1000, 5, seeded())
    # widths 5 to 14 of 0 to 14 cover all five units, and one of w < 5 is over unit 3 ...
    covering = [min(3, 5 - w) - max(0, 4 - w) + 1 for w in range(1, 5)]
    p = (10 + sum(c / (6 - w) for w, c in enumerate(covering, 1))) / 15
    assert_share(1000 - len(kept.units), p, 1000)


def test_a_mask_is_a_stretch_of_time_within_the_sample() -> None:
    n, steps, longest_s = 2000, 201, 0.4
    times_s = torch.arange(steps) / 100 + 0.3  # 2 s that begin late
    events = Events.of(times_s.repeat(n), torch.zeros(n * steps).long(), torch.full((n,), steps))
    kept = mask_times(events, longest_s, n, seeded())
    place = ((kept.times_s - 0.3) * 100).round().long()
    found = gaps(kept, n, steps, place)
    assert all(gap == list(range(gap[0], gap[0] + len(gap))) for gap in found if gap)
    assert max(map(len, found)) <= 41
    # a length L, uniform up to M, loses L^2 / 4 of T on average where it hangs over the two ends
    mean_s = longest_s / 2 - longest_s**2 / 12 / 2
    lengths_s = torch.tensor([len(gap) / 100 for gap in found])
    assert abs(float(lengths_s.mean()) - mean_s) < 5 * float(lengths_s.std()) / math.sqrt(n)
    centres = torch.tensor([(gap[0] + gap[-1]) / 2 / (steps - 1) for gap in found if gap])
    for quarter in range(4):
        inside = ((centres >= quarter / 4) & (centres < (quarter + 1) / 4)).sum()
        assert_share(float(inside), 1 / 4, len(centres))


def test_silence_can_be_masked() -> None:
    alone = one_each(1)._replace(samples=torch.tensor([1]))
    for events in (same_events(0), alone):
        assert len(mask_times(events, 0.0, 3, seeded()).units) == len(events.units)


def test_noise_is_a_poisson_process() -> None:
    events, n = one_each(5000), 5000
    noisy = add_noise(events, 1.6, n, N_UNITS, DURATION_S, seeded())
    noise = Events(*(column[n:] for column in noisy))
    assert listed(Events(*(column[:n] for column in noisy))) == listed(events)
    mean = 1.6 * N_UNITS * DURATION_S
    per_sample = torch.bincount(noise.samples, minlength=n)
    assert_moments(per_sample, mean, mean, kurtosis=3 + 1 / mean)
    assert_moments(noise.times_s, DURATION_S / 2, DURATION_S**2 / 12, kurtosis=1.8)
    per_unit = torch.bincount(noise.units, minlength=N_UNITS)
    assert len(per_unit) == N_UNITS
    assert_moments(per_unit, n * 1.6 * DURATION_S, n * 1.6 * DURATION_S, kurtosis=3)


@given(st.floats(1e-3, 100))
def test_noise_ends_before_the_duration(duration_s: float) -> None:
    # the largest number below 1 that torch.rand draws
    latest = torch.tensor(1 - 2**-24) * duration_s
    assert latest.dtype == torch.float32
    assert latest < torch.tensor(duration_s)


# --- blend


def test_a_blend_takes_half_of_either_and_puts_it_in_the_middle() -> None:
    labels = torch.tensor([3, 3])
    events = Events(
        torch.tensor([0.2]).repeat(N).repeat_interleave(2) * torch.tensor([1, 2]).repeat(N),
        torch.tensor([11, 30]).repeat(N),
        torch.tensor([0, 1]).repeat(N),
    )
    # an event that tells the two apart: unit 11 and 30 move to their middle, 20.5
    blended = blend(events, labels, 1.0, N_UNITS, seeded())
    torch.testing.assert_close(blended.times_s, torch.full_like(blended.times_s, 0.3))
    assert set(blended.units.tolist()) == {21, 20}  # 11 + 9.5 and 30 - 9.5, rounded to even moves
    for sample in (0, 1):
        assert_share(float((blended.samples == sample).sum()), 0.5, 2 * N)
    assert_share(float((blended.units == 21).sum()), 0.5, 2 * N)


def test_a_blend_keeps_the_shape_of_both() -> None:
    events = Events(
        torch.tensor([0.1, 0.3, 0.6, 0.8]),
        torch.tensor([100, 120, 210, 230]),
        torch.tensor([0, 0, 1, 1]),
    )
    found = set()
    for seed in range(50):
        blended = blend(events, torch.zeros(2).long(), 1.0, N_UNITS, seeded(seed))
        found |= {(round(t, 4), u) for t, u, _ in listed(blended)}
    # centres (0.2, 110) and (0.7, 220); their middle is (0.45, 165)
    assert found == {(0.35, 155), (0.55, 175)}


def test_only_samples_of_one_class_are_blended() -> None:
    labels = torch.randint(5, (400,), generator=seeded(1))
    labels[7] = 9  # alone in its class
    # all of a class at one place, each class elsewhere
    events = Events.of(
        (labels + 1).repeat_interleave(20) * 0.1,
        labels.repeat_interleave(20) * 50,
        torch.full((400,), 20),
    )
    before = listed(events)
    blended = blend(events, labels, 1.0, N_UNITS, seeded())
    torch.testing.assert_close(blended.times_s, (labels[blended.samples] + 1) * 0.1)
    torch.testing.assert_close(blended.units, labels[blended.samples] * 50)
    assert listed(events) == before
    assert int((blended.samples == 7).sum()) == 20
    assert int((blended.samples == 8).sum()) != 20


def test_every_other_sample_of_the_class_may_be_partner() -> None:
    # four samples around unit 350: the shape of each, a pair of spikes, tells which it was
    widths = torch.tensor([1, 2, 3, 4])
    events = Events.of(
        torch.full((800,), 0.5),
        torch.stack((350 - widths, 350 + widths), 1).repeat_interleave(100, 0).flatten(),
        torch.full((4,), 200),
    )
    pairs = []
    for seed in range(600):
        blended = blend(events, torch.zeros(4).long(), 1.0, N_UNITS, seeded(seed))
        widths_seen = (blended.units[blended.samples == 0] - 350).abs().unique().tolist()
        itself, partner = widths_seen
        assert itself == 1
        pairs.append(partner)
    for partner in (2, 3, 4):
        assert_share(pairs.count(partner), 1 / 3, 600)


def test_a_share_of_the_samples_is_blended() -> None:
    n = 20_000
    # 40 events each: that all 40 of a blend's 80 are kept is as good as impossible
    events = Events.of(torch.full((40 * n,), 0.5), torch.full((40 * n,), 9), torch.full((n,), 40))
    labels = torch.zeros(n).long()
    counts = torch.bincount(blend(events, labels, 0.2, N_UNITS, seeded()).samples, minlength=n)
    # a blend has 40 of 80 events by chance, too
    unchanged = math.comb(80, 40) / 2**80
    assert_share(float((counts != 40).sum()), 0.2 * (1 - unchanged), n)


def test_silence_is_not_blended() -> None:
    events = one_each(3)._replace(samples=torch.tensor([0, 0, 2]))
    for seed in range(20):
        blended = blend(events, torch.tensor([4, 4, 5]), 1.0, N_UNITS, seeded(seed))
        assert listed(blended) == listed(events)


# --- all of them


def test_nothing_changes_when_all_is_off() -> None:
    events = one_each(5)
    generator = seeded()
    before = generator.get_state()
    after = augment(
        events,
        torch.zeros(5).long(),
        AugmentSpec(),
        n_units=N_UNITS,
        duration_s=DURATION_S,
        generator=generator,
    )
    assert after is events
    assert torch.equal(generator.get_state(), before)


ALONE: dict[str, tuple[AugmentSpec, Transform]] = {
    "blend_p": (
        AugmentSpec(blend_p=0.5),
        lambda e, g: blend(e, torch.zeros(50).long(), 0.5, N_UNITS, g),
    ),
    "time_scale": (AugmentSpec(time_scale=1.5), lambda e, g: scale_time(e, 1.5, 50, g)),
    "channel_shift": (
        AugmentSpec(channel_shift=9),
        lambda e, g: shift_channels(e, 9, 50, N_UNITS, g),
    ),
    "channel_jitter": (
        AugmentSpec(channel_jitter=2),
        lambda e, g: jitter_channels(e, 2, N_UNITS, g),
    ),
    "time_jitter_s": (AugmentSpec(time_jitter_s=0.01), lambda e, g: jitter_times(e, 0.01, g)),
    "fade_p": (AugmentSpec(fade_p=0.8), lambda e, g: fade(e, 0.8, 50, N_UNITS, g)),
    "mask_units": (AugmentSpec(mask_units=700), lambda e, g: mask_units(e, 700, 50, N_UNITS, g)),
    "mask_s": (AugmentSpec(mask_s=0.3), lambda e, g: mask_times(e, 0.3, 50, g)),
    "deletion_p": (AugmentSpec(deletion_p=0.5), lambda e, g: delete(e, 0.5, g)),
    "noise_hz": (
        AugmentSpec(noise_hz=2),
        lambda e, g: add_noise(e, 2, 50, N_UNITS, DURATION_S, g),
    ),
}


@pytest.mark.parametrize("key", AugmentSpec.model_fields)
def test_a_key_turns_on_one_transform(key: str) -> None:
    spec, transform = ALONE[key]
    events = one_each(500)._replace(samples=torch.arange(500) % 50)
    events = events._replace(times_s=torch.rand(500, generator=seeded(3)))
    alone = augment(
        events,
        torch.zeros(50).long(),
        spec,
        n_units=N_UNITS,
        duration_s=DURATION_S,
        generator=seeded(),
    )
    assert listed(alone) == listed(transform(events, seeded()))
    assert listed(alone) != listed(events)


def test_noise_comes_last_so_that_its_rate_is_exact() -> None:
    nothing = same_events(0)
    spec = STRONG.model_copy(update={"deletion_p": 0.9, "channel_shift": 699, "noise_hz": 100.0})
    noisy = augment(
        nothing,
        torch.tensor([0]),
        spec,
        n_units=N_UNITS,
        duration_s=DURATION_S,
        generator=seeded(),
    )
    expected = 100 * N_UNITS * DURATION_S
    assert abs(len(noisy.units) - expected) < 5 * math.sqrt(expected)


batches = st.lists(
    st.lists(st.tuples(st.floats(0, 1.5, width=32), st.integers(0, 19)), max_size=12),
    min_size=1,
    max_size=6,
)


@given(batches, st.integers(0, 2**32), st.data())
def test_what_comes_out_is_a_batch_as_what_went_in(
    batch: list[list[tuple[float, int]]], seed: int, data: st.DataObject
) -> None:
    events = Events.of(
        torch.tensor([t for sample in batch for t, _ in sample], dtype=torch.float32),
        torch.tensor([u for sample in batch for _, u in sample], dtype=torch.int64),
        torch.tensor([len(sample) for sample in batch]),
    )
    n = len(batch)
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    copies = [column.clone() for column in (*events, labels)]

    def run(seed: int, spec: AugmentSpec = STRONG) -> Events:
        with deterministic():
            return augment(events, labels, spec, n_units=20, duration_s=0.5, generator=seeded(seed))

    first, second = run(seed), run(seed)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
    for column, copy in zip((*events, labels), copies, strict=True):
        assert torch.equal(column, copy)
    for column, old in zip(first, events, strict=True):
        assert (column.dtype, column.shape) == (old.dtype, first.units.shape)
    if len(first.units):
        assert first.times_s.min() >= 0
        assert set(first.units.tolist()) <= set(range(20))
        assert set(first.samples.tolist()) <= set(range(n))
    size = len(events.units)
    assert len(run(seed, AugmentSpec(time_scale=2)).units) == size
    assert len(run(seed, AugmentSpec(noise_hz=1)).units) >= size
    for weaker in (
        AugmentSpec(deletion_p=0.5),
        AugmentSpec(time_jitter_s=1),
        AugmentSpec(channel_jitter=9),
        AugmentSpec(channel_shift=9),
        AugmentSpec(fade_p=0.5),
        AugmentSpec(mask_units=9),
        AugmentSpec(mask_s=0.5),
    ):
        assert len(run(seed, weaker).units) <= size


def test_another_seed_gives_other_events() -> None:
    events = one_each(200)

    def run(seed: int) -> list[tuple[float, ...]]:
        labels = torch.zeros(200).long()
        generator = seeded(seed)
        return listed(
            augment(events, labels, STRONG, n_units=700, duration_s=1.4, generator=generator)
        )

    assert run(1) == run(1) != run(2)


@pytest.mark.gpu
def test_the_same_on_a_gpu() -> None:
    cuda = torch.device("cuda")
    labels = (torch.arange(64) % 8).to(cuda)
    events = Events.of(
        torch.full((64_000,), 0.5).to(cuda),
        torch.full((64_000,), 350).to(cuda),
        torch.full((64,), 1000).to(cuda),
    )

    def run() -> Events:
        generator = torch.Generator(cuda).manual_seed(0)
        with deterministic():
            return augment(events, labels, STRONG, n_units=700, duration_s=1.4, generator=generator)

    first, second = run(), run()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(column.device.type == "cuda" for column in first)
    noise = 64 * 1.6 * 700 * 1.4
    expected = 64_000 * 0.7 * 0.8 + noise  # nothing leaves the range from the middle, masks hit few
    assert abs(len(first.units) - expected) < 6000
