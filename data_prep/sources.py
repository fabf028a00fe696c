"""Folders of recordings: which are there, and what their names say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from snnbench.data_prep.recipe import Recipe
from snnbench.errors import SnnbenchError

_AUDIO_SUFFIXES = {".flac", ".wav"}

# Heidelberg Digits: lang-german_speaker-02_trial-10_digit-5.flac
_DIGIT_NAME = re.compile(
    r"lang-(?P<language>english|german)_speaker-(?P<speaker>\d+)_trial-\d+_digit-(?P<digit>\d)"
)


NO_GROUPS = "all"
"""The one group of a data set that knows no speakers."""


class Recording(NamedTuple):
    """One sample's source and what its name, or the list it stands in, says."""

    path: Path | None
    """None where the sample is computed."""
    source_id: str
    """Unique within the data set: the file's name without its suffix, or its path in the folder."""
    label: int
    group: str
    """Speaker, or `NO_GROUPS`."""
    split: str = ""
    """Split, where the source itself says."""
    take: int = -1
    """Number of the repetition, where the name says."""
    position: int = 0
    """Which sample of the file it is, where a file holds many."""


class Listing(NamedTuple):
    """What a source folder holds."""

    recordings: list[Recording]
    classes: tuple[str, ...]


def spoken_digits(folder: Path, recipe: Recipe) -> Listing:
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
    return Listing(recordings, recipe.classes)


def read_list(path: Path) -> list[str]:
    """Source ids named in a list file: one file name a line, suffix and folder dropped."""
    try:
        lines = path.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise SnnbenchError(f"{path}: cannot read the list: {error}") from None
    return [Path(line).stem for line in lines]


def _refuse_double_names(recordings: list[Recording]) -> None:
    seen: dict[str, Path | None] = {}
    for recording in recordings:
        if other := seen.get(recording.source_id):
            raise SnnbenchError(f"{recording.path}: same name as {other}; remove one of them")
        seen[recording.source_id] = recording.path
