"""A recording's file through the cochlea."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from snnbench.data_prep.audio import load_audio
from snnbench.data_prep.basilar_membrane import membrane_filter
from snnbench.data_prep.cochlea import CochleaParameters, cochlea_spikes, preset_parameters
from snnbench.data_prep.encoding import Encoded, Encoder
from snnbench.data_prep.recipe import AudioSpec, CochleaSpec
from snnbench.data_prep.sources import Recording
from snnbench.errors import SnnbenchError


@dataclass(frozen=True)
class CochleaEncoder(Encoder):
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
        try:
            spikes = cochlea_spikes(
                waveform,
                rate_hz,
                parameters=self.parameters,
                seed=self.seed,
                key=recording.source_id,
                mode=self.mode,
            )
        except SnnbenchError as error:
            raise type(error)(f"{recording.path}: {error}") from error
        return Encoded(spikes.times, spikes.units, audio_s)


def cochlea_parameters(spec: CochleaSpec, n_channels: int) -> CochleaParameters:
    """The preset's constants with the recipe's own ones (dotted keys) and number of channels."""
    return preset_parameters(spec.preset, {"n_channels": n_channels, **spec.constants})
