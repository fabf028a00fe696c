"""Halving the rate: what folds, what does not with a clean decimation, circularity, frequency grid."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from snnbench.data_prep import basilar_membrane, cochlea
from snnbench.data_prep.cochlea import CochleaParameters, Mode
from snnbench.data_prep.cochlea_filterbank import _low_pass

RATE_HZ = 48000
MODES: list[Mode] = list(get_args(Mode))
pytestmark = pytest.mark.usefixtures("cochlea_tables")


def parameters(decimate: str) -> CochleaParameters:
    return CochleaParameters.model_validate({"n_channels": 32, "ramp_s": 0.0, "decimate": decimate})


def spectrum(tone_hz: float, decimate: str, mode: Mode) -> np.ndarray:
    """Amplitude of channel 0, at the base, at each multiple of 5 Hz up to 12 kHz; 1 s of sound."""
    tone = np.cos(2 * np.pi * tone_hz * np.arange(48000) / RATE_HZ)
    stages = cochlea.stages(tone, RATE_HZ, parameters=parameters(decimate), mode=mode)
    middle = stages.velocity[6000 : 6000 + 4800, 0].astype(float)
    return np.abs(np.fft.rfft(middle * np.hanning(4800))) / (0.25 * 4800)


@pytest.mark.parametrize("mode", MODES)
def test_a_tone_above_a_quarter_of_the_rate_folds_or_is_gone(mode):
    """16 kHz comes out at 24 - 16 = 8 kHz, with the gain of the membrane at 16 kHz, or not at all."""
    fold, clean = (spectrum(16000, decimate, mode) for decimate in ("fold", "clean"))
    assert fold.argmax() * 5 == 8000
    p = parameters("fold").membrane
    gain = np.abs(basilar_membrane.transfer_function(np.array([16000.0]), 0.0, p))[0]
    assert fold.max() == pytest.approx(
        0.3 * np.sqrt(2) * gain, rel=0.02
    )  # the tone lies between two bins
    assert clean.max() < 1e-4 * fold.max()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tone_hz", [500, 5000, 10500])
def test_a_tone_below_is_the_same_either_way(mode, tone_hz):
    fold, clean = (
        cochlea.stages(
            np.sin(2 * np.pi * tone_hz * np.arange(48000) / RATE_HZ),
            RATE_HZ,
            parameters=parameters(decimate),
            mode=mode,
        ).velocity[2400:-2400]
        for decimate in ("fold", "clean")
    )
    np.testing.assert_allclose(clean, fold, rtol=0, atol=2e-3 * np.abs(fold).max())


def test_transition_of_the_clean_decimation():
    gain = _low_pass(1001, 1e-3)
    assert gain[0] == 0.5
    assert (gain[1:451] == 1).all()
    assert gain[475] == pytest.approx(0.5)
    assert (gain[500:] == 0).all()
    assert (np.diff(gain[1:]) <= 0).all()


def test_spikes_of_both_decimations_differ_in_high_channels_only():
    """Noise at 48 kHz: what a channel of low frequency hears cannot fold."""
    noise = np.random.default_rng(0).standard_normal(9600)
    fold, clean = (
        cochlea.stages(noise, RATE_HZ, parameters=parameters(decimate)).velocity
        for decimate in ("fold", "clean")
    )
    power = ((fold - clean) ** 2).mean(axis=0) / (fold**2).mean(axis=0)
    best_hz = basilar_membrane.characteristic_frequency_hz(
        basilar_membrane.places_cm(32, parameters("fold").membrane), parameters("fold").membrane
    )
    assert (power[best_hz > 14000] > 0.3).all()
    assert (power[best_hz < 6000] < 1e-4).all()


@pytest.mark.parametrize(("rate_hz", "n_channels"), [(48000, 84), (16000, 231)])
def test_number_of_channels_that_hear_what_folds(rate_hz, n_channels):
    p = CochleaParameters().membrane
    best_hz = basilar_membrane.characteristic_frequency_hz(basilar_membrane.places_cm(700, p), p)
    assert (best_hz > rate_hz / 4).sum() == n_channels


def test_the_membrane_answers_before_the_sound():
    """As in lauscher: the lower the frequency, the earlier. A real cochlea answers later."""
    click = np.zeros(9600)
    click[4800] = 1
    velocity = cochlea.stages(click, RATE_HZ, parameters=parameters("fold")).velocity
    early_ms = (2400 - np.abs(velocity).argmax(axis=0)) / 24
    np.testing.assert_allclose(early_ms[[8, 16, 24, 31]], [0.3, 1.25, 5.4, 19.0], atol=0.15)


@pytest.mark.parametrize("mode", MODES)
def test_the_transform_is_circular(mode):
    """The apex' answer to a click at the start of the file lies at its end."""
    click = np.zeros(9598)  # 4800 bins are a fast length: the fast mode pads nothing
    click[20] = 1
    velocity = cochlea.stages(click, RATE_HZ, parameters=parameters("fold"), mode=mode).velocity
    power = (velocity[:, 31].astype(float) ** 2).cumsum()
    assert power[2400] < 0.1 * power[-1]
