"""Synthetic spoken digits: the data set that needs no download.

espeak-ng, a formant synthesiser, says zero to nine in English and null to neun in German with forty
voices. The package espeakng-loader brings the library and its data, so nothing else is fetched.

A voice takes the place of a speaker. It is one of espeak-ng's voice variants (formants, breath,
roughness, flutter) with its own English accent, pitch, pitch range and rate, and it says every word
twice. No two utterances are alike: rate and pitch move a little from one to the next, by amounts
read off the hash of the utterance's name.

espeak-ng keeps state between calls (the phase of its pitch flutter, its echo buffer) and seeds its
noise with the time of day. Therefore all utterances are made in one fresh process, in the order of
`utterances()`, with the noise seeded for each: the samples then depend on the library's build
(version and processor family) alone, not on the time, the locale or the C library's arithmetic.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snnbench.errors import SnnbenchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAMPLE_RATE_HZ = 22_050  # the rate of espeak-ng's phoneme data
TAKES = (1, 2)
WORDS = {
    "english": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "german": ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
}


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker.

    `variant` is the name of an espeak-ng voice variant, `english` its accent. `rate_wpm` is in words
    per minute; `pitch` and `pitch_range` are on espeak-ng's scale of 0 to 99, where 50 leaves the
    variant's own value unchanged.
    """

    variant: str
    english: str
    rate_wpm: int
    pitch: int
    pitch_range: int


# Left out: variants that clip or are near copies of another, and those of the synthesiser "klatt 6",
# whose noise comes from the C library's rand() and so would differ from one system to the next.
# Rates, pitches and ranges are spread evenly and then shuffled. In every five voices the fourth is
# meant for validation and the fifth for test; low, high and odd voices are in each of the three.
VOICES = (
    Voice("m1", "en-US", 145, 34, 40),
    Voice("f1", "en", 165, 36, 60),
    Voice("Andy", "en-US", 175, 64, 65),
    Voice("m5", "en-US", 140, 50, 45),
    Voice("m3", "en", 195, 58, 55),
    Voice("m2", "en-GB-x-rp", 205, 58, 55),
    Voice("f3", "en-GB-scotland", 195, 66, 45),
    Voice("Alicia", "en-US", 215, 66, 45),
    Voice("f2", "en", 165, 60, 60),
    Voice("f4", "en-US", 155, 62, 65),
    Voice("m4", "en", 140, 38, 65),
    Voice("f5", "en-US", 135, 34, 55),
    Voice("klatt2", "en-GB-x-gbclan", 160, 42, 55),
    Voice("pablo", "en-US", 210, 38, 60),
    Voice("Lee", "en-GB-x-rp", 160, 46, 45),
    Voice("m7", "en-US", 185, 40, 40),
    Voice("Andrea", "en-US-nyc", 150, 52, 45),
    Voice("Mario", "en", 180, 48, 45),
    Voice("kaukovalta", "en-GB-x-rp", 200, 44, 50),
    Voice("Gene", "en-US", 210, 48, 50),
    Voice("m8", "en-US", 180, 44, 50),
    Voice("aunty", "en", 165, 48, 35),
    Voice("Michael", "en-GB-x-gbcwmd", 195, 56, 35),
    Voice("belinda", "en-US", 190, 42, 55),
    Voice("Annie", "en-GB-scotland", 200, 50, 55),
    Voice("croak", "en-US", 225, 54, 40),
    Voice("linda", "en-US", 185, 44, 35),
    Voice("Demonic", "en", 150, 52, 60),
    Voice("Denis", "en-US-nyc", 150, 60, 45),
    Voice("boris", "en-US", 175, 62, 35),
    Voice("travis", "en", 220, 46, 55),
    Voice("grandma", "en-US", 225, 62, 50),
    Voice("AnxiousAndy", "en-US", 180, 36, 40),
    Voice("anika", "en", 145, 38, 60),
    Voice("shelby", "en-US-nyc", 205, 52, 60),
    Voice("ian", "en-GB-x-rp", 190, 40, 40),
    Voice("steph", "en-US", 155, 56, 40),
    Voice("whisper", "en", 215, 64, 50),
    Voice("zac", "en-US", 220, 54, 50),
    Voice("klatt3", "en", 170, 56, 65),
)


