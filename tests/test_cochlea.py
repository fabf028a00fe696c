"""The cochlea: closed forms of each stage, the same spikes everywhere, unusable sound."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from snnbench.data_prep import (
    auditory_nerve,
    basilar_membrane,
    bushy_cell,
    cochlea,
    cochlea_exact,
    cochlea_filterbank,
    hair_cell,
)
from snnbench.data_prep.basilar_membrane import CHANNELS_AT_ONCE, MembraneParameters
from snnbench.data_prep.bushy_cell import BushyCellParameters
from snnbench.data_prep.cochlea import (
    PRESETS,
    CochleaParameters,
    cochlea_spikes,
    preset_parameters,
)
from snnbench.data_prep.hair_cell import HairCellParameters
from snnbench.errors import SnnbenchError, UsageError

RATE_HZ = 24000
SMALL = CochleaParameters(n_channels=32, ramp_s=0.005)


def vowel(duration_s: float = 0.25, rate_hz: int = 48000) -> np.ndarray:
    """A voice-like sound: a glottal pulse train of 120 Hz through three formants, and some noise."""
    n = round(duration_s * rate_hz)
    t = np.arange(n) / rate_hz
    sound = 0.02 * np.random.default_rng(0).standard_normal(n)
    for harmonic in range(1, 60):
        f = 120 * harmonic
        gain = sum(1 / (1 + ((f - formant) / 90) ** 2) for formant in (700, 1200, 2600))
        sound += gain * np.cos(2 * np.pi * f * t + harmonic**2)
    return sound / np.abs(sound).max()


# Basilar membrane


def test_place_frequency_map():
    p = MembraneParameters()
    places = basilar_membrane.places_cm(700, p)[[0, 100, 200, 300, 400, 500, 600, 699]]
    np.testing.assert_allclose(
        basilar_membrane.characteristic_frequency_hz(places, p),
        [22500, 10600, 5000, 2360, 1120, 525, 245, 110],
        rtol=0.01,
    )


@pytest.mark.parametrize("channel", [50, 200, 400, 600, 699])
def test_gain_peaks_just_below_the_characteristic_frequency(channel):
    p = MembraneParameters()
    place = basilar_membrane.places_cm(700, p)[channel]
    best = basilar_membrane.characteristic_frequency_hz(place, p)
    f = best * np.linspace(0.3, 2, 2000)
    gain = np.abs(basilar_membrane.transfer_function(f, place, p))
    assert 0.88 < f[gain.argmax()] / best < 1.01
    assert 70 < gain.max() < 280


def test_transfer_function_equals_the_reference(shared_data):
    golden = np.load(shared_data / "lauscher-reference" / "bm_transfer_golden.npz")
    for place, expected in zip(golden["c"], golden["V"], strict=True):
        gain = basilar_membrane.transfer_function(
            golden["f_hz"], float(place), MembraneParameters()
        )
        np.testing.assert_allclose(gain, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("exact", "points", "tolerance"),
    [(False, 4, 1.5e-4), (True, 12, 2e-9)],  # 2^-14 from rounding; cut at 1e-9
)
def test_table_equals_the_transfer_function(exact, points, tolerance):
    p = MembraneParameters()
    membrane = basilar_membrane.membrane_filter(32, p, exact)
    f = np.linspace(1, RATE_HZ, 12001)
    weights = np.zeros((len(f), points), membrane.table.dtype)
    position = cochlea_filterbank._interpolation(f[1] - f[0], membrane.grid_hz, weights)
    for channel, place in enumerate(basilar_membrane.places_cm(32, p)):
        block, lane = divmod(channel, CHANNELS_AT_ONCE)
        values = membrane.table[block, :, :, lane][position[:, None] + np.arange(points)]
        real, imag = np.einsum("bp,bpc->cb", weights, values)
        expected = basilar_membrane.transfer_function(f, float(place), p)
        assert np.abs(real + 1j * imag - expected).max() < tolerance * np.abs(expected).max()


def test_soft_membrane_is_refused():
    """The stiffness that lauscher had by mistake until 2021."""
    with pytest.raises(ValidationError, match="not positive at the apex"):
        MembraneParameters(stiffness_base=1e8)


@pytest.mark.parametrize("tone_hz", [300, 1000, 4000])
def test_a_tone_moves_the_membrane_by_its_gain(tone_hz):
    n = 24000
    tone = np.sin(2 * np.pi * tone_hz * np.arange(n) / 48000)
    p = CochleaParameters(n_channels=64, ramp_s=0.05)
    velocity = cochlea.stages(tone, 48000, parameters=p).velocity[4800:7200]
    places = basilar_membrane.places_cm(64, p.membrane)
    gain = [
        abs(basilar_membrane.transfer_function(np.array([tone_hz + 1.0]), float(c), p.membrane)[0])
        for c in places
    ]
    amplitude = np.sqrt(2) * velocity.std(axis=0)
    strong = np.array(gain) > 0.01 * max(gain)
    np.testing.assert_allclose(
        amplitude[strong], 0.3 * np.sqrt(2) * np.array(gain)[strong], rtol=0.03
    )


def test_damaged_table_file_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SNNBENCH_DATA", str(tmp_path))
    p = MembraneParameters(damping=0.2)
    fresh = basilar_membrane.membrane_filter.__wrapped__(16, p).table
    (path,) = (tmp_path / "cochlea-tables").iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", whole[:1000], whole[:middle] + b"damage" + whole[middle + 6 :]):
        path.write_bytes(damaged)
        again = basilar_membrane.membrane_filter.__wrapped__(16, p).table
        np.testing.assert_array_equal(again, fresh)
        assert path.read_bytes() == whole


def test_table_is_used_without_a_writable_folder(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("SNNBENCH_DATA", str(blocked))
    membrane = basilar_membrane.membrane_filter.__wrapped__(16, MembraneParameters(damping=0.2))
    assert membrane.table.any()


# Hair cell


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 2e-4), (np.float64, 1e-12)])
def test_resting_hair_cell_fires_64_8_times_a_second(dtype, rtol):
    p = HairCellParameters()
    _, c, _ = hair_cell.rest_state(p)
    assert c * p.firing_per_s == pytest.approx(64.8, abs=0.05)
    rows = np.zeros((5000, CHANNELS_AT_ONCE), dtype)
    hair_cell.spike_probability(rows, 1 / RATE_HZ, p)
    np.testing.assert_allclose(rows, c * p.firing_per_s / RATE_HZ, rtol=rtol)


def test_hair_cell_settles_at_the_rest_of_a_constant_velocity():
    """At constant v the stores reach the closed form with k of that v."""
    p = HairCellParameters()
    v = 50.0
    k = p.release_per_s * (v + p.permeability_offset) / (v + 305.0)
    clear = p.loss_per_s + p.reuptake_per_s
    c = p.replenish_per_s * k / (p.loss_per_s * k + p.replenish_per_s * clear)
    rows = np.full((RATE_HZ * 2, CHANNELS_AT_ONCE), v, np.float32)
    hair_cell.spike_probability(rows, 1 / RATE_HZ, p)
    np.testing.assert_allclose(rows[-1], p.firing_per_s * c / RATE_HZ, rtol=1e-3)


def test_first_hair_cell_step_by_hand():
    """v = 95: k = 2000 * 100 / 400 = 500 /s; c' = c + (k q - (l + r) c) dt."""
    p = HairCellParameters()
    q, c, _ = hair_cell.rest_state(p)
    rows = np.full((1, CHANNELS_AT_ONCE), 95.0)
    hair_cell.spike_probability(rows, 1e-5, p)
    np.testing.assert_allclose(rows[0], 50000 * 1e-5 * (c + (500 * q - 9080 * c) * 1e-5))


