"""Which function reads a source folder: a recipe's `source.kind` to its reader.

A reader lists the samples of a folder and what is known of each without opening it; a new kind of folder
is one function and one line here (see docs/add-a-dataset.md).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from snnbench.data_prep.recipe import Recipe
from snnbench.data_prep.sources import Listing, spoken_digits

READERS: dict[str, Callable[[Path, Recipe], Listing]] = {
    "heidelberg-digits": spoken_digits,
    "espeak-digits": spoken_digits,
}
