"""A recipe says once how a data set is made: sources, classes, audio, cochlea, split, citation.

Recipes are TOML files in data_prep/recipes. Their digest covers what changes the spikes or the split,
not the words around it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from snnbench.spec import Spec, load_file, load_shipped, shipped_names


def _later(default: Any) -> Any:
    """A field added after the first data sets were made: at its default it is not written, so that
    their digests stay."""
    return Field(default=default, exclude_if=lambda value: value == default)


Hash = Annotated[str, Field(pattern=r"^(|md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")]
"""`md5:...` or `sha256:...`, pooch's form, or nothing where it is not known."""


class SourceSpec(Spec):
    """Where the recordings come from and how their names are read (see data_prep/readers.py)."""

    kind: str
    """A key of `readers.READERS`, or `published-spikes` (data_prep/published.py)."""
    about: str
    """What the source folder holds, in words."""
    url: str = ""
    """The data set's page."""
    files: tuple[str, ...] = ()
    """Names of the files, split by split: for `published-spikes`, and for `idx-images` (images and
    labels to train on, images and labels to test on)."""


class PackedFile(Spec):
    """A file on the mirrors."""

    name: str
    """Its address below a mirror's."""
    hash: Hash = ""
    """Without one the mirror's `hash_list` is asked."""
    size_bytes: int | None = Field(default=None, gt=0)


class Download(Spec):
    """A file or folder that a source folder needs, and the files it may be unpacked from."""

    target: str = Field(pattern=r"^[^./\\][^/\\]*$")
    hash: Hash = ""
    """Hash of the target, where it is a file and its hash is known."""
    packed: tuple[PackedFile, ...] = Field(min_length=1)
    """Alternatives; the first that can be had is taken."""


class DownloadSpec(Spec):
    """What `data get` fetches (see data_prep/download.py)."""

    mirrors: tuple[str, ...] = Field(min_length=1)
    """Addresses of folders, tried in order."""
    hash_list: str = ""
    """A file on the mirror with a line `hash  name` per file, for files whose hash is not known here."""
    files: tuple[Download, ...] = Field(min_length=1)


class AudioSpec(Spec):
    """What a recording must be; other rates and stereo are refused unless allowed here."""

    sample_rate_hz: int = Field(default=48000, gt=0)
    resample: bool = False
    downmix: bool = False
    silent: Literal["refuse", "no-spikes"] = _later("refuse")
    """What a recording whose samples are all zero is: an error, or a sample without spikes."""


class CochleaSpec(Spec):
    """Preset of the cochlea, its seed, and constants that differ from the preset."""

    preset: str = "shd"
    mode: Literal["fast", "exact"] = _later("fast")
    """fast: same statistics; exact: lauscher's arithmetic, spike for spike (see docs/cochlea.md)."""
    seed: int = Field(default=0, ge=0)
    constants: dict[str, float | int | str | None] = Field(default_factory=dict)


class LatencySpec(Spec):
    """Brightness as time (see data_prep/latency.py)."""

    tau_s: float = Field(gt=0)
    threshold: float = Field(ge=0, lt=1)
    """Brightness, of 1, at and below which there is no spike."""


class ThresholdCrossingSpec(Spec):
    """Images as sequences of grey values (see data_prep/threshold_crossing.py)."""

    dt_s: float = Field(gt=0)
    """Width of a step."""
    duplicate: bool
    """Whether every spike comes twice, in two steps per pixel."""


class SensorSpec(Spec):
    """Size of an event camera in pixels (see data_prep/nmnist.py)."""

    width: int = Field(gt=0)
    height: int = Field(gt=0)


class PerClass(Spec):
    """Samples of every class."""

    train: int = Field(gt=0)
    valid: int = Field(gt=0)
    test: int = Field(gt=0)


class RandmanSpec(Spec):
    """Random manifolds (see data_prep/randman.py)."""

    spectrum: Literal["article", "public-package"]
    """article: k^-alpha, as printed. public-package: 1 / ((k + 1)^alpha + 1)."""
    dimensions: int = Field(gt=0)
    alpha: float = Field(gt=0)
    """Smoothness."""
    seed: int = Field(ge=0)
    per_class: PerClass