def test_strong_negative_velocity_silences_the_hair_cell():
    rows = np.full((2400, CHANNELS_AT_ONCE), -400.0, np.float32)
    hair_cell.spike_probability(rows, 1 / RATE_HZ, HairCellParameters())
    assert (rows >= 0).all()
    assert rows[-1].max() < 1e-12


# Fibres


def _fibre_counts(
    probability: np.ndarray, *, n_fibres: int = 40, dead_steps: int = 24, key: str = "k"
) -> np.ndarray:
    rows = np.ascontiguousarray(np.broadcast_to(probability[:, None], (len(probability), 16)))
    rows = rows.astype(np.float32)
    streams = auditory_nerve.random_streams(0, key, CHANNELS_AT_ONCE)
    auditory_nerve.fibre_spikes(rows, streams, n_fibres, dead_steps)
    return rows


@pytest.mark.parametrize("p", [0.0005, 0.003, 0.03, 0.3])
@pytest.mark.parametrize("dead_steps", [0, 1, 2, 24])
def test_rate_of_fibres_is_that_of_a_refractory_bernoulli_process(p, dead_steps):
    counts = _fibre_counts(np.full(40000, p), dead_steps=dead_steps)[100:]
    rate = p / (1 + (max(dead_steps, 1) - 1) * p)
    assert counts.mean() / 40 == pytest.approx(rate, rel=5 / math.sqrt(counts.sum()))


