"""Recordings: files to mono sound at a known rate; level and ramps before the cochlea."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from snnbench.errors import SnnbenchError

_FEWEST_SAMPLES = 32
_INAUDIBLE = 1e-150
"""The square of a sample this small is 0 in floating point, or next to it."""
_PCM_16 = 32768
_UNKNOWN_LENGTH = 0x7FFFF000


def load_audio(
    path: Path | str,
    *,
    sample_rate_hz: int | None,
    downmix: bool = False,
    resample: bool = False,
    allow_silence: bool = False,
) -> tuple[NDArray[np.float64], int]:
    """Read a recording as mono sound.

    Parameters
    ----------
    path
        WAV, FLAC or another format that libsndfile reads.
    sample_rate_hz
        The rate wanted; None takes the file's own.
    downmix
        Average the channels of a file that has several; without it such a file is refused.
    resample
        Bring a file of another rate to `sample_rate_hz` (soxr, very high quality), rounded to 16
        bits as if it had been recorded so; without it such a file is refused.
    allow_silence
        Take a file whose samples are all zero; without it such a file is refused.

    Returns
    -------
    The sound, float64 in [-1, 1], shape (time,), and its rate in Hz.

    Raises
    ------
    SnnbenchError
        The file is missing, unreadable, cut off, silent, too short, holds NaN or infinity, or has several
        channels or another rate without leave to change that.
    """
    import soundfile

    path = Path(path)
    if not path.is_file():
        raise SnnbenchError(f"{path}: no such audio file")
    try:
        sound, rate_hz = soundfile.read(path, dtype="float64", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise SnnbenchError(
            f"{path}: cannot be read as audio ({error}); give a WAV, FLAC or OGG file"
        ) from error
    _refuse_cut_off(path)
    n_samples, n_channels = sound.shape
    if n_channels > 1 and not downmix:
        raise SnnbenchError(
            f"{path}: has {n_channels} channels, one is wanted; convert it to mono or allow downmixing"
        )
    mono = sound[:, 0] if n_channels == 1 else sound.sum(axis=1) / n_channels
    if n_samples < _FEWEST_SAMPLES:
        raise SnnbenchError(
            f"{path}: holds {n_samples} samples, at least {_FEWEST_SAMPLES} are needed; remove it"
        )
    if not np.isfinite(mono).all():
        raise SnnbenchError(f"{path}: holds NaN or infinite samples; export it again")
    if np.abs(mono).max() < _INAUDIBLE:
        mono = np.zeros(n_samples)
    if not (allow_silence or mono.any()):
        raise SnnbenchError(f"{path}: is silent (every sample is zero); remove it")
    if sample_rate_hz is not None and rate_hz != sample_rate_hz:
        if not resample:
            raise SnnbenchError(
                f"{path}: is at {rate_hz} Hz, {sample_rate_hz} Hz is wanted; "
                "resample it or allow resampling"
            )
        mono = _resample(mono, rate_hz, sample_rate_hz)
        rate_hz = sample_rate_hz
        if not (allow_silence or mono.any()):
            raise SnnbenchError(f"{path}: is silent after resampling; remove it")
    return np.clip(mono, -1.0, 1.0), rate_hz


def _refuse_cut_off(path: Path) -> None:
    """Raise SnnbenchError where a WAV file ends before its sound does, which libsndfile plays as it is."""
    with open(path, "rb") as file:
        if file.read(12)[:4] != b"RIFF":
            return
        size = path.stat().st_size
        while len(header := file.read(8)) == 8:
            length = int.from_bytes(header[4:], "little")
            # written into a pipe, a length is not known and as large as can be
            if header[:4] == b"data" and size - file.tell() < length < _UNKNOWN_LENGTH:
                raise SnnbenchError(
                    f"{path}: is cut off: holds {size - file.tell()} of {length} bytes of sound; copy"
                    " it again"
                )
            file.seek(length + length % 2, 1)


def _resample(sound: NDArray[np.float64], from_hz: int, to_hz: int) -> NDArray[np.float64]:
    """Resample and round to the 16-bit grid, clipped to its ends.

    Rounding makes the result that of a 16-bit recording and hides differences in the last bits of
    the resampler's arithmetic between machines. This is what librosa.resample does with
    "soxr_vhq"; called directly it saves seconds of compilation in every process.
    """
    import soxr

    resampled = soxr.resample(sound, from_hz, to_hz, quality="VHQ")
    return np.clip(np.round(resampled * _PCM_16), -_PCM_16, _PCM_16 - 1) / _PCM_16


def level_and_ramp(
    sound: NDArray[np.float64], sample_rate_hz: int, rms_level: float, ramp_s: float | None
) -> NDArray[np.float64]:
    """A copy of `sound` at root mean square `rms_level`, faded in and out.

    Parameters
    ----------
    ramp_s
        Length of the two Hann ramps; None makes each half the recording, which longer ones are cut
        to as well.
    """
    n_ramp = len(sound) // 2
    if ramp_s is not None:
        n_ramp = min(round(ramp_s * sample_rate_hz), n_ramp)
    return _level_and_ramp(sound, rms_level, n_ramp)


@njit(cache=True)
def _level_and_ramp(
    sound: NDArray[np.float64], rms_level: float, n_ramp: int
) -> NDArray[np.float64]:
    # plain loops and an own sine: sums and sines of numpy differ in the last bit between machines
    n = len(sound)
    power = 0.0
    for i in range(n):
        power += sound[i] * sound[i]
    factor = rms_level / np.sqrt(power / n)
    out = sound * factor
    for i in range(n_ramp):
        # 0.5 - 0.5 cos(2 x) = sin(x)^2, x from 0 to pi / 2
        x = np.pi * i / (2 * n_ramp - 1)
        y = x * x
        sine = 0.0
        for order in range(23, 1, -2):
            sine = (1.0 - sine) * y / (order * (order - 1)) if order < 23 else y / (23 * 22)
        sine = x * (1.0 - sine)
        out[i] *= sine * sine
        out[n - 1 - i] *= sine * sine
    return out