@dataclass(frozen=True)
class Utterance:
    """One planned recording.

    `source_id` names it as the Heidelberg Digits name theirs, `speaker` is the part of that name
    that stands for the voice, `label` is 0 to 9 for English and 10 to 19 for German. The rest is
    what espeak-ng is told.
    """

    source_id: str
    speaker: str
    language: str
    digit: int
    label: int
    word: str
    espeak_voice: str
    rate_wpm: int
    pitch: int
    pitch_range: int
    noise_seed: int


def utterances() -> list[Utterance]:
    """All utterances in the order in which they are synthesised: voice, language, take, digit."""
    return [
        _plan(number, voice, language, take, digit)
        for number, voice in enumerate(VOICES, start=1)
        for language in WORDS
        for take in TAKES
        for digit in range(10)
    ]


def _plan(number: int, voice: Voice, language: str, take: int, digit: int) -> Utterance:
    speaker = f"speaker-{number:02d}"
    source_id = f"lang-{language}_{speaker}_trial-{take}_digit-{digit}"
    draw = hashlib.sha256(source_id.encode()).digest()  # the same everywhere, in any order
    accent = voice.english if language == "english" else "de"
    return Utterance(
        source_id=source_id,
        speaker=speaker,
        language=language,
        digit=digit,
        label=digit + (10 if language == "german" else 0),
        word=WORDS[language][digit],
        espeak_voice=f"gmw/{accent}+{voice.variant}",
        rate_wpm=voice.rate_wpm + draw[0] % 41 - 20,
        pitch=voice.pitch + draw[1] % 25 - 12,
        pitch_range=voice.pitch_range + draw[2] % 31 - 15,
        noise_seed=1 + int.from_bytes(draw[3:6], "big"),
    )