@pytest.mark.parametrize("dead_steps", [1, 8, 24])
def test_dead_time_of_a_fibre(dead_steps):
    counts = _fibre_counts(np.full(20000, 0.2), n_fibres=1, dead_steps=dead_steps)
    for lane in counts.T:
        assert np.diff(lane.nonzero()[0]).min() == dead_steps
    assert counts.max() == 1


def test_number_of_fibres_within_a_dead_time_is_at_most_all():
    counts = _fibre_counts(np.full(3000, 2.0))
    windows = np.lib.stride_tricks.sliding_window_view(counts, 24, axis=0)
    assert windows.sum(axis=-1).max() == 40


def test_fibre_counts_have_the_distribution_of_single_fibres():
    """Mean, variance and temporal correlation against drawing every fibre in every step."""
    p = 0.01 * (1 + np.sin(np.arange(6000) / 40))
    fast = np.concatenate([_fibre_counts(p, key=str(k)) for k in range(4)], axis=1)
    plain = np.repeat(p[:, None], fast.shape[1], axis=1)
    generator = cochlea_exact.mersenne_twister(1, None)
    for block in np.split(plain, 4, axis=1):
        cochlea_exact.fibre_spikes_exact(block, CHANNELS_AT_ONCE, generator, 40, 24)
    # 300 windows of 20 steps in each of 64 lanes: mean and standard deviation at each phase
    fast, plain = (x.reshape(300, 20, -1).sum(axis=1) for x in (fast, plain))
    n = fast.shape[1]
    z = (fast.mean(axis=1) - plain.mean(axis=1)) / np.sqrt(
        (fast.var(axis=1) + plain.var(axis=1)) / n
    )
    assert abs(z.mean()) < 0.25
    assert 0.85 < z.std() < 1.15
    assert fast.var(axis=1).mean() == pytest.approx(plain.var(axis=1).mean(), rel=0.05)

    def next_window(x):
        deviation = x - x.mean(axis=1, keepdims=True)
        return (deviation[1:] * deviation[:-1]).mean()

    assert next_window(fast) == pytest.approx(
        next_window(plain), abs=0.1 * plain.var(axis=1).mean()
    )


def test_exponential_variates():
    out = np.empty(1_000_000, np.float32)
    auditory_nerve._draw_exponentials(np.uint64(12345), 0, out)
    assert (out > 0).all()
    x = np.sort(out.astype(np.float64))
    distance = np.abs(1 - np.exp(-x) - (np.arange(len(x)) + 0.5) / len(x)).max()
    assert distance < 1.95 / math.sqrt(len(x))  # Kolmogorov-Smirnov, p = 0.001
    assert abs(np.corrcoef(out[1:], out[:-1])[0, 1]) < 0.004
    part = np.empty(10, np.float32)
    auditory_nerve._draw_exponentials(np.uint64(12345), 500, part)
    np.testing.assert_array_equal(part, out[500:510])


