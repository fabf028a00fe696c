"""`snnbench data split`: other speakers held out, without a conversion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from snnbench.cli.common import answer, json_option, note, progress_bar, table
from snnbench.cli.show import describe, show_file
from snnbench.errors import SnnbenchError, UsageError

if TYPE_CHECKING:
    from snnbench.data_prep.resplit import HeldOut
    from snnbench.data_prep.store import SpikeDataset


@click.command("split")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--test-groups", help="Speakers to test on, for example 10,11.")
@click.option("--valid-groups", help="Speakers to choose the epoch on, for example 08,09.")
@click.option(
    "--folds",
    type=int,
    metavar="N",
    help="Instead of groups: N files, so that every speaker is tested on once.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="File to write; with --folds a folder.",
)
@click.option("--force", is_flag=True, help="Replace what is there.")
@json_option
def split(
    file: Path,
    test_groups: str | None,
    valid_groups: str | None,
    folds: int | None,
    out: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Write the spikes of FILE with other speakers held out.

    The new file is what `data convert` with these groups makes, in seconds. With --folds the sorted
    speakers are dealt into N sets: fold k (OUT/fold-k.h5) tests on set k, validates on the next one and
    trains on the others. Called again, it takes folds that are there as they are.

    \b
    Example: snnbench data split hd.h5 --folds 5 --out folds
    """
    from snnbench.cli.convert import group_names
    from snnbench.data_prep.resplit import HeldOut, deal_folds
    from snnbench.data_prep.store import SpikeDataset

    held_out = HeldOut(group_names(test_groups), group_names(valid_groups))
    if folds is not None and any(held_out):
        raise UsageError("--folds deals the groups; drop --test-groups and --valid-groups")
    if folds is None and not all(held_out):
        raise UsageError(
            "name groups with both --test-groups and --valid-groups, or take --folds N"
        )
    with SpikeDataset.open(file) as dataset:
        if folds is None:
            make_split(dataset, held_out, out, force=force)
            show_file(out, as_json)
        else:
            dealt = deal_folds(dataset.header.groups, folds)
            paths = make_folds(dataset, dealt, out, force=force)
            show_folds(dealt, paths, as_json)


def make_split(dataset: SpikeDataset, held_out: HeldOut, out: Path, *, force: bool) -> None:
    """Write one file with these groups held out."""
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file, for example {out / 'split.h5'}")
    if out.exists() and out.samefile(dataset.path):
        raise UsageError(f"--out {out}: is the file that is read; name another one")
    if out.exists() and not force:
        raise SnnbenchError(f"{out}: exists already; --force replaces it")
    write(dataset, {out: held_out})


def make_folds(
    dataset: SpikeDataset, folds: Sequence[HeldOut], folder: Path, *, force: bool
) -> list[Path]:
    """Write the files of all folds that are not there yet; returns the paths of all."""
    from snnbench.data_prep.resplit import is_split_of

    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder}: is a file; --folds writes a folder of files")
    paths = [folder / f"fold-{k}.h5" for k in range(len(folds))]
    missing = {}
    for path, fold in zip(paths, folds, strict=True):
        if path.exists() and path.samefile(dataset.path):
            raise UsageError(f"{path}: is the file that is read; name another folder")
        if force or not path.exists():
            missing[path] = fold
        elif is_split_of(dataset, fold, path):
            note(f"{path} is there already")
        else:
            raise SnnbenchError(
                f"{path}: exists already, and is not this fold of {dataset.path}; --force replaces it"
            )
    if missing:
        write(dataset, missing)
    return paths


def write(dataset: SpikeDataset, files: Mapping[Path, HeldOut]) -> None:
    """Write files with these groups held out, after the data have been found whole."""
    from snnbench.data_prep.resplit import refuse_impossible, resplit

    for held_out in files.values():
        refuse_impossible(dataset, held_out)
    with progress_bar("checking", "spike", scale=True) as update:
        # a file that is written has a fingerprint of its own: what is wrong here would be right there
        dataset.check(update)
        for path, held_out in files.items():
            resplit(dataset, path, held_out, progress=partial(update, stage=f"writing {path.name}"))


def show_folds(folds: Sequence[HeldOut], paths: Sequence[Path], as_json: bool) -> None:
    """Groups and numbers of samples of every fold."""
    from snnbench.data_prep.store import SpikeDataset

    facts, rows = [], []
    for path, fold in zip(paths, folds, strict=True):
        with SpikeDataset.open(path) as dataset:
            facts.append(describe(dataset))
        counts = [facts[-1]["splits"][name]["samples"] for name in ("train", "valid", "test")]
        rows.append([str(path), *counts, " ".join(fold.valid), " ".join(fold.test)])
    columns = ["file", "train", "valid", "test", "validates on", "tests on"]
    answer(as_json, facts, table(None, columns, rows))
