"""`snnbench data get` and `data convert`: from a download, a folder or nothing to a SpikeDataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from snnbench.cli.common import json_option, note, progress_bar
from snnbench.errors import SnnbenchError, UsageError

if TYPE_CHECKING:
    from snnbench.data_prep.convert import Progress, Summary
    from snnbench.data_prep.recipe import Recipe


@click.command("get")
@click.argument("name")
@click.option("--workers", type=click.IntRange(1), help="Processes; default: one per core.")
@click.option("--force", is_flag=True, help="Make the data set again although it is there.")
@json_option
def get(name: str, workers: int | None, force: bool, as_json: bool) -> None:
    """Make the data set NAME in the data folder (SNNBENCH_DATA), if it is not there yet.

    NAME is a recipe that ships (`snnbench data list`) or a TOML file of your own.

    \b
    Example: snnbench data get digits-synthetic
    """
    from snnbench.cli.data import show_file
    from snnbench.data_prep.recipe import load_recipe
    from snnbench.paths import dataset_path

    recipe = load_recipe(name)
    path = dataset_path(recipe.name)
    if path.is_file() and not force:
        note(f"{path} is there already")
    elif recipe.source.kind == "espeak-digits":
        make_synthetic(recipe, path, workers)
    else:
        raise SnnbenchError(
            f"{name} is not made on this machine: get {recipe.source.about} from {recipe.source.url}"
            f" and run `snnbench data convert {name} --source FOLDER --out {name}.h5`"
        )
    show_file(path, as_json)


@click.command("convert")
@click.argument("name")
@click.option("--source", type=click.Path(path_type=Path), help="Folder with the source files.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write; default: data folder.")
@click.option("--workers", type=click.IntRange(1), help="Processes; default: one per core.")
@click.option("--test-groups", help="Speakers to hold out for test, for example 04,05.")
@click.option("--valid-groups", help="Speakers to hold out for validation, for example 08,09.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@json_option
def convert(
    name: str,
    source: Path | None,
    out: Path | None,
    workers: int | None,
    test_groups: str | None,
    valid_groups: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Turn a folder of source files into one SpikeDataset file.

    NAME is a recipe that ships (`snnbench data list`) or a TOML file of your own. May be stopped at
    any time; the same command again goes on where it was.

    \b
    Example: snnbench data convert hd --source heidelberg-digits --out hd.h5
    """
    from snnbench.cli.data import show_file
    from snnbench.data_prep.recipe import load_recipe
    from snnbench.paths import dataset_path

    recipe = load_recipe(name)
    out = out or dataset_path(recipe.name)
    if out.is_dir():
        raise UsageError(
            f"--out {out}: is a folder; name a file, for example {out / (recipe.name + '.h5')}"
        )
    if out.exists() and not force:
        raise SnnbenchError(f"{out}: exists already; --force replaces it")
    held_out = {"test_groups": _names(test_groups), "valid_groups": _names(valid_groups)}
    if source is None and recipe.source.kind == "espeak-digits":
        make_synthetic(recipe, out, workers, **held_out)
    elif source is None:
        raise UsageError(f"--source is missing: {recipe.source.about}")
    elif recipe.source.kind == "published-spikes":
        from snnbench.data_prep.published import import_published

        import_published(recipe, source, out, **held_out)
    else:
        convert_with_progress(recipe, source, out, workers, **held_out)
    show_file(out, as_json)


def make_synthetic(
    recipe: Recipe,
    out: Path,
    workers: int | None,
    *,
    test_groups: tuple[str, ...] = (),
    valid_groups: tuple[str, ...] = (),
) -> Summary:
    """Speak the synthetic digits and convert them."""
    import shutil

    from snnbench.data_prep.speech import synthesise
    from snnbench.paths import data_dir

    source = data_dir() / "sources" / recipe.name
    # seconds of work: rather spoken anew than trusted as an earlier attempt left it
    shutil.rmtree(source, ignore_errors=True)
    with progress_bar("speaking", "words") as update:
        synthesise(source, progress=update)
    return convert_with_progress(
        recipe, source, out, workers, test_groups=test_groups, valid_groups=valid_groups
    )


def convert_with_progress(
    recipe: Recipe,
    source: Path,
    out: Path,
    workers: int | None,
    *,
    test_groups: tuple[str, ...] = (),
    valid_groups: tuple[str, ...] = (),
) -> Summary:
    """Convert with a progress bar, and say what it cost."""
    import time

    from snnbench.data_prep import convert as conversion

    started = time.monotonic()
    with progress_bar("converting", "files") as update:

        def report(p: Progress) -> None:
            speed = p.audio_s / (time.monotonic() - started)
            update(p.done, p.total, audio_per_s=f"{speed:.1f}", spikes=p.spikes)

        summary = conversion.convert(
            recipe,
            source,
            out,
            workers=workers or conversion.default_workers(),
            test_groups=test_groups,
            valid_groups=valid_groups,
            progress=report,
        )
    note(
        f"{summary.samples} recordings, {summary.audio_s:.1f} s of sound:"
        f" {time.monotonic() - started:.1f} s,"
        f" {summary.cpu_s / summary.audio_s:.3f} CPU s per second of sound,"
        f" {summary.spikes / summary.samples:.0f} spikes per recording,"
        f" at most {summary.peak_worker_bytes / 2**20:.0f} MiB in a worker"
    )
    return summary


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()