def test_exponential_variates_are_logarithms_of_splitmix_numbers():
    """Against Python's integers and the library's logarithm."""
    out = np.empty(2000, np.float32)
    auditory_nerve._draw_exponentials(np.uint64(12345), 0, out)
    expected = []
    for i in range(1, 2001):
        x = (12345 + i * 0x9E3779B97F4A7C15) % 2**64
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        x ^= x >> 31
        expected.append(-math.log(((x >> 12) + 0.5) / 2**52))
    np.testing.assert_allclose(out, expected, rtol=2e-7, atol=2e-9)


def test_random_streams_differ_by_seed_key_and_channel():
    streams = [auditory_nerve.random_streams(s, k, 700) for s in (0, 1) for k in ("a", "b", 7)]
    assert len(np.unique(np.concatenate(streams))) == 6 * 700


# Bushy cell


def _bushy(n_input: np.ndarray, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    rows: np.ndarray = np.zeros((len(n_input), CHANNELS_AT_ONCE), dtype)
    rows[:, 3] = n_input
    return bushy_cell.bushy_spikes(rows, RATE_HZ, 40, BushyCellParameters())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shortest_interval_of_a_bushy_cell_is_25_steps(dtype):
    steps, lanes = _bushy(np.full(1000, 1000.0), dtype)
    assert set(lanes) == {3}
    assert steps[0] == 0
    assert set(np.diff(steps)) == {25}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threshold_of_a_bushy_cell(dtype):
    """A volley of s spikes at step 0 gives V_n = b dt s (d_m^(n+1) - d_s^(n+1)) / (d_m - d_s)."""
    d_m, d_s = math.exp(-1000 / RATE_HZ), math.exp(-2000 / RATE_HZ)
    n = np.arange(100)
    response = 325 / RATE_HZ * (d_m ** (n + 1) - d_s ** (n + 1)) / (d_m - d_s)
    needed = 1 / response.max()
    for volley in (0.999 * needed, 1.001 * needed, 2 * needed):
        n_input = np.zeros(100)
        n_input[0] = volley
        steps, _ = _bushy(n_input, dtype)
        assert list(steps) == list(np.nonzero(volley * response >= 1)[0][:1])


def test_a_crossing_in_the_last_step_is_lost():
    n_input = np.zeros(10)
    n_input[-1] = 1000
    assert not len(_bushy(n_input)[0])


def test_spikes_of_a_block_are_sorted_by_step_then_lane():
    rows = np.full((200, CHANNELS_AT_ONCE), 50.0)
    steps, lanes = bushy_cell.bushy_spikes(rows, RATE_HZ, 40, BushyCellParameters())
    order = steps * CHANNELS_AT_ONCE + lanes
    assert (np.diff(order) > 0).all()


# The same spikes everywhere


_DIGEST_SCRIPT = """
import hashlib, sys
import numpy as np
from snnbench.data_prep import basilar_membrane, cochlea
from snnbench.data_prep.audio import load_audio

p = cochlea.PRESETS["shd"]
membrane = basilar_membrane.membrane_filter(p.n_channels, p.membrane)
print(hashlib.sha256(membrane.grid_hz.tobytes() + membrane.table.tobytes()).hexdigest())
for path in sys.argv[1:]:
    sound, rate_hz = load_audio(path, sample_rate_hz=48000, resample=True)
    spikes = cochlea.cochlea_spikes(sound, rate_hz, parameters=p, seed=1, key="a")
    digest = hashlib.sha256(spikes.times.tobytes() + spikes.units.tobytes()).hexdigest()
    print(len(spikes.times), hashlib.sha256(sound.tobytes()).hexdigest(), digest)
"""


def test_spikes_do_not_depend_on_the_processor(tmp_path, request):
    """This machine's instructions against those of the oldest x86-64, in numba, numpy and glibc."""
    soundfile.write(tmp_path / "vowel.wav", 0.9 * vowel(0.3, 22050), 22050)
    soundfile.write(tmp_path / "vowel48.wav", 0.9 * vowel(0.5), 48000)
    soundfile.write(tmp_path / "noise48.wav", 0.1 * np.random.default_rng(0).random(7001), 48000)
    files = sorted(tmp_path.glob("*.wav"))
    data = request.config.rootpath.parent / "shared" / "data"
    files += sorted((data / "lauscher-reference" / "wav").glob("*48k.wav"))
    files += sorted((data / "heidelberg-digits-24k" / "audio").glob("*.flac"))[::1200]
    oldest = {
        "NPY_DISABLE_CPU_FEATURES": " ".join(
            np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
        ),
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX,-AVX2,-FMA,-FMA4,-AVX512F,-AVX512VL,"
        "-AVX_Usable,-AVX2_Usable,-FMA_Usable,-FMA4_Usable,-AVX512F_Usable",
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
    }

    def start(name: str, extra: dict[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _DIGEST_SCRIPT, *map(str, files)],
            env={**os.environ, "SNNBENCH_DATA": str(tmp_path / name), **extra},
            cwd=request.config.rootpath,
            stdout=subprocess.PIPE,
            text=True,
        )

    native, other = start("native", {}), start("oldest", oldest)
    expected = native.communicate(timeout=300)[0].splitlines()
    assert len(expected) == 1 + len(files)
    assert other.communicate(timeout=300)[0].splitlines() == expected


def test_same_seed_and_key_give_the_same_spikes():
    sound = vowel(0.1)
    first = cochlea_spikes(sound, 48000, parameters=SMALL, seed=3, key="a")
    cochlea_spikes(sound[::-1], 48000, parameters=SMALL, seed=3, key="b")
    again = cochlea_spikes(sound, 48000, parameters=SMALL, seed=3, key="a")
    np.testing.assert_array_equal(first.times, again.times)
    np.testing.assert_array_equal(first.units, again.units)
    for other in (
        cochlea_spikes(sound, 48000, parameters=SMALL, seed=4, key="a"),
        cochlea_spikes(sound, 48000, parameters=SMALL, seed=3, key="b"),
    ):
        assert not np.array_equal(first.times, other.times)


def test_level_of_the_recording_does_not_matter():
    pcm = np.round(vowel(0.1) * 16000).astype(np.int16)
    expected = cochlea_spikes(pcm, 48000, parameters=SMALL, seed=0, key=0)
    for sound in (pcm / 32768, pcm / 32768 / 8, pcm.astype(np.float64)):
        spikes = cochlea_spikes(sound, 48000, parameters=SMALL, seed=0, key=0)
        np.testing.assert_array_equal(spikes.times, expected.times)
        np.testing.assert_array_equal(spikes.units, expected.units)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(64, 6000),
    rate_hz=st.sampled_from([16000, 22050, 44100, 48000]),
    n_channels=st.sampled_from([1, 15, 33]),
    seed=st.integers(0, 2**32),
)
def test_spikes_are_sorted_within_range_and_not_too_close(n, rate_hz, n_channels, seed):
    sound = np.random.default_rng(seed).standard_normal(n)
    p = CochleaParameters(n_channels=n_channels, ramp_s=0.03)
    times, units = cochlea_spikes(sound, rate_hz, parameters=p, seed=seed, key="x")
    assert times.dtype == np.float32
    assert units.dtype == np.uint16
    half_hz = rate_hz // 2
    steps = np.rint(times.astype(np.float64) * half_hz).astype(int)
    assert (np.diff(steps * n_channels + units) > 0).all()
    if len(times):
        assert units.max() < n_channels
        assert steps.min() >= 0
        assert steps.max() <= n // 2
    for unit in np.unique(units):
        own = steps[units == unit]
        assert (np.diff(own) >= math.ceil(1e-3 * half_hz) + 1).all()


