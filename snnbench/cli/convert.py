"""`snnbench data get` and `data convert`: from a download, a folder or nothing to a SpikeDataset."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snnbench.cli.common import is_local, json_option, note, progress_bar, scheduler_option
from snnbench.errors import SnnbenchError, UsageError

if TYPE_CHECKING:
    from snnbench.data_prep.recipe import Recipe
    from snnbench.data_prep.shards import Progress, Summary
    from snnbench.data_prep.transfer import Progress as DownloadProgress

workers_option = click.option(
    "--workers", type=click.IntRange(1), help="Processes; default: one per core."
)


@click.command("get")
@click.argument("name")
@workers_option
@scheduler_option
@click.option("--offline", is_flag=True, help="Open no connection; what is missing is an error.")
@click.option(
    "--mirror",
    "mirrors",
    multiple=True,
    metavar="URL",
    help="Address of a folder with the files, instead of the recipe's. May be repeated.",
)
@click.option("--keep-archives", is_flag=True, help="Keep packed files after unpacking.")
@click.option("--force", is_flag=True, help="Make the data set again although it is there.")
@json_option
def get(
    name: str,
    workers: int | None,
    scheduler: str,
    offline: bool,
    mirrors: tuple[str, ...],
    keep_archives: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make the data set NAME in the data folder (SNNBENCH_DATA), if it is not there yet.

    NAME is a recipe that ships (`snnbench data list`) or a TOML file of your own. Source files are
    downloaded where they are not in the data folder already, checked and converted. May be stopped at
    any time; the same command again goes on where it was.

    \b
    Example: snnbench data get digits-synthetic
    """
    from snnbench.cli.show import show_file
    from snnbench.data_prep.only_writer import clear_finished_parts
    from snnbench.data_prep.readers import GENERATED
    from snnbench.data_prep.recipe import load_recipe
    from snnbench.paths import dataset_path
    from snnbench.paths import offline as always_offline

    is_local(scheduler, workers)
    recipe, offline = load_recipe(name), offline or always_offline()
    out = dataset_path(recipe.name)
    if out.is_file() and not force:
        clear_finished_parts(out)
        note(f"{out} is there already")
    else:
        source = None
        if recipe.source.kind not in GENERATED:
            source = download(recipe, mirrors, offline=offline, keep_archives=keep_archives)
        make(recipe, source, out, workers, scheduler=scheduler)
    show_file(out, as_json)