def synthesise(folder: Path | str, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Write every utterance as `folder`/`source_id`.wav, 16 bit mono at `SAMPLE_RATE_HZ`.

    The folder appears whole or not at all. Takes a few seconds.

    Parameters
    ----------
    folder
        Must not exist yet, or be empty.
    progress
        Called with (recordings done, recordings in all).

    Raises
    ------
    SnnbenchError
        The folder holds something, cannot be written, or espeak-ng cannot be loaded.
    """
    folder = Path(folder).absolute()
    temporary: Path | None = None
    try:
        if folder.exists() and any(folder.iterdir()):
            raise SnnbenchError(f"{folder}: is not empty; name another folder or delete this one")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        recordings = temporary / folder.name
        recordings.mkdir()  # mkdtemp's own folder is readable by its owner only
        _run_child(recordings, progress)
        os.replace(recordings, folder)
    except OSError as error:
        raise SnnbenchError(f"{folder}: cannot write: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _run_child(folder: Path, progress: Callable[[int, int], None] | None) -> None:
    """Synthesise in a fresh process, which tells each finished file by one line on its stdout."""
    import snnbench

    total = len(utterances())
    done = 0
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints,
        subprocess.Popen(
            [sys.executable, "-u", "-m", "snnbench.data_prep.speech", str(folder)],
            cwd=Path(snnbench.__file__).parents[1],  # finds this very package, installed or not
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for done, _ in enumerate(child.stdout, start=1):
                if progress is not None:
                    progress(done, total)
        except BaseException:
            child.kill()
            raise
        if child.wait() != 0 or done != total:
            complaints.seek(0)
            reason = complaints.read().strip().rpartition("\n")[2] or f"exit {child.returncode}"
            raise SnnbenchError(f"cannot synthesise speech after {done} of {total}: {reason}")


_REINSTALL = "reinstall it with: pip install --force-reinstall espeakng-loader"


def _library() -> ctypes.CDLL:
    try:
        import espeakng_loader

        return ctypes.CDLL(espeakng_loader.get_library_path())
    except ImportError as error:
        raise SnnbenchError(
            f"the package espeakng-loader is not installed; {_REINSTALL}"
        ) from error
    except OSError as error:
        raise SnnbenchError(f"espeak-ng cannot be loaded: {error}; {_REINSTALL}") from error


def _data_folder() -> Path:
    import espeakng_loader

    try:
        return Path(espeakng_loader.get_data_path())
    except RuntimeError as error:
        raise SnnbenchError(f"espeak-ng's voice data is missing: {error}; {_REINSTALL}") from error


# From here on: what runs in the fresh process. The numbers are those of espeak-ng's speak_lib.h.

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_PARAMETER_RATE, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 3, 4
_POS_CHARACTER = 1
_CHARS_UTF8 = 1
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class _Espeak:
    """espeak-ng in this process. Make one only: the library's state is global."""

    def __init__(self) -> None:
        self._library = _library()
        self._chunks: list[bytes] = []
        # kept on self: the library holds a bare pointer to it
        self._callback = _Callback(self._collect)
        # The library reads voices from here as it goes, and cuts a path at 160 bytes: give "."
        os.chdir(_data_folder())
        rate = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, b".", _INITIALIZE_DONT_EXIT
        )
        if rate != SAMPLE_RATE_HZ:
            raise SnnbenchError(
                f"espeak-ng gives {rate} Hz, expected {SAMPLE_RATE_HZ}; {_REINSTALL}"
            )
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, utterance: Utterance) -> NDArray[np.int16]:
        """The samples of one utterance, as the library gives them."""
        import numpy as np

        library = self._library
        self._chunks.clear()
        if library.espeak_SetVoiceByName(utterance.espeak_voice.encode()) != 0:
            raise SnnbenchError(f"espeak-ng has no voice {utterance.espeak_voice!r}")
        library.espeak_SetParameter(_PARAMETER_RATE, utterance.rate_wpm, 0)
        library.espeak_SetParameter(_PARAMETER_PITCH, utterance.pitch, 0)
        library.espeak_SetParameter(_PARAMETER_RANGE, utterance.pitch_range, 0)
        library.espeak_ng_SetRandSeed(ctypes.c_long(utterance.noise_seed))
        text = utterance.word.encode()
        status = library.espeak_Synth(
            text, ctypes.c_size_t(len(text) + 1), 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None
        )
        if status != 0 or not self._chunks:
            raise SnnbenchError(f"espeak-ng does not say {utterance.source_id}: status {status}")
        return np.frombuffer(b"".join(self._chunks), dtype=np.int16)


def trim(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """Cut the silence before and after a word, leaving 30 ms on either side.

    Silence is below 1 % of the peak (-40 dB). The margin is what the cochlea's onset and offset
    ramps take; where the recording has less, zeros fill it up. All in integers.

    Raises
    ------
    SnnbenchError
        There is nothing but silence.
    """
    import numpy as np

    margin = SAMPLE_RATE_HZ * 30 // 1000
    level = np.abs(samples.astype(np.int32))
    loud = np.flatnonzero(100 * level >= max(100, int(level.max(initial=0))))
    if loud.size == 0:
        raise SnnbenchError("espeak-ng gave silence")
    padded = np.pad(samples, margin)  # shifts every index by the margin
    return padded[loud[0] : loud[-1] + 1 + 2 * margin]


def _write_wav(path: Path, samples: NDArray[np.int16]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(samples.astype("<i2").tobytes())


def _main(folder: Path) -> None:
    espeak = _Espeak()
    for utterance in utterances():
        _write_wav(folder / f"{utterance.source_id}.wav", trim(espeak.say(utterance)))
        sys.stdout.write(f"{utterance.source_id}\n")


if __name__ == "__main__":
    try:
        _main(Path(sys.argv[1]))
    except (SnnbenchError, OSError) as error:
        sys.exit(str(error))
