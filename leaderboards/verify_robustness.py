"""Whether counts on changed samples fit the run that they are told of.

They cannot be counted again without the data and the weights, unlike the test result. What they can be
held to is the record beside them: the same run, weights, data and classes, clean counts no further from
the test result than the file itself says that predictions differ, and the record's speakers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from snnbench.corruption_spec import CORRUPTIONS
from snnbench.data_prep.sources import NO_GROUPS
from snnbench.metrics import Counts
from snnbench.record import RunRecord
from snnbench.robustness import Robustness, count_by_acquaintance


def check_robustness(audit: Robustness, record: RunRecord) -> Iterator[str]:
    """Everything that does not fit, in words; nothing where all does."""
    expected: dict[str, tuple[Any, Any]] = {
        "run_id": (audit.run_id, record.run_id),
        "checkpoint_sha256": (audit.checkpoint_sha256, record.checkpoint_sha256),
        "data_fingerprint": (audit.data_fingerprint, record.data.fingerprint),
        "n_classes": (audit.n_classes, record.spec.task.n_classes),
    }
    for key, (found, right) in expected.items():
        if found != right:
            yield f"{key} is {found!r}, that of the record is {right!r}"
    if missing := CORRUPTIONS.keys() - audit.points.keys():
        yield f"is not complete: {', '.join(sorted(missing))} not tested"
    if record.test is None:
        yield "belongs to a diverged run, whose test is never read"
        return
    speakers = count_by_acquaintance(record, record.test_by_group, NO_GROUPS)
    for kind in sorted(speakers.keys() | audit.speakers.keys()):
        told, right = audit.speakers.get(kind), speakers.get(kind)
        yield from _check_clean(f"speakers.{kind}", told, right, audit.different_predictions)
    yield from _check_clean("clean", audit.clean, record.test, audit.different_predictions)
    if audit.speakers and sum(c.correct for c in audit.speakers.values()) != audit.clean.correct:
        yield f"speakers.correct are not {audit.clean.correct} together, as clean.correct is"
    if audit.different_predictions > audit.clean.total:
        yield f"different_predictions is {audit.different_predictions} of {audit.clean.total}"


def _check_clean(
    key: str, told: Counts | None, right: Counts | None, different: int
) -> Iterator[str]:
    """Clean counts beside the record's of the same samples."""
    if told is None or right is None or told.total != right.total:
        totals = [counts.total if counts else "nothing" for counts in (told, right)]
        yield f"{key}.total is {totals[0]}, the record's test has {totals[1]}"
    elif told.correct > told.total or abs(told.correct - right.correct) > different:
        yield (
            f"{key}.correct is {told.correct} of {told.total}, the record has {right.correct}, and"
            f" different_predictions is {different}"
        )
