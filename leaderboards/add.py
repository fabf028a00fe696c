"""From run folders to an entry: copied, verified, and on the board whole or not at all.

Runs of an entry that is there already can complete it by what may come later: their robustness.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from snnbench.errors import SnnbenchError, UsageError, unknown_name
from snnbench.leaderboards.commands import training_commands
from snnbench.leaderboards.copies import copied_entry
from snnbench.leaderboards.entries import (
    COVER,
    MANIFEST,
    Tasks,
    comes_later,
    entry_files,
    entry_folders,
    entry_toml,
    manifest_of,
    manifest_text,
)
from snnbench.leaderboards.verify import Verified, missing_seeds, verify_entry
from snnbench.paths import write_bytes, write_text
from snnbench.record import Entry, RunRecord, read_record
from snnbench.robustness import ROBUSTNESS_FILE, robustness_of_run
from snnbench.spec_base import validated

RECORD, PREDICTIONS = "record.json", "predictions.npz"


class Added(NamedTuple):
    """The entry as it stands on the board now, and whether it stood there already."""

    verified: Verified
    was_there: bool
    completed: tuple[str, ...] = ()
    """Files of it that it lacked when it stood there already."""
    unfinished: tuple[Path, ...] = ()
    """Robustness files of the runs that are begun, and left out."""


def add_entry(
    runs: Sequence[Path],
    root: Path,
    tasks: Tasks,
    *,
    cover: dict[str, Any],
    provisional: bool = False,
) -> Added:
    """Make an entry of finished or diverged runs and put it into the board `root`.

    Parameters
    ----------
    runs
        Run folders with record.json and, unless diverged, predictions.npz: one per seed.
    cover
        Keys of `Entry`; name, task, model and authors may be left out.
    provisional
        Accept runs made from a checkout with uncommitted changes, and seeds with gaps; the entry says so
        and gets no rank.

    Raises
    ------
    SnnbenchError
        Naming every run and reason why these runs make no entry, an entry of this name that is there with
        other content, or one of another name that has any of these runs.

    Notes
    -----
    A run's robustness goes with it where it is complete. Added again with more of it, an entry is replaced
    by one that has all its files and these.
    """
    records = _records_by_seed(runs)
    _refuse_dirty(records, provisional)
    _refuse_gaps(records, provisional)
    entry = _cover_sheet(next(iter(records.values())), cover, provisional)
    # the name becomes a folder, so it must not come from a record alone
    if entry.task not in (known := {name for name, _ in tasks}):
        raise unknown_name("task", entry.task, known)
    final = root / entry.task / entry.name
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", dir=final.parent))
    except OSError as error:
        raise SnnbenchError(f"{final}: cannot write: {error.strerror}") from error
    try:
        # the folders are named as they will be, so that verification finds what it expects
        draft = workshop / entry.task / entry.name
        audits = {run: audit for run in records if (audit := robustness_of_run(run))}
        unfinished = [run / ROBUSTNESS_FILE for run, audit in audits.items() if not audit.complete]
        sources = _fill(draft, entry, records, without=unfinished)
        verified = verify_entry(draft, tasks)
        if not verified.ok:
            told = [f"{sources.get(p.file, p.file)}: {p.what}" for p in verified.problems]
            raise SnnbenchError("\n".join(["these runs make no entry:", *_replaced(told, sources)]))
        _refuse_copies(verified, final, root, tasks)
        was_there = _move(draft, final)
        completed = _complete(draft, final) if was_there else ()
        if was_there and not (verified := verify_entry(draft if completed else final, tasks)).ok:
            raise SnnbenchError(
                f"{final}: is there already and does not verify: {verified.problems[0]}"
            )
        if completed:
            _replace(final, draft, aside=workshop / "replaced")
        verified = dataclasses.replace(verified, folder=final)
        return Added(verified, was_there, completed, tuple(unfinished))
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _records_by_seed(runs: Sequence[Path]) -> dict[Path, RunRecord]:
    """Run folder to record, in the order of the seeds."""
    records = {run: read_record(run / RECORD) for run in runs}
    if not records:
        raise UsageError("name at least one run folder")
    by_seed: dict[int, Path] = {}
    for run, record in records.items():
        if other := by_seed.get(record.spec.seed):
            raise SnnbenchError(
                f"{run}: has seed {record.spec.seed}, like {other}; seeds must differ"
            )
        by_seed[record.spec.seed] = run
    return {by_seed[seed]: records[by_seed[seed]] for seed in sorted(by_seed)}


def _refuse_dirty(records: dict[Path, RunRecord], provisional: bool) -> None:
    dirty = [run for run, record in records.items() if record.environment.dirty]
    if dirty and not provisional:
        raise SnnbenchError(
            f"{', '.join(map(str, dirty))}: made from a checkout with uncommitted changes; commit and"
            " run again, or add them with --provisional: shown, never ranked"
        )


def _refuse_gaps(records: dict[Path, RunRecord], provisional: bool) -> None:
    """Seeds are 0 to n-1, so that nobody chooses the lucky ones."""
    seeds = [record.spec.seed for record in records.values()]
    missing = missing_seeds(seeds)
    if not missing or provisional:
        return
    spec = next(iter(records.values())).spec
    commands = training_commands(spec, missing).splitlines() or [
        f"snnbench train {spec.task.name} {spec.model.name}.toml --seed {seed}" for seed in missing
    ]
    told = [
        f"seeds {_listed(seeds)} without {_listed(missing)}: a row has all seeds from 0 on, so that nobody"
        " chooses them; train what is missing and add it, too, or add these with --provisional: shown,"
        " never ranked"
    ]
    raise SnnbenchError("\n".join([*told, *(f"  {command}" for command in commands)]))


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _refuse_copies(verified: Verified, final: Path, root: Path, tasks: Tasks) -> None:
    """A run stands on a board once, whatever its entry or its model is called there."""
    for folder in entry_folders(root):
        if folder.parent.name != final.parent.name or folder == final:
            continue
        if shared := copied_entry(verified.traces, verify_entry(folder, tasks).traces):
            raise SnnbenchError(
                f"{final}: {shared}, is on this board already, as {folder}; a run stands on a board once, so"
                " remove that folder first if this entry is to take its place"
            )


def _cover_sheet(record: RunRecord, cover: dict[str, Any], provisional: bool) -> Entry:
    spec = record.spec
    filled = {
        "name": spec.model.name,
        "task": spec.task.name,
        "model": spec.model.name,
        "authors": ["anonymous"],
        **cover,
        "provisional": provisional or cover.get("provisional", False),
    }
    return validated(Entry, filled, "entry")


def _fill(
    draft: Path, entry: Entry, records: dict[Path, RunRecord], *, without: Sequence[Path]
) -> dict[str, str]:
    """Write the entry's files, copies of those of the runs; returns where each came from."""
    sources: dict[str, str] = {}
    for run, record in records.items():
        seed = record.spec.seed
        copies = {
            RECORD: f"runs/seed-{seed}.json",
            PREDICTIONS: f"predictions/seed-{seed}.npz",
            ROBUSTNESS_FILE: f"robustness/seed-{seed}.json",
        }
        for name, file in copies.items():
            sources[file] = str(run / name)
            if name == RECORD or ((run / name).exists() and run / name not in without):
                write_bytes(draft / file, (run / name).read_bytes())
    write_text(draft / COVER, entry_toml(entry))
    write_text(draft / MANIFEST, manifest_text(manifest_of(draft)))
    return sources