@click.command("convert")
@click.argument("name")
@click.option("--source", type=click.Path(path_type=Path), help="Folder with the source files.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write; default: data folder.")
@workers_option
@scheduler_option
@click.option("--test-groups", help="Speakers to hold out for test, for example 04,05.")
@click.option("--valid-groups", help="Speakers to hold out for validation, for example 08,09.")
@click.option("--name", "new_name", help="Name of the data set in the file; default: the recipe's.")
@click.option("--preset", help="Constants of the cochlea: shd, lauscher or article.")
@click.option(
    "--duplicates",
    type=click.Choice(["refuse", "drop"]),
    help="Recordings with the same content: refuse them, or leave out all but one.",
)
@click.option("--partial", is_flag=True, help="Take what is there, though part is missing.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@json_option
def convert(
    name: str,
    source: Path | None,
    out: Path | None,
    workers: int | None,
    scheduler: str,
    test_groups: str | None,
    valid_groups: str | None,
    new_name: str | None,
    preset: str | None,
    duplicates: str | None,
    partial: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Turn a folder of source files into one SpikeDataset file.

    NAME is a recipe that ships (`snnbench data list`), a TOML file of your own, or audio-folder for
    recordings of your own. May be stopped at any time; the same command again goes on where it was.

    \b
    Example: snnbench data convert audio-folder --source words --name words --out words.h5
    """
    from snnbench.cli.show import show_file
    from snnbench.data_prep.only_writer import clear_finished_parts
    from snnbench.data_prep.readers import GENERATED
    from snnbench.data_prep.recipe import load_recipe
    from snnbench.paths import dataset_path

    is_local(scheduler, workers)
    recipe = adapted(load_recipe(name), new_name, preset, duplicates)
    out = out or dataset_path(recipe.name)
    if out.is_dir():
        raise UsageError(
            f"--out {out}: is a folder; name a file, for example {out / (recipe.name + '.h5')}"
        )
    if out.exists() and not force:
        clear_finished_parts(out)
        raise SnnbenchError(f"{out}: exists already; --force replaces it")
    if source is None and recipe.source.kind not in GENERATED:
        raise UsageError(f"--source is missing: {recipe.source.about}")
    make(
        recipe,
        source,
        out,
        workers,
        scheduler=scheduler,
        test_groups=group_names(test_groups),
        valid_groups=group_names(valid_groups),
        partial=partial,
    )
    show_file(out, as_json)


def adapted(recipe: Recipe, name: str | None, preset: str | None, duplicates: str | None) -> Recipe:
    """The recipe with what the command line says otherwise."""
    changes: dict[str, Any] = {}
    if name is not None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
            raise UsageError(
                f"--name {name!r}: use small letters, digits and . _ - only, beginning with one of the"
                " first two"
            )
        changes["name"] = name
    if preset is not None:
        if recipe.cochlea is None:
            raise UsageError(f"--preset {preset}: {recipe.name} does not go through the cochlea")
        changes["cochlea"] = recipe.cochlea.model_copy(update={"preset": preset})
    if duplicates is not None:
        changes["split"] = recipe.split.model_copy(update={"duplicates": duplicates})
    return recipe.model_copy(update=changes)


def download(
    recipe: Recipe, mirrors: tuple[str, ...], *, offline: bool, keep_archives: bool
) -> Path:
    """The folder with the recipe's source files, downloaded where they are not there yet."""
    from snnbench.cli.show import size_text
    from snnbench.data_prep.download import fetch
    from snnbench.paths import data_dir

    folder = data_dir() / "sources" / recipe.name
    seen: set[str] = set()
    with progress_bar(recipe.name, "B", scale=True) as update:

        def report(p: DownloadProgress) -> None:
            if p.url not in seen:
                seen.add(p.url)
                note(f"{p.url}: {size_text(p.total_bytes) or 'size not said'}")
            update(p.done_bytes, p.total_bytes, stage=p.file)

        return fetch(
            recipe,
            folder,
            mirrors=mirrors,
            offline=offline,
            keep_archives=keep_archives,
            progress=report,
        )


def make(
    recipe: Recipe,
    source: Path | None,
    out: Path,
    workers: int | None,
    *,
    scheduler: str,
    **choices: Any,
) -> None:
    """Write the file `out` from the source files, or from nothing where the data are made here.

    `choices` are the held-out groups and `partial`, as in `convert.convert`.
    """
    from snnbench.data_prep.only_writer import only_writer

    if recipe.source.kind == "published-spikes":
        from snnbench.data_prep.published import import_published

        assert source is not None
        with only_writer(out), progress_bar("reading", "sample") as update:
            import_published(recipe, source, out, progress=update, **choices)
    elif source is None and recipe.source.kind == "espeak-digits":
        make_synthetic(recipe, out, workers, scheduler=scheduler, **choices)
    else:
        convert_with_progress(recipe, source, out, workers, scheduler=scheduler, **choices)


def make_synthetic(recipe: Recipe, out: Path, workers: int | None, **choices: Any) -> Summary:
    """Speak the synthetic digits and convert them; `choices` as in `convert.convert`."""
    import shutil

    from snnbench.data_prep.only_writer import only_writer
    from snnbench.data_prep.speech import synthesise
    from snnbench.paths import data_dir

    source = data_dir() / "sources" / recipe.name
    with only_writer(source):
        # seconds of work: rather spoken anew than trusted as an earlier attempt left it
        shutil.rmtree(source, ignore_errors=True)
        with progress_bar("speaking", "word") as update:
            synthesise(source, progress=update)
        return convert_with_progress(recipe, source, out, workers, **choices)


def convert_with_progress(
    recipe: Recipe, source: Path | None, out: Path, workers: int | None, **choices: Any
) -> Summary:
    """Convert with a progress bar, and say what it cost; `choices` as in `convert.convert`."""
    import time

    from snnbench.data_prep.convert import convert as convert_folder
    from snnbench.data_prep.shards import default_workers

    begun = time.monotonic()
    with progress_bar("hashing", "file") as update:
        started = begun

        def report(p: Progress) -> None:
            nonlocal started
            if p.done == p.resumed:  # an earlier attempt's work says nothing of the speed
                started = time.monotonic()
            speed = (p.audio_s - p.resumed_audio_s) / max(time.monotonic() - started, 1e-9)
            figures = {"sound": f"{speed:.1f} s/s"} if p.audio_s else {}
            update(p.done, p.total, stage="converting", resumed=p.resumed, **figures)

        summary = convert_folder(
            recipe,
            source,
            out,
            workers=workers or default_workers(),
            progress=report,
            hashing=update,
            tell=lambda text: note(f"{recipe.name}: {text}"),
            **choices,
        )
    note(cost(summary, time.monotonic() - begun))
    return summary


def cost(summary: Summary, seconds: float) -> str:
    """What a conversion took, in a line."""
    sound = cpu = ""
    if summary.audio_s:
        sound = f", {summary.audio_s:.1f} s of sound"
        cpu = f" {summary.cpu_s / summary.audio_s:.3f} CPU s per second of sound,"
    return (
        f"{summary.samples} recordings{sound}: {seconds:.1f} s,{cpu}"
        f" {summary.spikes / summary.samples:.0f} spikes per recording,"
        f" at most {summary.peak_worker_bytes / 2**20:.0f} MiB in a worker"
    )


def group_names(text: str | None) -> tuple[str, ...]:
    """Names that a comma parts, as `--test-groups` has them."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()
