"""Class X: how much better a run looks if its epoch is chosen on the test split. For audit, never ranked.

The honest run's training is done again, with the test split in the place of the validation split. Validation
data have no influence on weights, so every epoch is that of the honest run, and the accuracy after the honest
run's epoch has to be the recorded one: that is checked.

The audit stands in the run's folder, in audit.json, beside the record and in no leaderboard.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from snnbench.bench import engine_of, finished_record
from snnbench.errors import SnnbenchError
from snnbench.metrics import Counts
from snnbench.paths import write_text
from snnbench.protocol import picked_on_test
from snnbench.record import RunRecord, sealed, sealed_json

if TYPE_CHECKING:
    import torch

    from snnbench.data_prep.store import SpikeDataset
    from snnbench.train import EpochReport

AUDIT_FILE = "audit.json"
FOLDER = "audit"
"""In the run's folder: what training keeps of its repetition."""


class Audit(BaseModel):
    """The honest number and the other one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: str = "snnbench-audit/1"
    run_id: str
    checkpoint_sha256: str
    honest: Counts
    """The record's."""
    honest_epoch: int
    picked: Counts
    """Of the epoch with the best test accuracy, the earlier one at a tie."""
    picked_epoch: int
    test: tuple[Counts, ...]
    """After each epoch."""
    same_training: bool
    """Whether the accuracy after the honest run's epoch is the recorded one."""

    @property
    def gap(self) -> float:
        """What choosing on the test split adds to the accuracy, 0 to 1."""
        return self.picked.accuracy - self.honest.accuracy


def audit_run(
    folder: Path,
    dataset: SpikeDataset,
    device: torch.device,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Audit:
    """Train a finished run again and look at the test split after every epoch.

    An audit that is there is taken as it is; one that was stopped goes on.

    Raises
    ------
    SnnbenchError
        No finished run of class A there, other data, or an audit of another run.
    """
    record = finished_record(folder)
    if record is None or record.test is None or record.chosen_epoch is None:
        raise SnnbenchError(f"{folder}: holds no finished run; only such a one can be audited")
    if record.protocol != "A":
        raise SnnbenchError(
            f"{folder}: is a run of class {record.protocol}, which chooses no epoch; audit class A"
        )
    if found := read_audit(folder / AUDIT_FILE, record):
        return found
    dataset.require(record.data.fingerprint)
    from snnbench.train import fit

    again = partial(
        fit,
        record.spec,
        device=device,
        on_epoch=on_epoch,
        resume=True,
        engine=engine_of(record, device),
    )
    result = picked_on_test(dataset, folder / FOLDER, again)
    test = tuple(report.valid for report in result.history if report.valid is not None)
    if result.chosen_epoch is None or len(test) < record.chosen_epoch:
        raise SnnbenchError(
            f"{folder}: training it again ended after {len(test)} epochs, {result.status}"
        )
    audit = Audit(
        run_id=record.run_id,
        checkpoint_sha256=record.checkpoint_sha256 or "",
        honest=record.test,
        honest_epoch=record.chosen_epoch,
        picked=test[result.chosen_epoch - 1],
        picked_epoch=result.chosen_epoch,
        test=test,
        same_training=test[record.chosen_epoch - 1] == record.test,
    )
    write_text(
        folder / AUDIT_FILE, json.dumps(sealed(audit.model_dump(mode="json")), indent=1) + "\n"
    )
    return audit


def read_audit(path: Path, record: RunRecord) -> Audit | None:
    """The audit in a file, None where there is none; SnnbenchError where it is damaged or another run's."""
    if not path.is_file():
        return None
    try:
        audit = Audit.model_validate(sealed_json(path.read_text("utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise SnnbenchError(f"{path}: cannot be read ({why}); remove it to audit again") from None
    if (audit.run_id, audit.checkpoint_sha256) != (record.run_id, record.checkpoint_sha256):
        raise SnnbenchError(f"{path}: is of another training of this run; remove it to audit again")
    return audit
