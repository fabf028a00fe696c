"""The synthetic spoken digits: the plan, the recordings, and that they come out the same every time."""

from __future__ import annotations

import collections
import hashlib
import platform
import sys
import wave
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from snnbench.data_prep import speech
from snnbench.errors import SnnbenchError

MARGIN = 661  # 30 ms at 22,050 Hz, rounded down


def read(path: Path) -> NDArray[np.int16]:
    with wave.open(str(path), "rb") as file:
        assert file.getnchannels() == 1
        assert file.getsampwidth() == 2
        assert file.getframerate() == 22_050
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for utterance in speech.utterances():
        total.update((folder / f"{utterance.source_id}.wav").read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speech") / "recordings"
    speech.synthesise(folder)
    return folder


# The plan


def test_plan_covers_every_word_and_voice_equally() -> None:
    plan = speech.utterances()
    assert len({u.source_id for u in plan}) == len(plan) == 40 * 20 * 2
    assert collections.Counter(u.label for u in plan) == dict.fromkeys(range(20), 80)
    assert set(collections.Counter(u.speaker for u in plan).values()) == {40}
    assert len({v.variant for v in speech.VOICES}) == 40


def test_labels_are_those_of_the_heidelberg_digits() -> None:
    by_name = {u.source_id: u for u in speech.utterances()}
    five = by_name["lang-german_speaker-07_trial-1_digit-5"]
    assert (five.word, five.label, five.speaker) == ("fünf", 15, "speaker-07")
    nine = by_name["lang-english_speaker-40_trial-2_digit-9"]
    assert (nine.word, nine.label, nine.speaker) == ("nine", 9, "speaker-40")


def test_one_speaker_has_one_variant_in_both_languages() -> None:
    variants = collections.defaultdict(set)
    for utterance in speech.utterances():
        accent, _, variant = utterance.espeak_voice.partition("+")
        assert accent.startswith("gmw/de" if utterance.language == "german" else "gmw/en")
        variants[utterance.speaker].add(variant)
    assert {len(names) for names in variants.values()} == {1}


def test_parameters_stay_on_the_synthesisers_scales() -> None:
    for utterance in speech.utterances():
        assert 80 <= utterance.rate_wpm <= 450
        assert 0 <= utterance.pitch <= 99
        assert 0 <= utterance.pitch_range <= 99


# Trimming


def test_trim_keeps_thirty_milliseconds_around_the_word() -> None:
    samples = np.zeros(5000, dtype=np.int16)
    samples[2000:2100] = -20_000
    samples[1900] = 199  # below one per cent of the peak: silence
    samples[2500] = 200  # at it: speech
    assert np.array_equal(speech.trim(samples), samples[2000 - MARGIN : 2500 + 1 + MARGIN])


def test_trim_fills_a_missing_margin_with_zeros() -> None:
    trimmed = speech.trim(np.array([5, -32_768, 7], dtype=np.int16))
    # 5 and 7 are silence beside full scale, yet stay: they lie within the margin
    assert trimmed.size == 2 * MARGIN + 1
    assert trimmed[MARGIN - 1 : MARGIN + 2].tolist() == [5, -32_768, 7]
    assert np.count_nonzero(trimmed) == 3


@settings(deadline=None)
@given(hnp.arrays(np.int16, st.integers(1, 3000)).filter(np.any))
def test_trim_keeps_the_peak_and_changes_nothing_twice(samples: NDArray[np.int16]) -> None:
    once = speech.trim(samples)
    level = samples.astype(int)
    assert np.abs(once.astype(int)).max() == np.abs(level).max()
    assert np.array_equal(speech.trim(once), once)


def test_trim_refuses_silence() -> None:
    with pytest.raises(SnnbenchError, match="silence"):
        speech.trim(np.zeros(100, dtype=np.int16))


# The recordings


def test_every_planned_recording_is_there_and_nothing_else(recordings: Path) -> None:
    planned = {f"{u.source_id}.wav" for u in speech.utterances()}
    assert {path.name for path in recordings.iterdir()} == planned
    assert list(recordings.parent.iterdir()) == [recordings]


def test_recordings_are_audible_short_and_all_different(recordings: Path) -> None:
    seen = set()
    total_s = 0.0
    for path in recordings.iterdir():
        samples = read(path)
        seen.add(samples.tobytes())
        duration_s = samples.size / speech.SAMPLE_RATE_HZ
        total_s += duration_s
        assert 0.2 <= duration_s <= 1.0, path.name
        assert np.abs(samples.astype(int)).max() > 2_000, path.name
        assert np.mean(np.abs(samples.astype(int)) >= 32_767) < 1e-3, path.name
    assert len(seen) == 1600
    assert 600 < total_s < 800


def test_takes_of_a_word_differ_in_length_for_most_voices(recordings: Path) -> None:
    plan = speech.utterances()
    size = {u.source_id: read(recordings / f"{u.source_id}.wav").size for u in plan}
    same = [
        name
        for name in size
        if "trial-1" in name and size[name] == size[name.replace("trial-1", "trial-2")]
    ]
    assert len(same) < 80  # of 800: rate is drawn from 41 values


def test_a_second_process_gives_the_same_bytes(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ESPEAK_DATA_PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    speech.synthesise(Path("again"))
    assert digest(tmp_path / "again") == digest(recordings)


@pytest.mark.skipif(
    (sys.platform, platform.machine(), version("espeakng-loader")) != ("linux", "x86_64", "0.2.4"),
    reason="the known hash is that of espeakng-loader 0.2.4 on Linux, x86-64",
)
def test_recordings_have_the_known_hash(recordings: Path) -> None:
    # A change here is a new version of the data set, with new results for every model.
    assert digest(recordings) == "03c902a40836c901db278611576e72102c969539961d95a4224638da4932ca9e"


# Progress and failure


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def stop_early(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        speech.synthesise(tmp_path / "out", progress=stop_early)
    assert seen == [(n, 1600) for n in range(1, 6)]
    assert list(tmp_path.iterdir()) == []  # whole or not at all


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(SnnbenchError, match="is not empty"):
        speech.synthesise(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_missing_library_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python runs sitecustomize at its start, in the fresh process too
    (tmp_path / "sitecustomize.py").write_text(
        "import espeakng_loader\nespeakng_loader.get_library_path = lambda: '/nowhere/espeak.so'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SnnbenchError, match=r"/nowhere/espeak\.so.*pip install"):
        speech.synthesise(tmp_path / "out")
    assert not (tmp_path / "out").exists()
