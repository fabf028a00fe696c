"""`snnbench audit`: what choosing the epoch on the test split would have given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from snnbench.cli.common import answer, json_option, note, progress_bar, table
from snnbench.cli.run import data_option, device_option
from snnbench.errors import SnnbenchError

if TYPE_CHECKING:
    from snnbench.train import EpochReport


@click.command("audit")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@data_option
@device_option
@json_option
def audit_command(runs: tuple[Path, ...], data: Path | None, device: str, as_json: bool) -> None:
    """Tell how much better RUNS would look, had the epoch been chosen on the test split.

    Each run is trained again with the test split in the place of the validation split (class X of
    docs/protocol.md). The answer stands beside the honest number, in audit.json, and is never ranked. What is
    audited already is taken as it is; a stopped audit goes on when called again.

    \b
    Example: snnbench audit results/runs/hd-rec-lif-128-seed* --data hd.h5
    """
    from snnbench.audit import audit_run
    from snnbench.bench import finished_record
    from snnbench.data_prep.store import SpikeDataset
    from snnbench.metrics import summarise
    from snnbench.paths import dataset_path
    from snnbench.seeding import resolve_device

    audits = []
    for run in runs:
        record = finished_record(run)
        if record is None:
            raise SnnbenchError(f"{run}: not a finished run folder, there is no record.json in it")
        epochs = record.spec.train.epochs
        with (
            SpikeDataset.open(data or dataset_path(record.spec.task.dataset)) as dataset,
            progress_bar(f"{run.name}", "epoch") as update,
        ):

            def on_epoch(report: EpochReport, total: int = epochs) -> None:
                picked = f"{report.valid.accuracy:.3f}" if report.valid else ""
                update(report.epoch, total, test=picked)

            audits.append(audit_run(run, dataset, resolve_device(device), on_epoch))
        if not audits[-1].same_training:
            note(
                f"{run}: trained again it has another test accuracy after epoch"
                f" {audits[-1].honest_epoch} than the record's; on another machine or engine that happens,"
                " and then the two numbers are of two trainings"
            )
    gaps = summarise([audit.gap for audit in audits])
    facts = {
        "runs": [
            {"run": str(r), **a.model_dump(), "gap": a.gap}
            for r, a in zip(runs, audits, strict=True)
        ],
        "gap": {"mean": gaps.mean, "sd": None if gaps.sd != gaps.sd else gaps.sd},
    }
    rows = [
        [
            run.name,
            f"{a.honest.accuracy:.2%}",
            a.honest_epoch,
            f"{a.picked.accuracy:.2%}",
            a.picked_epoch,
            f"{100 * a.gap:+.2f}",
        ]
        for run, a in zip(runs, audits, strict=True)
    ]
    columns = ["run", "honest", "epoch", "picked on test", "epoch", "points"]
    from rich.console import Group

    spread = "" if gaps.sd != gaps.sd else f" ± {100 * gaps.sd:.2f}"
    tail = f"choosing on the test split adds {100 * gaps.mean:.2f}{spread} points; class X is never ranked"
    answer(as_json, facts, Group(table(None, columns, rows), tail))
