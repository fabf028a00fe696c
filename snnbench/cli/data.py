"""`snnbench data`: make, check, look at and export data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snnbench.cli.common import answer, json_option, table
from snnbench.cli.convert import convert, get
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


@data_command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The data sets there are recipes for, and whether they are converted here.

    \b
    Example: snnbench data list
    """
    from snnbench.data_prep.recipe import load_recipe, recipe_names
    from snnbench.paths import dataset_path

    rows = []
    for name in recipe_names():
        recipe = load_recipe(name)
        path = dataset_path(name)
        rows.append(
            {
                "name": name,
                "title": recipe.title,
                "summary": recipe.summary,
                "synthetic": recipe.synthetic,
                "source": recipe.source.about,
                "licence": recipe.licence,
                "path": str(path) if path.is_file() else None,
            }
        )
    text = table(
        None,
        ["name", "what", "source", "converted"],
        [[r["name"], r["summary"], r["source"], r["path"] or "no"] for r in rows],
    )
    answer(as_json, rows, text)


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
        dataset.check()
        facts = describe(dataset)
    lines = [
        f"{file}: whole",
        f"fingerprint {facts['fingerprint']} recomputed and equal",
        "checksums of all arrays hold; times sorted; units, labels and groups in range",
        "no recording (name or content) is in two splits; no validation speaker is in training",
    ]
    answer(as_json, {"ok": True, **facts}, "\n".join(lines))


@data_command.command("show")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def show(file: Path, as_json: bool) -> None:
    """Counts, splits, speakers, and how FILE was made.

    \b
    Example: snnbench data show hd.h5
    """
    show_file(file, as_json)


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
@click.option("--layout", type=click.Choice(["shd"]), default="shd", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write into.")
@json_option
def export(file: Path, layout: str, out: Path, as_json: bool) -> None:
    """Write the published SHD layout, one file per split, for other toolkits.

    \b
    Example: snnbench data export hd.h5 --layout shd --out exported
    """
    from snnbench.data_prep.export import export_published
    from snnbench.data_prep.store import SpikeDataset

    with SpikeDataset.open(file) as dataset:
        files = export_published(dataset, out)
    answer(as_json, {"files": [str(f) for f in files]}, "\n".join(str(f) for f in files))


def raster_of(
    dataset: SpikeDataset, split: str, index: int, source: Path | None
) -> tuple[Figure, dict[str, Any]]:
    """Picture of one sample's spikes, above them the sound if its folder is given, and its facts."""
    from snnbench import plots

    part, header = dataset.read(split, index, index + 1), dataset.header
    times, units = part.sample(0)
    label, speaker = header.classes[part.labels[0]], header.groups[part.groups[0]]
    sound, rate = find_sound(source, part.source_ids[0]) if source else (None, None)
    figure = plots.audio_raster(
        times,
        units,
        n_units=header.n_units,
        duration_s=max(float(times.max(initial=0.0)), 0.1),
        title=f"“{label}”, {'voice' if header.synthetic else 'speaker'} {speaker}",
        waveform=sound,
        sample_rate_hz=rate,
        note="synthetic speech" if header.synthetic else "",
    )
    return figure, {"source_id": part.source_ids[0], "label": label, "spikes": len(times)}


def describe(dataset: SpikeDataset) -> dict[str, Any]:
    """What `show` tells about a file."""
    header, identity = dataset.header, dataset.identity
    return {
        "file": str(dataset.path),
        "name": header.name,
        "title": header.title,
        "synthetic": header.synthetic,
        "n_units": header.n_units,
        "duration_s": header.duration_s,
        "classes": list(header.classes),
        "splits": {
            split: {
                "samples": dataset.n_samples(split),
                "spikes": dataset.n_spikes(split),
                "groups": dataset.group_names(split),
            }
            for split in dataset.splits
        },
        **{k: v for k, v in identity.model_dump().items() if k.endswith("sha256")},
        "fingerprint": identity.fingerprint,
        "recipe": json.loads(header.recipe),
        "licence": header.licence,
        "citation": header.citation,
        "made_by": header.made_by,
    }


def show_file(path: Path, as_json: bool) -> None:
    from rich.console import Group

    from snnbench.data_prep.store import SpikeDataset

    with SpikeDataset.open(path) as dataset:
        facts = describe(dataset)
    rows = [
        [
            split,
            s["samples"],
            s["spikes"],
            round(s["spikes"] / max(1, s["samples"])),
            " ".join(s["groups"]),
        ]
        for split, s in facts["splits"].items()
    ]
    synthetic = "\nsynthetic speech, not recordings of people" if facts["synthetic"] else ""
    head = (
        f"{facts['title']} ({facts['name']}){synthetic}\n"
        f"{path}, {facts['n_units']} units, {len(facts['classes'])} classes, {facts['made_by']}\n"
    )
    hashes = "\n".join(
        f"{key.removesuffix('_sha256'):12}{facts[key]}"
        for key in (
            "fingerprint",
            "recipe_sha256",
            "source_sha256",
            "split_sha256",
            "labels_sha256",
        )
    )
    splits = table(None, ["split", "samples", "spikes", "per sample", "speakers"], rows)
    answer(as_json, facts, Group(head, splits, f"\n{hashes}\nlicence     {facts['licence']}"))


def find_sound(folder: Path, source_id: str) -> tuple[Any, int]:
    """Waveform and rate of a recording in a source folder."""
    from snnbench.data_prep.audio import load_audio

    for place in (folder / "audio", folder):
        for suffix in (".flac", ".wav"):
            if (path := place / (source_id + suffix)).is_file():
                return load_audio(path, sample_rate_hz=None)
    raise SnnbenchError(f"{folder}: no sound file for {source_id} in it")
