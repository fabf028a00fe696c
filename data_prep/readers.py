"""Which function reads a source folder: a recipe's `source.kind` to its reader.

A reader lists the samples of a folder and what is known of each without opening it; a new kind of folder
is one function and one line here (see docs/add-a-dataset.md).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from snnbench.data_prep.audio_folder import labelled_audio
from snnbench.data_prep.idx import labelled_images
from snnbench.data_prep.nmnist import event_files
from snnbench.data_prep.randman import random_manifolds
from snnbench.data_prep.recipe import Recipe
from snnbench.data_prep.sources import (
    Listing,
    free_spoken_digits,
    speech_commands,
    spoken_digits,
)

READERS: dict[str, Callable[[Path, Recipe], Listing]] = {
    "heidelberg-digits": spoken_digits,
    "espeak-digits": spoken_digits,
    "speech-commands": speech_commands,
    "free-spoken-digits": free_spoken_digits,
    "audio-folder": labelled_audio,
    "idx-images": labelled_images,
    "nmnist": event_files,
    "randman": random_manifolds,
}

GENERATED = {"espeak-digits", "randman"}
"""Kinds that are made on this machine and need no source folder."""

IN_ORDER_OF_NAMES = {"heidelberg-digits", "espeak-digits", "free-spoken-digits"}
"""Kinds whose readers sort all recordings by their source ids, so that these tell the order."""
