"""Reading recordings: what is accepted, what is refused and how; level and ramps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from snnbench.data_prep.audio import level_and_ramp, load_audio
from snnbench.errors import SnnbenchError


def _tone(n: int = 4800, rate_hz: int = 48000) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(n) / rate_hz)


def _write(path: Path, sound: np.ndarray, rate_hz: int = 48000, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, sound, rate_hz, subtype=subtype)
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_16_bit_files_are_read_to_the_bit(tmp_path, suffix):
    pcm = np.random.default_rng(0).integers(-32768, 32768, 1000, dtype=np.int16)
    path = _write(tmp_path / f"noise.{suffix}", pcm)
    sound, rate_hz = load_audio(path, sample_rate_hz=48000)
    assert rate_hz == 48000
    np.testing.assert_array_equal(sound, pcm / 32768)


def test_none_takes_the_files_own_rate(tmp_path):
    path = _write(tmp_path / "a.wav", _tone(), 44100)
    assert load_audio(path, sample_rate_hz=None)[1] == 44100


def test_stereo_is_averaged_only_on_request(tmp_path):
    left = np.round(_tone() * 1000) / 32768
    path = _write(tmp_path / "a.wav", np.stack([left, 3 * left], axis=1))
    with pytest.raises(SnnbenchError, match=r"a\.wav: has 2 channels"):
        load_audio(path, sample_rate_hz=48000)
    sound, _ = load_audio(path, sample_rate_hz=48000, downmix=True)
    np.testing.assert_array_equal(sound, 2 * left)


def test_resampling_keeps_a_tone_and_gives_16_bit_values(tmp_path):
    path = _write(tmp_path / "a.wav", _tone(9600, 24000), 24000)
    with pytest.raises(SnnbenchError, match=r"a\.wav: is at 24000 Hz, 48000 Hz is wanted"):
        load_audio(path, sample_rate_hz=48000)
    sound, rate_hz = load_audio(path, sample_rate_hz=48000, resample=True)
    assert rate_hz == 48000
    assert len(sound) == 19200
    np.testing.assert_array_equal(sound * 32768, np.round(sound * 32768))
    middle = slice(4000, -4000)
    np.testing.assert_allclose(sound[middle], _tone(19200, 48000)[middle], atol=2e-4)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 24000])
def test_resampling_is_that_of_librosa(tmp_path, rate_hz):
    import librosa

    sound = np.round(np.random.default_rng(1).normal(size=7777) * 3000) / 32768
    ours, _ = load_audio(
        _write(tmp_path / "a.wav", sound, rate_hz), sample_rate_hz=48000, resample=True
    )
    theirs = librosa.resample(sound, orig_sr=rate_hz, target_sr=48000, res_type="soxr_vhq")
    n = min(len(ours), len(theirs))
    assert abs(len(ours) - len(theirs)) <= 1  # librosa pads to the next whole sample
    np.testing.assert_array_equal(ours[:n] * 32768, np.round(theirs[:n] * 32768))


def test_overshoot_of_the_resampler_is_clipped_not_wrapped(tmp_path):
    square = np.sign(np.sin(2 * np.pi * 1000 * (np.arange(4800) + 0.5) / 24000))
    path = _write(tmp_path / "square.wav", square * 32767 / 32768, 24000)
    sound, _ = load_audio(path, sample_rate_hz=48000, resample=True)
    assert sound.max() == 32767 / 32768
    assert sound.min() == -1
    settled = np.sign(square).repeat(2)
    assert np.mean(np.sign(sound) == settled) > 0.9


def test_float_samples_beyond_one_are_clipped(tmp_path):
    path = _write(tmp_path / "loud.wav", 3 * _tone(), subtype="FLOAT")
    sound, _ = load_audio(path, sample_rate_hz=48000)
    assert np.abs(sound).max() == 1


@pytest.mark.parametrize(
    ("sound", "found"),
    [
        (np.zeros(1000), "silent"),
        (1e-200 * _tone(), "silent"),
        (np.zeros(0), "holds 0 samples"),
        (_tone(3), "holds 3 samples"),
        (np.full(1000, np.nan), "NaN"),
        (np.append(_tone(), np.inf), "infinite"),
    ],
)
def test_unusable_sound_is_refused(tmp_path, sound, found):
    path = _write(tmp_path / "bad.wav", sound, subtype="DOUBLE")
    with pytest.raises(SnnbenchError, match=rf"bad\.wav: .*{found}"):
        load_audio(path, sample_rate_hz=48000)


@pytest.mark.parametrize(
    "content", [b"", b"RIFF\x10\x00\x00\x00WAVEfmt ", b"not a sound at all" * 99]
)
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / "bad.flac"
    path.write_bytes(content)
    with pytest.raises(SnnbenchError, match=r"bad\.flac: cannot be read as audio"):
        load_audio(path, sample_rate_hz=48000)


def test_a_wav_file_that_was_cut_off_is_refused(tmp_path):
    path = _write(tmp_path / "a.wav", _tone(1000))
    whole = path.read_bytes()
    path.write_bytes(whole[:1044])
    with pytest.raises(SnnbenchError, match=r"a\.wav: is cut off: holds 1000 of 2000 bytes"):
        load_audio(path, sample_rate_hz=48000)
    # written into a pipe, the length of the sound stays unknown
    path.write_bytes(whole[:40] + b"\xff" * 4 + whole[44:])
    assert len(load_audio(path, sample_rate_hz=48000)[0]) == 1000
    # what follows the sound, or comes before it, is no part of it
    note = b"LIST\x03\0\0\0abc\0"
    path.write_bytes(whole[:36] + note + whole[36:] + note)
    assert len(load_audio(path, sample_rate_hz=48000)[0]) == 1000


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(SnnbenchError, match=r"none\.wav: no such audio file"):
        load_audio(tmp_path / "none.wav", sample_rate_hz=48000)
    with pytest.raises(SnnbenchError, match="no such audio file"):
        load_audio(tmp_path, sample_rate_hz=48000)


@pytest.mark.parametrize("n", [10, 999, 4800])
def test_ramps_are_the_halves_of_a_hann_window(n):
    sound = np.random.default_rng(n).standard_normal(n)
    scaled = sound * 0.3 / np.sqrt(np.mean(sound**2))
    whole = level_and_ramp(sound, 48000, 0.3, None)
    half = n // 2
    window = np.ones(n)
    window[:half] = np.hanning(2 * half)[:half]
    window[-half:] = np.hanning(2 * half)[half:]
    np.testing.assert_allclose(whole, scaled * window, rtol=0, atol=1e-14)

    short = level_and_ramp(sound, 48000, 0.3, 4 / 48000)
    np.testing.assert_allclose(short[:4], scaled[:4] * np.hanning(8)[:4], atol=1e-14)
    np.testing.assert_allclose(short[4:-4], scaled[4:-4], rtol=1e-13)
    np.testing.assert_array_equal(level_and_ramp(sound, 48000, 0.3, 9.0), whole)


def test_no_ramp_leaves_the_level_exact():
    sound = level_and_ramp(_tone(), 48000, 0.3, 0.0)
    assert np.sqrt(np.mean(sound**2)) == pytest.approx(0.3, rel=1e-12)
