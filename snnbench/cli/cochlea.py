"""`snnbench data cochlea`: one recording of one's own through the cochlea, with pictures."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snnbench.cli.common import answer, json_option, note
from snnbench.errors import SnnbenchError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from snnbench.data_prep.cochlea import CochleaParameters, Spikes
    from snnbench.data_prep.cochlea_stages import StageSums

_CURVE_AT_HZ = 1000
_CURVE_LEVELS_DB = [2.5 * step for step in range(-20, 9)]


@click.command("cochlea")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write into.")
@click.option("--preset", default="shd", show_default=True, help="shd, lauscher or article.")
@click.option(
    "--mode",
    type=click.Choice(["fast", "exact"]),
    default="fast",
    show_default=True,
    help="exact: lauscher 1.0.1, spike for spike, some eight times slower.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of the random numbers; in mode exact that of numpy.random.seed.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="CONSTANT=VALUE",
    help="Override a constant of the preset, for example --set hair_cell.loss_per_s=2400. May be repeated.",
)
@click.option(
    "--resample-to",
    type=click.IntRange(1),
    default=48000,
    show_default=True,
    metavar="HZ",
    help="Bring the sound to this rate first; the published data sets were made at 48000.",
)
@click.option("--keep-rate", is_flag=True, help="Take the sound at its own rate.")
@click.option("--downmix", is_flag=True, help="Average the channels of a stereo file.")
@click.option(
    "--stages",
    is_flag=True,
    help="Write every stage too: 170 MB per second of 48 kHz sound, 300 MB in mode exact.",
)
@json_option
def cochlea(
    file: Path,
    out: Path,
    preset: str,
    mode: Any,
    seed: int,
    assignments: tuple[str, ...],
    resample_to: int,
    keep_rate: bool,
    downmix: bool,
    stages: bool,
    as_json: bool,
) -> None:
    """Turn the recording FILE (WAV, FLAC, OGG) into cochlea spikes, with pictures of every stage.

    Writes spikes.npz (times in s, units) and three pictures, each as .svg and .png: the stages, the
    frequency map and the rate-level curve. Unit 0 hears the highest frequency.

    \b
    Example: snnbench data cochlea hello.wav --preset shd --seed 0 --out hello
    """
    from snnbench.data_prep.cochlea import cochlea_spikes, preset_parameters
    from snnbench.data_prep.cochlea_stages import StageSums, stage_file, stage_file_bytes, together
    from snnbench.spec import parse_overrides

    parameters = preset_parameters(preset, parse_overrides(assignments))
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; name a folder")
    sound, rate_hz = _sound(file, None if keep_rate else resample_to, downmix)
    sums = StageSums(len(sound), rate_hz, parameters)
    files = [out / "spikes.npz"]
    with contextlib.ExitStack() as stack:
        observe: Any = sums
        if stages:
            size_mb = stage_file_bytes(len(sound), parameters, mode) / 1e6
            note(
                f"stages.npz will have {size_mb:,.0f} MB, and needs as much again while it is made"
            )
            files.append(out / "stages.npz")
            keeper = stage_file(files[-1], len(sound), parameters, mode)
            observe = together([sums, stack.enter_context(keeper)])
        started = time.process_time()
        try:
            spikes = cochlea_spikes(
                sound,
                rate_hz,
                parameters=parameters,
                seed=seed,
                key=None,
                mode=mode,
                observe=observe,
            )
        except SnnbenchError as error:
            raise type(error)(f"{file}: {error}") from error
        cpu_s = time.process_time() - started
    made = {"preset": preset, "mode": mode, "seed": seed, "sample_rate_hz": rate_hz}
    _write_spikes(files[0], spikes, parameters, made)
    files += _draw(out, file.name, sound, rate_hz, sums, spikes, parameters, made)
    facts = {
        "file": str(file),
        **made,
        "sound_s": len(sound) / rate_hz,
        "spikes": len(spikes.times),
        "n_channels": parameters.n_channels,
        "active_channels": len(set(spikes.units.tolist())),
        "cpu_s": round(cpu_s, 3),
        "files": [str(path) for path in files],
        "parameters": parameters.model_dump(mode="json"),
    }
    lines = [
        f"{file}: {facts['spikes']:,} spikes in {facts['active_channels']} of"
        f" {parameters.n_channels} channels, {facts['sound_s']:.3f} s of sound at {rate_hz} Hz,"
        f" {cpu_s:.2f} CPU s",
        f"preset {preset}, mode {mode}, seed {seed}; wrote",
        *(f"  {path}" for path in files),
    ]
    answer(as_json, facts, "\n".join(lines))


def _sound(file: Path, rate_hz: int | None, downmix: bool) -> tuple[NDArray[np.float64], int]:
    """The recording, mono, at the wanted rate; tells what was done to it."""
    import soundfile

    from snnbench.data_prep.audio import load_audio

    sound, at_hz = load_audio(file, sample_rate_hz=rate_hz, downmix=True, resample=True)
    header = soundfile.info(str(file))
    if header.channels > 1:
        if not downmix:
            raise SnnbenchError(
                f"{file}: has {header.channels} channels, one is wanted; --downmix averages them"
            )
        note(f"averaged {header.channels} channels")
    if header.samplerate != at_hz:
        note(f"resampled from {header.samplerate} to {at_hz} Hz (--keep-rate keeps the rate)")
    return sound, at_hz


def _write_spikes(
    path: Path, spikes: Spikes, parameters: CochleaParameters, made: dict[str, Any]
) -> None:
    import numpy as np

    from snnbench.paths import whole_file

    arrays: dict[str, Any] = {
        "times": spikes.times,
        "units": spikes.units,
        "n_channels": np.array(parameters.n_channels),
        "parameters": np.array(json.dumps(parameters.model_dump(mode="json"))),
        **{name: np.array(value) for name, value in made.items()},
    }
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def _draw(
    out: Path,
    name: str,
    sound: NDArray[np.float64],
    rate_hz: int,
    sums: StageSums,
    spikes: Spikes,
    parameters: CochleaParameters,
    made: dict[str, Any],
) -> list[Path]:
    """Draw the stages, the frequency map and the rate-level curve; the files written."""
    from snnbench import cochlea_plots, plots
    from snnbench.data_prep.cochlea_curves import rate_level

    small = f"preset {made['preset']}, mode {made['mode']}, seed {made['seed']}"
    curve = rate_level(_CURVE_AT_HZ, _CURVE_LEVELS_DB, rate_hz, parameters, seed=made["seed"])
    figures = {
        "stages": cochlea_plots.cochlea_stages(
            sound, rate_hz, sums, spikes, parameters, title=name, note=small
        ),
        "frequency-map": cochlea_plots.frequency_map(parameters, rate_hz),
        "rate-level": cochlea_plots.rate_level_curve(curve, note=f"preset {made['preset']}"),
    }
    files = []
    for stem, figure in figures.items():
        for suffix in (".svg", ".png"):
            files.append(out / (stem + suffix))
            plots.save(figure, files[-1])
    return files
