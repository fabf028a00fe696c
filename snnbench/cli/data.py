"""`snnbench data`: make, check, look at and export data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snnbench.cli.cochlea import cochlea
from snnbench.cli.common import answer, json_option, progress_bar, table
from snnbench.cli.convert import convert, get
from snnbench.cli.show import (
    describe,
    kind_of_synthetic,
    recipe_facts,
    show_file,
    show_recipe,
    size_text,
)
from snnbench.cli.split import split
from snnbench.errors import SnnbenchError, UsageError, unknown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from snnbench.data_prep.store import SpikeDataset


@click.group("data")
def data_command() -> None:
    """Make, check, look at and export data sets.

    \b
    Example: snnbench data convert hd --source heidelberg-digits --out hd.h5
    """


data_command.add_command(get)
data_command.add_command(convert)
data_command.add_command(split)
data_command.add_command(cochlea)


@data_command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The data sets there are recipes for, and whether they are converted here.

    \b
    Example: snnbench data list
    """
    from snnbench.data_prep.recipe import load_recipe, recipe_names

    rows = [recipe_facts(load_recipe(name)) for name in recipe_names()]
    columns = ["name", "classes", "samples", "download", "licence", "here", "what"]
    cells = [
        [
            r["name"],
            r["n_classes"],
            r["n_samples"],
            size_text(r["download_bytes"]),
            r["licence"].partition(" (")[0],
            "yes" if r["path"] else "no",
            r["title"],
        ]
        for r in rows
    ]
    answer(as_json, rows, table(None, columns, cells))


@data_command.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def check(file: Path, as_json: bool) -> None:
    """Read all of FILE and prove that it is whole and that its splits are disjoint.

    \b
    Example: snnbench data check hd.h5
    """
    from snnbench.data_prep.store import SpikeDataset

    with SpikeDataset.open(file) as dataset:
        with progress_bar("checking", "spike", scale=True) as update:
            dataset.check(update)
        facts = describe(dataset)
    lines = [
        f"{file}: whole",
        f"fingerprint {facts['fingerprint']} recomputed and equal",
        "checksums of all arrays hold; times sorted; units, labels and groups in range",
        "no recording (by name or source hash) is in two splits; no validation speaker is in training",
    ]
    answer(as_json, {"ok": True, **facts}, "\n".join(lines))


@data_command.command("show")
@click.argument("what", metavar="FILE|NAME", type=click.Path(path_type=Path))
@json_option
def show(what: Path, as_json: bool) -> None:
    """Counts, splits, speakers, and how FILE was made; or the card of the data set NAME.

    \b
    Example: snnbench data show hd
    """
    from snnbench.data_prep.recipe import load_recipe, recipe_names

    name = str(what)
    if what.is_file() and what.suffix != ".toml":
        show_file(what, as_json)
    elif name in recipe_names() or what.suffix == ".toml":
        show_recipe(load_recipe(name), as_json)
    elif what.suffix or len(what.parts) > 1:
        raise SnnbenchError(f"{what}: no such data file")
    else:
        raise unknown_name("data set", name, recipe_names())


@data_command.command("plot")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--split", default="test", show_default=True, help="train, valid or test.")
@click.option(
    "--sample", type=click.IntRange(0), default=0, show_default=True, help="Which sample."
)
@click.option(
    "--source", type=click.Path(path_type=Path), help="Source folder, to draw the sound too."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help=".png, .svg or .pdf")
@json_option
def plot(
    file: Path, split: str, sample: int, source: Path | None, out: Path, as_json: bool
) -> None:
    """Draw the spikes of one sample, above them the sound if its folder is given.

    \b
    Example: snnbench data plot hd.h5 --sample 0 --out raster.png
    """
    from snnbench import plots
    from snnbench.data_prep.store import SpikeDataset

    with SpikeDataset.open(file) as dataset:
        if split not in dataset.splits:
            raise unknown_name("split", split, dataset.splits)
        if sample >= dataset.n_samples(split):
            raise UsageError(
                f"--sample {sample}: split {split} of {file} has {dataset.n_samples(split)} samples,"
                f" 0 to {dataset.n_samples(split) - 1}"
            )
        figure, facts = raster_of(dataset, split, sample, source)
    plots.save(figure, out)
    text = f"{out}: {facts['source_id']}, “{facts['label']}”, {facts['spikes']} spikes"
    answer(as_json, {"out": str(out), **facts}, text)


@data_command.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--layout", type=click.Choice(["shd", "npz"]), default="shd", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write into.")
@click.option("--name", help="Beginning of the files' names; default: the data set's name.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@json_option
def export(
    file: Path, layout: str, out: Path, name: str | None, force: bool, as_json: bool
) -> None:
    """Write FILE for other toolkits, one file per split.

    \b
    shd   the published layout of SHD and SSC (HDF5, times as float16), read by the
          SpyTorch tutorial and, where --name is shd and the folder is called SHD, by
          tonic.datasets.SHD(save_to=...) given the folder above it
    npz   flat NumPy arrays: times, units, offsets, labels, groups and the header

    \b
    Example: snnbench data export hd.h5 --layout shd --name shd --out exported/SHD
    """
    from snnbench.data_prep.export import LAYOUTS
    from snnbench.data_prep.store import SpikeDataset

    with SpikeDataset.open(file) as dataset:
        files = LAYOUTS[layout](dataset, out, name=name, force=force)
    answer(
        as_json,
        {"layout": layout, "files": [str(f) for f in files]},
        "\n".join(str(f) for f in files),
    )


def raster_of(
    dataset: SpikeDataset, split: str, index: int, source: Path | None
) -> tuple[Figure, dict[str, Any]]:
    """Picture of one sample's spikes, above them the sound if its folder is given, and its facts."""
    from snnbench import plots
    from snnbench.data_prep.sources import NO_GROUPS

    part, header = dataset.read(split, index, index + 1), dataset.header
    times, units = part.sample(0)
    label, speaker = header.classes[part.labels[0]], header.groups[part.groups[0]]
    whose = f", {'voice' if header.synthetic else 'speaker'} {speaker}"
    if speaker == NO_GROUPS:
        whose = ""
    sound, rate = find_sound(source, part.source_ids[0]) if source else (None, None)
    figure = plots.audio_raster(
        times,
        units,
        n_units=header.n_units,
        duration_s=max(float(times.max(initial=0.0)), 0.1),
        cochlea=bool(json.loads(header.recipe).get("cochlea")) or sound is not None,
        title=f"“{label}”{whose}",
        waveform=sound,
        sample_rate_hz=rate,
        note=kind_of_synthetic(header),
    )
    return figure, {"source_id": part.source_ids[0], "label": label, "spikes": len(times)}


def find_sound(folder: Path, source_id: str) -> tuple[Any, int]:
    """Waveform and rate of a recording in a source folder."""
    from snnbench.data_prep.audio import load_audio

    for place in (folder / "audio", folder / "recordings", folder):
        for suffix in ("", ".flac", ".wav"):
            if (path := place / (source_id + suffix)).is_file():
                return load_audio(path, sample_rate_hz=None, downmix=True)
    raise SnnbenchError(f"{folder}: no sound file for {source_id} in it")
