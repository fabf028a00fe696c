"""Reads source folders: which recordings are there, and what their names say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from snnbench.errors import SnnbenchError

_AUDIO_SUFFIXES = {".flac", ".wav"}

# Heidelberg Digits: lang-german_speaker-02_trial-10_digit-5.flac
_DIGIT_NAME = re.compile(
    r"lang-(?P<language>english|german)_speaker-(?P<speaker>\d+)_trial-\d+_digit-(?P<digit>\d)"
)


class Recording(NamedTuple):
    """One audio file and what its name says."""

    path: Path
    source_id: str
    """File name without its suffix."""
    label: int
    group: str


def spoken_digits(folder: Path) -> list[Recording]:
    """Recordings named as the Heidelberg Digits are, in `folder` or its `audio` subfolder.

    Labels are the digit for English and digit + 10 for German (SHD's order); the group is the
    speaker's number as text. Sorted by name.

    Raises
    ------
    SnnbenchError
        No such folder, no audio in it, or a name that does not parse.
    """
    if not folder.is_dir():
        raise SnnbenchError(f"{folder}: no such source folder")
    audio = folder / "audio" if (folder / "audio").is_dir() else folder
    files = sorted(p for p in audio.iterdir() if p.suffix.lower() in _AUDIO_SUFFIXES)
    if not files:
        raise SnnbenchError(f"{audio}: no .flac or .wav files here")
    recordings = []
    for path in files:
        match = _DIGIT_NAME.fullmatch(path.stem)
        if not match:
            raise SnnbenchError(
                f"{path}: the name does not parse; expected for example"
                " lang-german_speaker-02_trial-10_digit-5.flac"
            )
        label = int(match["digit"]) + (10 if match["language"] == "german" else 0)
        recordings.append(Recording(path, path.stem, label, match["speaker"]))
    _refuse_double_names(recordings)
    return recordings


def read_list(path: Path) -> list[str]:
    """Source ids named in a list file: one file name a line, suffix and folder dropped."""
    try:
        lines = path.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise SnnbenchError(f"{path}: cannot read the list: {error}") from None
    return [Path(line).stem for line in lines]


def _refuse_double_names(recordings: list[Recording]) -> None:
    seen: dict[str, Path] = {}
    for recording in recordings:
        if other := seen.get(recording.source_id):
            raise SnnbenchError(f"{recording.path}: same name as {other}; remove one of them")
        seen[recording.source_id] = recording.path


READERS: dict[str, Callable[[Path], list[Recording]]] = {
    "heidelberg-digits": spoken_digits,
    "espeak-digits": spoken_digits,
}
