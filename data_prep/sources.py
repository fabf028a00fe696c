"""Folders of recordings: which are there, and what their names say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from snnbench.data_prep.recipe import Recipe
from snnbench.errors import SnnbenchError

_AUDIO_SUFFIXES = {".flac", ".wav"}

# Heidelberg Digits: lang-german_speaker-02_trial-10_digit-5.flac
_DIGIT_NAME = re.compile(
    r"lang-(?P<language>english|german)_speaker-(?P<speaker>\d+)_trial-\d+_digit-(?P<digit>\d)"
)
# Free Spoken Digit Dataset: 7_jackson_32.wav
_FSDD_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<take>\d+)")
# Speech Commands: 004ae714_nohash_0.wav
_COMMAND_NAME = re.compile(r"(?P<speaker>[0-9a-f]+)_nohash_\d+")

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
    content_sha256: str = ""
    """Hash of its content, where the reader knows better than the file: an IDX file is the same packed
    and unpacked."""


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
    example = "lang-german_speaker-02_trial-10_digit-5.flac"
    recordings = []
    for path, said in _named_files(folder, "audio", _DIGIT_NAME, example):
        label = int(said["digit"]) + (10 if said["language"] == "german" else 0)
        recordings.append(Recording(path, path.stem, label, said["speaker"]))
    refuse_double_names(recordings)
    return Listing(recordings, recipe.classes)


def free_spoken_digits(folder: Path, recipe: Recipe) -> Listing:
    """Recordings named as the Free Spoken Digit Dataset's are, in `folder` or its `recordings`.

    The group is the speaker's name, the take the number of the repetition. Sorted by name.

    Raises
    ------
    SnnbenchError
        No such folder, no audio in it, or a name that does not parse.
    """
    recordings = [
        Recording(path, path.stem, int(said["digit"]), said["speaker"], take=int(said["take"]))
        for path, said in _named_files(folder, "recordings", _FSDD_NAME, "7_jackson_32.wav")
    ]
    refuse_double_names(recordings)
    return Listing(recordings, recipe.classes)


def speech_commands(folder: Path, recipe: Recipe) -> Listing:
    """Google's Speech Commands: a subfolder per word, files named `<speaker>_nohash_<n>.wav`.

    The group is the speaker's hash, the source id word and name, such as `yes/004ae714_nohash_0`.
    Folders that begin with an underscore (background noise) are no words. In the order of the
    recipe's classes, sorted by name within each.

    Raises
    ------
    SnnbenchError
        No such folder, a subfolder that is no class of the recipe, or a name that does not parse.
    """
    words = {p.name for p in subfolders(folder) if not p.name.startswith("_")}
    if not words & set(recipe.classes):
        raise SnnbenchError(
            f"{folder}: holds no folder of recordings; expected one per word:"
            f" {recipe.classes[0]}, {recipe.classes[1]}, ..."
        )
    if other := sorted(words - set(recipe.classes)):
        raise SnnbenchError(
            f"{folder / other[0]}: is none of the {len(recipe.classes)} words; move it away, or take"
            " the recipe audio-folder for words of your own"
        )
    recordings = []
    for label, word in enumerate(recipe.classes):
        if word in words:
            example = "004ae714_nohash_0.wav"
            for path, said in _named_files(folder / word, "", _COMMAND_NAME, example):
                recordings.append(Recording(path, f"{word}/{path.stem}", label, said["speaker"]))
    return Listing(recordings, recipe.classes)


def subfolders(folder: Path) -> list[Path]:
    """Folders in `folder` but hidden ones, sorted; SnnbenchError where there is no such folder."""
    if not folder.is_dir():
        raise SnnbenchError(f"{folder}: no such source folder")
    found = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    for path in found:
        if not os.access(path, os.R_OK | os.X_OK):  # else its files would seem not to exist
            raise SnnbenchError(f"{path}: cannot be read: no permission")
    return found


def refuse_double_names(recordings: list[Recording]) -> None:
    """Raise SnnbenchError where two recordings have one source id."""
    seen: dict[str, Path | None] = {}
    for recording in recordings:
        if other := seen.get(recording.source_id):
            raise SnnbenchError(f"{recording.path}: same name as {other}; remove one of them")
        seen[recording.source_id] = recording.path


def _named_files(
    folder: Path, inner: str, pattern: re.Pattern[str], example: str
) -> Iterator[tuple[Path, re.Match[str]]]:
    """Sound files in `folder`, or in its subfolder `inner` where there is one, and what their names
    say; sorted."""
    if not folder.is_dir():
        raise SnnbenchError(f"{folder}: no such source folder")
    place = folder / inner if (folder / inner).is_dir() else folder
    files = sorted(p for p in place.iterdir() if p.suffix.lower() in _AUDIO_SUFFIXES)
    if not files:
        raise SnnbenchError(f"{place}: no .flac or .wav files here")
    for path in files:
        match = pattern.fullmatch(path.stem)
        if not match:
            raise SnnbenchError(f"{path}: the name does not parse; expected for example {example}")
        yield path, match


def read_list(path: Path) -> list[str]:
    """Source ids named in a list file: one file name a line, suffix and folder dropped."""
    return [Path(line).stem for line in read_lines(path)]


def read_lines(path: Path) -> list[str]:
    """Lines of a list file, without empty ones."""
    try:
        return path.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise SnnbenchError(f"{path}: cannot read the list: {error}") from None