def _replaced(lines: list[str], sources: dict[str, str]) -> list[str]:
    """Lines in which the entry's file names have become those of the runs."""
    for file, source in sources.items():
        lines = [line.replace(f" {file}", f" {source}") for line in lines]
    return lines


def _move(draft: Path, final: Path) -> bool:
    """Put the draft in its place; True where the same entry stood there already.

    The one may have what the other lacks of what comes later.
    """
    if not final.exists():
        try:
            os.rename(draft, final)
            return False
        except OSError as error:
            if not final.exists():
                raise SnnbenchError(f"{final}: cannot write: {error.strerror}") from error
    ours, theirs = manifest_of(draft), manifest_of(final)
    differing = [
        file
        for file in sorted(ours.keys() | theirs.keys())
        if ours.get(file) != theirs.get(file)
        and not (comes_later(file) and (file not in ours or file not in theirs))
    ]
    if differing:
        raise SnnbenchError(
            f"{final}: an entry of this name is there with other content ({', '.join(differing[:3])}"
            f"{', ...' if len(differing) > 3 else ''}); give this one another --name, or remove that"
            " folder first"
        )
    return True


def _complete(draft: Path, final: Path) -> tuple[str, ...]:
    """Give the draft what it lacks of the entry that is there; returns what that one lacks."""
    ours, theirs = manifest_of(draft), manifest_of(final)
    for file in entry_files(final):  # reruns by others, too, which no manifest of the entry lists
        if not (draft / file).exists():
            write_bytes(draft / file, (final / file).read_bytes())
    write_text(draft / MANIFEST, manifest_text(manifest_of(draft)))
    return tuple(sorted(ours.keys() - theirs.keys()))


def _replace(final: Path, draft: Path, *, aside: Path) -> None:
    """The draft in the place of what is there, which comes back if that fails."""
    try:
        os.rename(final, aside)
        try:
            os.rename(draft, final)
        except BaseException:
            os.rename(aside, final)
            raise
    except OSError as error:
        raise SnnbenchError(f"{final}: cannot write: {error.strerror}") from error


def read_cover(path: Path) -> dict[str, Any]:
    """A user's entry.toml, in which name, task, model and authors may be left out."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such entry file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SnnbenchError(f"{path}: cannot be read: {error}") from None