@pytest.mark.parametrize(
    ("sound", "rate_hz", "found"),
    [
        (np.ones(3), 48000, "at least 4 samples"),
        (np.ones((100, 2)), 48000, "one dimension"),
        (np.zeros(1000), 48000, "silent"),
        (np.full(1000, np.nan), 48000, "NaN"),
        (np.ones(2_880_001), 48000, r"at most 60.0 s at 48000 Hz .* cut the recording"),
        (np.ones(1000), 9080, "unstable"),
        (np.ones(1000), 8000, "unstable"),
    ],
)
def test_unusable_sound_is_refused(sound, rate_hz, found):
    with pytest.raises(SnnbenchError, match=found):
        cochlea_spikes(sound, rate_hz, parameters=SMALL, seed=0, key=0)


def test_exact_mode_takes_a_third_of_the_length():
    with pytest.raises(SnnbenchError, match=r"mode exact takes at most 20\.0 s"):
        cochlea_spikes(np.ones(960_001), 48000, parameters=SMALL, seed=0, key=None, mode="exact")


def test_unknown_mode():
    mode: Any = "exakt"
    with pytest.raises(UsageError, match="did you mean exact"):
        cochlea_spikes(vowel(0.01), 48000, parameters=SMALL, seed=0, key=0, mode=mode)


