"""One seed of a leaderboard entry, trained again: the run its record specifies, and a statement of it.

Nothing is taken from the entry but the specification, and training happens in a folder that no other
command writes to, so that a run which is there already can not pass for its own repetition.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from snnbench.bench import PREDICTIONS_FILE, check_data, engine_of, finished_record, run_seed
from snnbench.errors import SnnbenchError, UsageError
from snnbench.leaderboards.entries import (
    MANIFEST,
    REPRODUCED,
    Tasks,
    board_roots,
    entry_folders,
    manifest_of,
    manifest_text,
)
from snnbench.leaderboards.reproduction import Comparison, Statement, compare, write_statement
from snnbench.leaderboards.verify import Verified, verify_entry
from snnbench.paths import home_dir, write_bytes, write_text
from snnbench.record import RunRecord, read_predictions, sha256_of

if TYPE_CHECKING:
    import torch

    from snnbench.data_prep.store import SpikeDataset
    from snnbench.train import EpochReport


class Rerun(NamedTuple):
    """What came out, and where it lies."""

    comparison: Comparison
    record: RunRecord
    folder: Path
    """The run folder, with weights and pictures."""
    statement: Statement


def find_entry(name: str, board: Path | None, tasks: Tasks) -> tuple[str, Verified]:
    """An entry by TASK/NAME or by its folder, verified: where it comes from, and what it is.

    Raises
    ------
    UsageError
        There is no such entry, or it is on two boards.
    SnnbenchError
        It does not verify, so that there is nothing to repeat.
    """
    folder = Path(name)
    if (folder / MANIFEST).exists():
        found = [("folder", folder.resolve())]
    else:
        there = [(root.origin, f) for root in board_roots(board) for f in entry_folders(root.path)]
        found = [(o, f) for o, f in there if f"{f.parent.name}/{f.name}" == name]
        if not found:
            names = sorted(f"{f.parent.name}/{f.name}" for _, f in there)
            raise UsageError(
                f"{name}: no such entry; there are {', '.join(names) or 'none'},"
                " and a folder of an entry may be named, too"
            )
        if len(found) > 1:
            raise UsageError(
                f"{name}: is on {len(found)} boards; name the folder: {' or '.join(str(f) for _, f in found)}"
            )
    [(origin, folder)] = found
    verified = verify_entry(folder, tasks)
    if not verified.ok:
        raise SnnbenchError(f"{folder}/{verified.problems[0]}; what does not verify is not trained")
    return origin, verified


def rerun_folder(record: RunRecord) -> Path:
    """Where a record's run is trained again."""
    return home_dir() / "reproductions" / record.run_id


def rerun_seed(
    verified: Verified,
    seed: int,
    dataset: SpikeDataset,
    *,
    by: str,
    device: torch.device,
    afresh: bool = False,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Rerun:
    """Train one seed of an entry again and compare it; a rerun that was stopped is continued.

    Parameters
    ----------
    verified : the entry.
    dataset : open data file; has to have the fingerprint of the entry's.
    by : who is asking, for the statement.
    device : where to compute; on the CPU with the entry's engine, where that runs here.
    afresh : throw away what an earlier call has left.

    Raises
    ------
    UsageError
        The entry has no such seed.
    SnnbenchError
        Other data.
    """
    from snnbench.tracking import NullTracker

    records = {record.spec.seed: record for record in verified.records}
    if seed not in records:
        told = ", ".join(map(str, records))
        raise UsageError(f"{verified.label}: has no seed {seed}; its seeds are {told}")
    record = records[seed]
    check_data(dataset, record.spec.task)
    dataset.require(record.data.fingerprint)
    folder = rerun_folder(record)
    if afresh:
        shutil.rmtree(folder, ignore_errors=True)
    rerun = finished_record(folder) or run_seed(
        record.spec,
        dataset,
        folder=folder,
        device=device,
        tracker=NullTracker(),
        on_epoch=on_epoch,
        resume=True,
        tuning_trials=record.tuning_trials,
        engine=engine_of(record, device),
    )
    statement = Statement(
        by=by,
        record_sha256=sha256_of((verified.folder / f"runs/seed-{seed}.json").read_bytes()),
        rerun=rerun,
    )
    stored, found = (
        read_predictions(path) if r.test else None
        for path, r in (
            (verified.folder / f"predictions/seed-{seed}.npz", record),
            (folder / PREDICTIONS_FILE, rerun),
        )
    )
    return Rerun(compare(verified.records, stored, statement, found), rerun, folder, statement)


def add_statement(verified: Verified, rerun: Rerun) -> Path:
    """Put a statement beside the entry's runs; returns its file.

    The manifest comes last: killed before, the same call again completes it.
    """
    reproduced = verified.folder / REPRODUCED
    seed = rerun.comparison.seed
    path = reproduced / f"seed-{seed}.json"
    if rerun.record.test:
        proof = (rerun.folder / PREDICTIONS_FILE).read_bytes()
        write_bytes(path.with_suffix(".npz"), proof)
    write_statement(path, rerun.statement)
    write_text(reproduced / MANIFEST, manifest_text(manifest_of(reproduced)))
    return path