class SplitSpec(Spec):
    """Which recordings are held out. See data_prep/split.py for the rules."""

    rule: Literal["groups", "filename-hash", "takes", "published"] = _later("groups")
    """groups: whole speakers. filename-hash: Google's rule for Speech Commands. takes: numbered
    repetitions of every speaker are tested on. published: the source says which is the test split."""
    train_list: str = ""
    test_list: str = ""
    """Names of list files in the source folder; they decide where both are there."""
    preferred_test_groups: tuple[str, ...] = ()
    """Test groups where all of them are among the recordings."""
    test_groups: tuple[str, ...] = ()
    valid_groups: tuple[str, ...] = ()
    test_takes: tuple[int, ...] = _later(())
    """Rule `takes`: repetitions with these numbers are the test split."""
    test_percent: float = _later(0.0)
    valid_percent: float = _later(0.0)
    """Rule `filename-hash`: shares of the range of the hash."""
    valid_last: int = _later(0)
    """Rule `published`: so many of the last training samples validate, where no group does."""
    valid_list: str = _later("")
    """Rule `filename-hash`: `test_list` and this one decide nothing; where they are there, they must
    agree with the hash."""
    duplicates: Literal["refuse", "drop"] = _later("refuse")
    """Recordings with the same content: an error, or all but one of them are left out, one of test
    rather than one of valid, one of valid rather than one of train."""


_WORDS = {"title", "summary", "synthetic", "licence", "citation", "expected_samples", "download"}
"""What a recipe says without deciding the spikes or the split."""


class Recipe(Spec):
    """One data set."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """Also that of its files, so small letters, digits and . _ - only."""
    title: str
    summary: str
    synthetic: bool = False
    licence: str
    citation: str
    classes: tuple[str, ...] = ()
    """Empty where the source folder says what there is."""
    n_units: int = Field(gt=0, le=2**16)
    """Units are stored in 16 bits."""
    duration_s: float = Field(gt=0)
    """What a task usually cuts or pads to; the file keeps every spike."""
    source: SourceSpec
    audio: AudioSpec | None = None
    cochlea: CochleaSpec | None = None
    latency: LatencySpec | None = _later(None)
    threshold_crossing: ThresholdCrossingSpec | None = _later(None)
    sensor: SensorSpec | None = _later(None)
    randman: RandmanSpec | None = _later(None)
    split: SplitSpec
    expected_samples: dict[str, int] = Field(default_factory=dict)
    """Published numbers of samples per split."""
    download: DownloadSpec | None = None

    @model_validator(mode="after")
    def _some_classes(self) -> Self:
        if len(self.classes) == 1:
            raise ValueError(
                f"classes: one class, {self.classes[0]!r}, leaves nothing to tell apart"
            )
        if twice := [name for name, n in Counter(self.classes).items() if n > 1]:
            raise ValueError(f"classes: {twice[0]!r} is there twice")
        return self

    @model_validator(mode="after")
    def _one_encoder(self) -> Self:
        names = ("cochlea", "latency", "threshold_crossing", "sensor", "randman")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"[{'] and ['.join(given)}]: a recipe makes spikes in one way")
        return self

    @model_validator(mode="after")
    def _units_fit(self) -> Self:
        if self.sensor and self.n_units != 2 * self.sensor.width * self.sensor.height:
            raise ValueError(
                f"n_units: {self.n_units}, but a sensor of {self.sensor.width} x"
                f" {self.sensor.height} pixels and two polarities has"
                f" {2 * self.sensor.width * self.sensor.height}"
            )
        if self.threshold_crossing and (self.n_units < 3 or self.n_units % 2 == 0):
            raise ValueError(
                f"n_units: {self.n_units}, but threshold crossings need an odd number, as many on as"
                " off and one for white"
            )
        return self

    def published_hash(self, name: str) -> str:
        """Hash of the source file `name`, unpacked, as published; "" where it is not known."""
        files = self.download.files if self.download else ()
        return next((wanted.hash for wanted in files if wanted.target == name), "")

    def processing_json(self, constants: dict[str, Any]) -> str:
        """Canonical JSON of what decides the spikes and the split.

        `constants` are the encoder's resolved values and version (see data_prep/encoding.py), so that
        a changed default or algorithm changes the digest.
        """
        kept = self.model_dump(mode="json", exclude=_WORDS)
        kept["source"] = {"kind": self.source.kind}
        kept["cochlea_constants" if self.cochlea else "encoder_constants"] = constants
        return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def sha256_text(text: str) -> str:
    """Hex sha256 of UTF-8 text."""
    return hashlib.sha256(text.encode()).hexdigest()


def recipe_names() -> list[str]:
    """Names of all recipes that ship."""
    return shipped_names("snnbench.data_prep", "recipes")


def load_recipe(name: str) -> Recipe:
    """The recipe called `name`, or in the TOML file `name`; UsageError with near names if none is."""
    if name.endswith(".toml"):
        return load_file(Recipe, Path(name))
    return load_shipped(Recipe, "data set", name, "snnbench.data_prep", "recipes")
