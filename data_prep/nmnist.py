"""Event-camera recordings in the 40-bit format of N-MNIST (Orchard et al. 2015).

Five bytes an event: x, y, and 24 bits of which the first is the polarity (1: brighter) and the others the
time in us, most significant byte first. An event with y = 240 is none: it says that the camera's clock
overflowed, and 2^13 us are added to it and all that follow. Units run over the columns, then the rows,
then the polarities: unit = (polarity * height + y) * width + x.

Two layouts of folders are read: the published one, Train/5/00001.bin and Test/..., and the one of smaller
copies that come with the data for SLAYER, where a list train1K.txt or test100.txt has a line
"number class" per file. File numbers are those of MNIST's images, and recordings are listed by number, as
published they lie class by class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from snnbench.data_prep.encoding import Encoded, Encoder
from snnbench.data_prep.recipe import Recipe, SensorSpec
from snnbench.data_prep.sources import NO_GROUPS, Listing, Recording
from snnbench.errors import SnnbenchError

_BYTES = 5
_OVERFLOW_Y = 240
_OVERFLOW_US = 1 << 13


@dataclass(frozen=True)
class EventFileEncoder(Encoder):
    """Events -> spikes: nothing is added, dropped or moved."""

    sensor: SensorSpec

    per_shard: ClassVar[int] = 1000

    @property
    def constants(self) -> dict[str, Any]:
        """The version of the reading; all else stands in the recipe."""
        return {"algorithm": "address-events/1"}

    def __call__(self, recording: Recording) -> Encoded:
        """The events of one file, in the order of the file."""
        assert recording.path is not None
        return read_events(recording.path, self.sensor)


def read_events(path: Path, sensor: SensorSpec) -> Encoded:
    """The events of one file as spikes, in the order of the file.

    Raises
    ------
    SnnbenchError
        Naming the file and the event: it is empty or not of whole events, an event lies outside the
        sensor, or is earlier than the one before it.
    """
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise SnnbenchError(f"{path}: cannot read: {error.strerror or error}") from None
    if not len(raw):
        raise SnnbenchError(f"{path}: is empty")
    if len(raw) % _BYTES:
        raise SnnbenchError(
            f"{path}: {len(raw)} bytes are no whole number of events of {_BYTES} bytes"
        )
    x, y, high, middle, low = raw.reshape(-1, _BYTES).T.astype(np.int64)
    overflow = y == _OVERFLOW_Y
    polarity = high >> 7
    time_us = ((high & 127) << 16 | middle << 8 | low) + _OVERFLOW_US * np.cumsum(overflow)
    event = np.flatnonzero(~overflow)
    x, y, polarity, time_us = x[event], y[event], polarity[event], time_us[event]
    _require(
        path,
        event,
        (x < sensor.width) & (y < sensor.height),
        lambda i: (
            f"at x {x[i]}, y {y[i]} is outside the sensor of {sensor.width} x {sensor.height}"
        ),
    )
    _require(
        path,
        event,
        np.diff(time_us, prepend=0) >= 0,
        lambda i: f"at {time_us[i]} us is earlier than the one before it, at {time_us[i - 1]} us",
    )
    units = (polarity * sensor.height + y) * sensor.width + x
    return Encoded((time_us / 1e6).astype(np.float32), units.astype(np.uint16))


def _require(
    path: Path, event: NDArray[np.int64], good: NDArray[np.bool_], fault: Callable[[int], str]
) -> None:
    """Refuse a file with a bad event; `event` are the places in the file, from 0."""
    if len(bad := np.flatnonzero(~good)):
        raise SnnbenchError(f"{path}: event {event[bad[0]]} {fault(int(bad[0]))}")


def event_files(folder: Path, recipe: Recipe) -> Listing:
    """The recordings of a folder in either layout, split by split, by number; source id train/00001.

    Raises
    ------
    SnnbenchError
        No such folder, neither layout in it, a name or a list's line that does not parse, a class that
        is none, a listed file that is not there, or a number that comes twice.
    """
    if not folder.is_dir():
        raise SnnbenchError(f"{folder}: no such source folder")
    recordings = []
    for split in ("train", "test"):
        published = folder / split.capitalize()
        if published.is_dir():
            found = list(_in_class_folders(published, recipe))
        else:
            lists = sorted(folder.glob(f"{split}*.txt"))
            found = [entry for path in lists for entry in _in_list(path, split, recipe)]
        seen: dict[int, Path] = {}
        for number, path, label in sorted(found):
            if number in seen:
                raise SnnbenchError(f"{path}: has the number of {seen[number]}; remove one of them")
            seen[number] = path
            recordings.append(Recording(path, f"{split}/{number:05d}", label, NO_GROUPS, split))
    if not recordings:
        raise SnnbenchError(
            f"{folder}: no recordings here; expected the folders Train and Test with files like"
            " Train/5/00001.bin, or a list like train1K.txt beside the folder train"
        )
    return Listing(recordings, recipe.classes)


def _in_class_folders(folder: Path, recipe: Recipe) -> Iterator[tuple[int, Path, int]]:
    """Number, file and class of Train/5/00001.bin and its like."""
    for path in folder.glob("*/*.bin"):
        if not path.stem.isdecimal():
            raise SnnbenchError(f"{path}: the name does not parse; expected for example 00001.bin")
        yield int(path.stem), path, _label(path.parent.name, str(path.parent), recipe)


def _in_list(path: Path, split: str, recipe: Recipe) -> Iterator[tuple[int, Path, int]]:
    """Number, file and class as a list tells them; files are in train or test, or beside the list."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SnnbenchError(f"{path}: cannot read the list: {error}") from None
    for at, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        number, *rest = line.split()
        if len(rest) != 1 or not number.isdecimal():
            raise SnnbenchError(f"{path}: line {at}: {line!r} is no file number and class")
        places = [path.parent / split / f"{number}.bs2", path.parent / f"{number}.bs2"]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise SnnbenchError(f"{path}: line {at}: {places[0]} is not there")
        yield int(number), file, _label(rest[0], f"{path}: line {at}", recipe)


def _label(text: str, place: str, recipe: Recipe) -> int:
    if not text.isdecimal() or int(text) >= len(recipe.classes):
        raise SnnbenchError(
            f"{place}: {text!r} is no class; recipe {recipe.name} has 0 to {len(recipe.classes) - 1}"
        )
    return int(text)
