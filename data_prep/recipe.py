"""A recipe says once how a data set is made: sources, classes, audio, cochlea, split, citation.

Recipes are TOML files in data_prep/recipes. Their digest covers what changes the spikes or the split,
not the words around it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field

from snnbench.spec import Spec, load_shipped, shipped_names

SourceKind = Literal["heidelberg-digits", "espeak-digits", "published-spikes"]


class SourceSpec(Spec):
    """Where the recordings come from and how their names are read (see data_prep/sources.py)."""

    kind: SourceKind
    about: str
    url: str = ""
    files: tuple[str, ...] = ()
    """Names of published files, split by split, for `published-spikes`."""


class AudioSpec(Spec):
    """What a recording must be; other rates and stereo are refused unless allowed here."""

    sample_rate_hz: int = Field(default=48000, gt=0)
    resample: bool = False
    downmix: bool = False


class CochleaSpec(Spec):
    """Preset of the cochlea, its seed, and constants that differ from the preset."""

    preset: str = "shd"
    seed: int = Field(default=0, ge=0)
    constants: dict[str, float | int | None] = Field(default_factory=dict)


class SplitSpec(Spec):
    """Which groups (speakers) are held out. See data_prep/split.py for the order of the rules."""

    train_list: str = ""
    test_list: str = ""
    """Names of list files in the source folder; they decide where both are there."""
    preferred_test_groups: tuple[str, ...] = ()
    """Test groups where all of them are among the recordings."""
    test_groups: tuple[str, ...] = ()
    valid_groups: tuple[str, ...] = Field(min_length=1)


class Recipe(Spec):
    """One data set."""

    name: str
    title: str
    summary: str
    synthetic: bool = False
    licence: str
    citation: str
    classes: tuple[str, ...] = Field(min_length=2)
    n_units: int = Field(gt=0)
    duration_s: float = Field(gt=0)
    """What a task usually cuts or pads to; the file keeps every spike."""
    source: SourceSpec
    audio: AudioSpec | None = None
    cochlea: CochleaSpec | None = None
    split: SplitSpec

    def processing_json(self, constants: dict[str, Any]) -> str:
        """Canonical JSON of what decides the spikes and the split.

        `constants` are the cochlea's resolved values and version, so that a changed default or
        algorithm changes the digest.
        """
        kept = self.model_dump(
            mode="json",
            include={
                "name",
                "classes",
                "n_units",
                "duration_s",
                "source",
                "audio",
                "cochlea",
                "split",
            },
        )
        kept["source"] = {"kind": self.source.kind}
        kept["cochlea_constants"] = constants
        return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def sha256_text(text: str) -> str:
    """Hex sha256 of UTF-8 text."""
    return hashlib.sha256(text.encode()).hexdigest()


def recipe_names() -> list[str]:
    """Names of all recipes that ship."""
    return shipped_names("snnbench.data_prep", "recipes")


def load_recipe(name: str) -> Recipe:
    """The recipe called `name`; UsageError with near names if there is none."""
    return load_shipped(Recipe, "data set", name, "snnbench.data_prep", "recipes")