@pytest.mark.parametrize(
    ("preset", "lowest_hz"), [("shd", 9080), ("lauscher", 9080), ("article", 17917)]
)
def test_presets_know_the_lowest_rate_of_their_hair_cell(preset, lowest_hz):
    """The cleft empties at l + r = 9080 and 17917 /s; Euler's step is two samples of the sound."""
    p = PRESETS[preset].model_copy(update={"n_channels": 16})
    with pytest.raises(SnnbenchError, match=f"unstable at {lowest_hz} Hz and below"):
        cochlea_spikes(vowel(0.01), lowest_hz, parameters=p, seed=0, key=0)
    cochlea_spikes(vowel(0.01), lowest_hz + 2, parameters=p, seed=0, key=0)


def test_presets_take_constants_by_dotted_key():
    p = preset_parameters("article", {"hair_cell.loss_per_s": 1300, "n_channels": 64})
    assert p.hair_cell.loss_per_s == 1300
    assert p.hair_cell.reuptake_per_s == 16667
    assert p.n_channels == 64
    with pytest.raises(UsageError, match=r"did you mean cochlea\.hair_cell\.loss_per_s"):
        preset_parameters("shd", {"hair_cell.los_per_s": 1})
    with pytest.raises(UsageError, match="greater than 0"):
        preset_parameters("shd", {"rms_level": -1})
    with pytest.raises(UsageError, match="did you mean shd"):
        preset_parameters("shdd", {})


def test_a_new_constant_is_not_written_at_its_default():
    """Digests of recipes cover the constants as they are written."""
    assert "decimate" not in PRESETS["shd"].model_dump()
    assert CochleaParameters(decimate="clean").model_dump()["decimate"] == "clean"


def test_an_observer_sees_every_stage_of_every_channel():
    seen: dict[str, np.ndarray] = {
        name: np.zeros((2401, 33)) for name in ("velocity", "probability", "fibre_counts")
    }

    def keep(stage, first, rows):
        seen[stage][:, first : first + rows.shape[1]] = rows

    p = CochleaParameters(n_channels=33)
    spikes = cochlea_spikes(vowel(0.1), 48000, parameters=p, seed=0, key=0, observe=keep)
    plain = cochlea.stages(vowel(0.1), 48000, parameters=p)
    np.testing.assert_array_equal(seen["velocity"], plain.velocity)
    np.testing.assert_array_equal(seen["probability"], plain.probability)
    drawn = cochlea.draw_spikes(plain.probability, RATE_HZ, parameters=p, seed=0, key=0)
    np.testing.assert_array_equal(drawn.times, spikes.times)
    np.testing.assert_array_equal(drawn.units, spikes.units)
    expected = plain.probability.sum(dtype=float) * 40
    assert 0.8 * expected < seen["fibre_counts"].sum() < expected  # less for the dead time


def test_the_sound_is_not_changed():
    sound = vowel(0.05)
    copy = sound.copy()
    cochlea_spikes(sound, 48000, parameters=SMALL, seed=0, key=0)
    np.testing.assert_array_equal(sound, copy)


def test_parameters_are_frozen_and_reject_unknown_names():
    with pytest.raises(ValidationError, match="frozen"):
        SMALL.n_channels = 3
    with pytest.raises(ValidationError, match="n_chanels"):
        CochleaParameters.model_validate({"n_chanels": 3})
    from_table = CochleaParameters.model_validate({"ramp_s": 0.03, "membrane": {"damping": 0.15}})
    assert from_table == PRESETS["shd"]
