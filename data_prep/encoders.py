"""Recording -> spikes: what a worker of a conversion does with every sample, one class per kind of data.

An encoder is small and frozen, since it travels to worker processes. `encoder_of` picks it by the
recipe's sections; its `constants` are everything that decides the spikes and does not stand in the recipe
itself: resolved defaults, and the version of the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from snnbench.data_prep.audio import load_audio
from snnbench.data_prep.basilar_membrane import membrane_filter
from snnbench.data_prep.cochlea import CochleaParameters, cochlea_spikes, preset_parameters
from snnbench.data_prep.recipe import AudioSpec, CochleaSpec, Recipe
from snnbench.data_prep.sources import Recording
from snnbench.errors import SnnbenchError


class Encoded(NamedTuple):
    """Spikes of one recording, sorted by time."""

    times: NDArray[np.float32]
    """s, shape (spike,)."""
    units: NDArray[np.uint16]
    audio_s: float = 0.0
    """Seconds of sound, 0 where there is none."""


class Encoder(Protocol):
    """Makes the spikes of one recording."""

    per_shard: ClassVar[int]
    """Recordings a worker does between two writes to disk: some seconds of work."""

    @property
    def constants(self) -> dict[str, Any]:
        """What decides the spikes beside the recipe, as JSON values."""
        ...

    def prepare(self) -> None:
        """What is done once, before the workers start."""
        ...

    def __call__(self, recording: Recording) -> Encoded:
        """The spikes of `recording`; SnnbenchError naming its file where they cannot be made."""
        ...


@dataclass(frozen=True)
class CochleaEncoder:
    """Sound through the cochlea."""

    audio: AudioSpec
    parameters: CochleaParameters
    seed: int
    mode: Literal["fast", "exact"] = "fast"

    per_shard: ClassVar[int] = 32
    versions: ClassVar[dict[str, str]] = {"fast": "fast/1", "exact": "exact/1"}
    """Versions of the arithmetic; part of the recipe's digest, raised when spikes change."""

    @property
    def constants(self) -> dict[str, Any]:
        """The cochlea's constants, all of them."""
        return {"algorithm": self.versions[self.mode], **self.parameters.model_dump(mode="json")}

    def prepare(self) -> None:
        """Make the membrane's table once, not once per worker."""
        membrane_filter(
            self.parameters.n_channels, self.parameters.membrane, exact=self.mode == "exact"
        )

    def __call__(self, recording: Recording) -> Encoded:
        """Read, resample where allowed, and convert."""
        assert recording.path is not None
        waveform, rate_hz = load_audio(
            recording.path,
            sample_rate_hz=self.audio.sample_rate_hz,
            resample=self.audio.resample,
            downmix=self.audio.downmix,
            allow_silence=self.audio.silent == "no-spikes",
        )
        audio_s = len(waveform) / rate_hz
        if not waveform.any():  # it has no level that could be brought to the cochlea's
            return Encoded(np.empty(0, np.float32), np.empty(0, np.uint16), audio_s)
        spikes = cochlea_spikes(
            waveform,
            rate_hz,
            parameters=self.parameters,
            seed=self.seed,
            key=recording.source_id,
            mode=self.mode,
        )
        return Encoded(spikes.times, spikes.units, audio_s)


def cochlea_parameters(spec: CochleaSpec, n_channels: int) -> CochleaParameters:
    """The preset's constants with the recipe's own ones (dotted keys) and number of channels."""
    return preset_parameters(spec.preset, {"n_channels": n_channels, **spec.constants})


def encoder_of(recipe: Recipe) -> Encoder:
    """The encoder that a recipe's sections ask for."""
    # here, because these modules import this one
    from snnbench.data_prep.latency import LatencyEncoder
    from snnbench.data_prep.nmnist import EventFileEncoder
    from snnbench.data_prep.randman import RandmanEncoder
    from snnbench.data_prep.threshold_crossing import ThresholdCrossingEncoder

    if recipe.audio is not None and recipe.cochlea is not None:
        parameters = cochlea_parameters(recipe.cochlea, recipe.n_units)
        return CochleaEncoder(recipe.audio, parameters, recipe.cochlea.seed, recipe.cochlea.mode)
    if recipe.latency is not None:
        return LatencyEncoder(recipe.latency, recipe.n_units)
    if recipe.threshold_crossing is not None:
        return ThresholdCrossingEncoder(recipe.threshold_crossing, recipe.n_units)
    if recipe.sensor is not None:
        return EventFileEncoder(recipe.sensor)
    if recipe.randman is not None:
        return RandmanEncoder(recipe.randman, recipe.n_units, recipe.duration_s)
    raise SnnbenchError(
        f"recipe {recipe.name}: names no way to make spikes; add [audio] and [cochlea], [latency],"
        " [threshold_crossing], [sensor] or [randman]"
    )
