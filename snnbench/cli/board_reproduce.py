"""`snnbench board reproduce`: train a seed of an entry again, compare, and say so on the board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snnbench.cli.common import answer, json_option, note, progress_bar
from snnbench.cli.run import data_option, device_option
from snnbench.errors import SnnbenchError

if TYPE_CHECKING:
    from snnbench.leaderboards.verify import Verified
    from snnbench.train import EpochReport


@click.command("reproduce")
@click.argument("entry")
@click.option(
    "--seed", type=click.IntRange(0), help="Which seed to train again; default: the entry's first."
)
@click.option("--by", metavar="NAME", default="anonymous", help="Who you are, for the statement.")
@data_option
@device_option
@click.option(
    "--board",
    type=click.Path(path_type=Path),
    help="Folder of entries. Default: the shipped ones and your own in SNNBENCH_HOME/board.",
)
@click.option("--compare-only", is_flag=True, help="Write no statement into the entry.")
@click.option("--overwrite", is_flag=True, help="Throw away an earlier rerun, train anew.")
@json_option
def reproduce(
    entry: str,
    seed: int | None,
    by: str,
    data: Path | None,
    device: str,
    board: Path | None,
    compare_only: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Train one seed of ENTRY again, from its specification alone, and compare.

    ENTRY is TASK/NAME or an entry's folder. If the rerun agrees (docs/protocol.md says how far it may
    differ), a statement with its record and predictions is put into the entry, in reproduced/, and the
    row's status becomes reproduced. If it does not, nothing is written and the exit code is 1. A rerun that
    was stopped goes on when called again.

    \b
    Example: snnbench board reproduce digits-synthetic/ff-lif --by "A. Turing"
    """
    from snnbench.data_prep.store import SpikeDataset
    from snnbench.leaderboards.entries import shipped_tasks
    from snnbench.paths import dataset_path
    from snnbench.rerun import add_statement, find_entry, rerun_seed
    from snnbench.seeding import resolve_device

    origin, verified = find_entry(entry, board, shipped_tasks())
    if not compare_only:
        refuse_what_proves_nothing(origin, verified)
    chosen = verified.records[0].spec.seed if seed is None else seed
    spec = verified.records[0].spec
    total = spec.train.epochs
    with (
        SpikeDataset.open(data or dataset_path(spec.task.dataset)) as dataset,
        progress_bar(f"{verified.label} seed {chosen}", "epoch") as update,
    ):

        def on_epoch(report: EpochReport) -> None:
            figures = {"validation": f"{report.valid.accuracy:.3f}"} if report.valid else {}
            update(report.epoch, total, **figures)

        rerun = rerun_seed(
            verified,
            chosen,
            dataset,
            by=by,
            device=resolve_device(device),
            afresh=overwrite,
            on_epoch=on_epoch,
        )
    found = rerun.comparison
    dirty = bool(rerun.record.environment.dirty)
    statement = (
        add_statement(verified, rerun) if found.agrees and not (compare_only or dirty) else None
    )
    if dirty and not compare_only:
        note(
            f"{rerun.folder}: was trained by code with uncommitted changes, so no statement is written;"
            " --overwrite trains anew"
        )
    verdict = "reproduced" if found.agrees else "NOT reproduced"
    facts: dict[str, Any] = {
        "entry": verified.label,
        "seed": chosen,
        "agrees": found.agrees,
        "identical": found.identical,
        "stored": found.stored.model_dump() if found.stored else None,
        "found": found.found.model_dump() if found.found else None,
        "different_predictions": found.n_different,
        "tolerance": found.tolerance,
        "run": str(rerun.folder),
        "statement": str(statement) if statement else None,
    }
    lines = [f"{verified.label} {verdict}, seed {chosen}: {found.result}", str(statement or "")]
    answer(as_json, facts, "\n".join(filter(None, lines)))
    if not found.agrees:
        raise SnnbenchError(
            f"{verified.label}: seed {chosen} did not come out again; the rerun is in {rerun.folder}, and the"
            " entry is left as it was"
        )


def refuse_what_proves_nothing(origin: str, verified: Verified) -> None:
    """Before any training: a statement by code that nobody else can have, or for a board in site-packages."""
    from snnbench.environment import git_state

    commit, dirty = git_state(Path(__file__).resolve().parents[1])
    if dirty:
        raise SnnbenchError(
            "the checkout has uncommitted changes, so that a statement would prove nothing; commit them, or"
            " compare with --compare-only"
        )
    if origin == "shipped" and commit is None:
        raise SnnbenchError(
            f"{verified.folder}: is part of an installed package, where a statement would be lost with the"
            " next update; compare with --compare-only, or name a board of your own with --board"
        )
