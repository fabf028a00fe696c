"""The exact mode is lauscher, spike for spike; the fast mode is lauscher but for chance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile

from snnbench.data_prep import cochlea, cochlea_exact
from snnbench.data_prep.basilar_membrane import CHANNELS_AT_ONCE
from snnbench.data_prep.cochlea import PRESETS, CochleaParameters, Spikes, cochlea_spikes
from snnbench.data_prep.cochlea_statistics import Comparison, compare
from snnbench.errors import UsageError
from tests.test_cochlea import vowel

LAUSCHER = PRESETS["lauscher"]
SMALL = CochleaParameters(n_channels=33, ramp_s=0.005)


# Random numbers


def test_uniform_numbers_are_numpys():
    """A row of fibres against numpy.random.rand, the thinning written out."""
    rng = np.random.default_rng(0)
    p = rng.choice([0, 1e-9, 0.01, 0.3, 0.999, 1, 2.5], (501, CHANNELS_AT_ONCE))
    p *= rng.random(p.shape)
    generator = np.random.RandomState(7)
    expected = np.zeros_like(p)
    for lane in range(5):
        fires = generator.random_sample((len(p), 40)) < p[:, lane : lane + 1]
        for fibre in range(40):
            last = -100
            for t in fires[:, fibre].nonzero()[0].tolist():
                if t - last >= 24:
                    expected[t, lane] += 1
                    last = t
    rows = p.copy()
    cochlea_exact.fibre_spikes_exact(rows, 5, cochlea_exact.mersenne_twister(7, None), 40, 24)
    np.testing.assert_array_equal(rows[:, :5], expected[:, :5])
    np.testing.assert_array_equal(rows[:, 5:], p[:, 5:])


def test_each_recording_of_a_data_set_has_its_own_seed():
    """The seed of (0, "a") written out: data sets made with it must not change."""

    def first(seed: int, key: str | int | None) -> bytes:
        return cochlea_exact.mersenne_twister(seed, key).words.tobytes()

    assert len({first(s, k) for s in (0, 1) for k in ("a", "b", 7, None)}) == 8
    for arguments, numpy_seed in (((0, "a"), 3931300285), ((1, None), 1)):
        state: Any = np.random.RandomState(numpy_seed).get_state()
        assert first(*arguments) == state[1].tobytes()


def test_a_seed_that_numpy_does_not_take():
    with pytest.raises(UsageError, match="from 0 to 4294967295"):
        cochlea_exact.mersenne_twister(2**32, None)
    cochlea_exact.mersenne_twister(2**32, "a recording")


# lauscher, spike for spike


class Recording(NamedTuple):
    """A recording of the reference, with its stages in the exact mode."""

    folder: Path
    name: str
    sound: np.ndarray
    rate_hz: int
    exact: cochlea.Stages

    def draw(self, seed: int) -> Spikes:
        return cochlea.draw_spikes(
            self.exact.probability,
            self.rate_hz // 2,
            parameters=LAUSCHER,
            seed=seed,
            key=None,
            mode="exact",
        )

    def fast(self, seed: int) -> Spikes:
        return cochlea_spikes(
            self.sound, self.rate_hz, parameters=LAUSCHER, seed=seed, key=self.name
        )

    def assert_lauschers(self, spikes: Spikes, seed: int) -> None:
        reference = np.load(self.folder / f"{self.name}_seed{seed}.npz")
        np.testing.assert_array_equal(spikes.units, reference["units"])
        np.testing.assert_array_equal(spikes.times, reference["times"].astype(np.float32))


def recording(shared_data: Path, file: str) -> Recording:
    folder = shared_data / "lauscher-reference"
    sound, rate_hz = soundfile.read(folder / "wav" / file)
    exact = cochlea.stages(sound, rate_hz, parameters=LAUSCHER, mode="exact")
    return Recording(folder, file.split(".")[0], sound, rate_hz, exact)


@pytest.fixture(scope="module")
def fuenf(shared_data: Path, tables: Path) -> Iterator[Recording]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNNBENCH_DATA", str(tables.parent))
        yield recording(shared_data, "fuenf_48k.wav")


@pytest.fixture(scope="module")
def ten_seeds(fuenf: Recording) -> list[Spikes]:
    return [fuenf.draw(seed) for seed in range(10)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exact_mode_repeats_lauscher(fuenf, ten_seeds, seed):
    fuenf.assert_lauschers(ten_seeds[seed], seed)


@pytest.mark.usefixtures("cochlea_tables")
def test_exact_mode_repeats_lauscher_at_16_khz(shared_data):
    found = recording(shared_data, "left_16k.wav")
    found.assert_lauschers(found.draw(1), 1)


@pytest.mark.slow
@pytest.mark.usefixtures("cochlea_tables")
@pytest.mark.parametrize("name", ["left_16k.wav", "seven_48k.wav", "spoken_digit.flac"])
def test_exact_mode_repeats_lauscher_on_longer_recordings(shared_data, name):
    found = recording(shared_data, name)
    for seed in range(3):
        found.assert_lauschers(found.draw(seed), seed)


@pytest.mark.slow
@pytest.mark.usefixtures("cochlea_tables")
@pytest.mark.parametrize(
    ("preset", "n_spikes"), [("lauscher", 7208), ("shd", 8378), ("article", 10040)]
)
def test_presets_give_their_known_number_of_spikes(shared_data, preset, n_spikes):
    sound, rate_hz = soundfile.read(
        shared_data / "lauscher-reference" / "wav" / "spoken_digit.flac"
    )
    p = PRESETS[preset]
    spikes = cochlea_spikes(sound, rate_hz, parameters=p, seed=0, key=None, mode="exact")
    assert len(spikes.times) == n_spikes


def test_exact_mode_repeats_lauschers_stages(fuenf):
    stored = np.load(fuenf.folder / "fuenf_48k_stages.npz")
    channels = stored["channels"]
    prepared = cochlea.prepare(fuenf.sound, fuenf.rate_hz, LAUSCHER)
    np.testing.assert_allclose(prepared, stored["windowed"], rtol=0, atol=1e-14)
    velocity, probability = (stage.T for stage in fuenf.exact)
    largest = np.abs(stored["bm"]).max()
    np.testing.assert_allclose(velocity[channels], stored["bm"], rtol=0, atol=1e-9 * largest)
    np.testing.assert_allclose(probability[channels], stored["hair_p"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(probability.mean(axis=1), stored["hair_mean"], rtol=1e-8)


@pytest.mark.usefixtures("cochlea_tables")
def test_exact_mode_with_a_key_and_without():
    sound = vowel(0.05)
    runs = [
        cochlea_spikes(sound, 48000, parameters=SMALL, seed=seed, key=key, mode="exact")
        for seed, key in ((3931300285, None), (0, "a"), (0, "b"))
    ]
    np.testing.assert_array_equal(runs[0].times, runs[1].times)
    assert not np.array_equal(runs[1].times, runs[2].times)


# Fast mode against exact mode


def assert_alike(c: Comparison, n_seeds: int) -> None:
    """No more different than lauscher from itself, with room for the chance of so many seeds."""
    assert abs(c.total_z) < 3.5
    assert c.counts_across > c.counts_ceiling - 0.01 / math.sqrt(n_seeds)
    assert c.counts > c.counts_ceiling
    assert c.psth > c.psth_ceiling - 1e-4
    assert abs(c.z_mean) < 0.15
    assert 0.85 < c.z_sd < 1.15


def test_fast_mode_has_lauschers_statistics(fuenf, ten_seeds):
    fast = [fuenf.fast(seed) for seed in range(10)]
    assert_alike(compare(ten_seeds, fast, 700, 0.4), 10)


@pytest.mark.slow
@pytest.mark.usefixtures("cochlea_tables")
@pytest.mark.parametrize("file", ["fuenf_48k.wav", "left_16k.wav"])
def test_fast_mode_has_lauschers_statistics_over_30_seeds(shared_data, file):
    found = recording(shared_data, file)
    exact, fast = ([draw(seed) for seed in range(30)] for draw in (found.draw, found.fast))
    assert_alike(compare(exact, fast, 700, len(found.sound) / found.rate_hz), 30)


def test_comparison_sees_a_difference_of_five_percent():
    """Ten runs of 40 Poisson channels, 200 spikes each: alike, and 5 % more in half of the channels."""
    rng = np.random.default_rng(0)

    def runs(rates: np.ndarray) -> list[Spikes]:
        made = []
        for _ in range(10):
            units = np.repeat(np.arange(40), rng.poisson(rates))
            made.append(Spikes(rng.random(len(units), np.float32), units.astype(np.uint16)))
        return made

    plain = np.full(40, 200)
    same = compare(runs(plain), runs(plain), 40, 1.0)
    other = compare(runs(plain), runs(plain + 10 * (np.arange(40) % 2)), 40, 1.0)
    assert abs(same.total_z) < 3.5
    assert 0.7 < same.z_sd < 1.4
    assert other.total_z > 5
    assert other.z_mean > 0.5


def test_fast_mode_has_lauschers_stages(fuenf):
    fast = cochlea.stages(fuenf.sound, fuenf.rate_hz, parameters=LAUSCHER)
    np.testing.assert_allclose(
        fast.velocity.std(axis=0), fuenf.exact.velocity.std(axis=0), rtol=1e-3
    )
    np.testing.assert_allclose(
        fast.probability.mean(axis=0, dtype=np.float64),
        fuenf.exact.probability.mean(axis=0),
        rtol=3e-4,
    )


def test_fast_mode_equals_exact_mode_on_a_vowel():
    p = CochleaParameters(n_channels=96, ramp_s=0.03)
    sound = vowel()
    exact = cochlea.stages(sound, 48000, parameters=p, mode="exact")
    fast = cochlea.stages(sound, 48000, parameters=p)
    assert fast.velocity.shape == exact.velocity.shape
    np.testing.assert_allclose(
        fast.probability.mean(axis=0, dtype=np.float64), exact.probability.mean(axis=0), rtol=3e-3
    )
    modes: list[tuple[cochlea.Stages, cochlea.Mode]] = [(exact, "exact"), (fast, "fast")]
    drawn = [
        [
            cochlea.draw_spikes(
                stages.probability, 24000, parameters=p, seed=seed, key=None, mode=mode
            )
            for seed in range(12)
        ]
        for stages, mode in modes
    ]
    c = compare(drawn[0], drawn[1], 96, 0.25)
    assert abs(c.total_z) < 3.5
    assert c.counts > c.counts_ceiling
    assert 0.75 < c.z_sd < 1.3
