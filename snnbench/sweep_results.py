"""What came of a study: its trials as a table, and which values mattered."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path
from typing import Any

from snnbench.errors import UsageError
from snnbench.paths import whole_file, write_text
from snnbench.study_store import Study, loaded_study

FORMATS = (".csv", ".parquet")


def trial_rows(study: Study) -> list[dict[str, Any]]:
    """A row for each trial, by number; a column for each searched key, None where it was not asked."""
    keys = searched_keys(study)
    rows = []
    for trial in sorted(study.trials, key=lambda t: t.number):
        facts = trial._asdict()
        params = facts.pop("params")
        row = {**facts, "on_front": trial.number in study.front} | {k: params.get(k) for k in keys}
        rows.append(row)
    return rows


def searched_keys(study: Study) -> list[str]:
    """Keys that some trial has a value of."""
    return list(dict.fromkeys(key for trial in study.trials for key in trial.params))


def write_table(study: Study, path: Path) -> int:
    """Write `trial_rows` as CSV or Parquet, by the file's ending; returns the number of rows.

    Raises
    ------
    UsageError
        Another ending.
    """
    rows = trial_rows(study)
    columns = list(rows[0]) if rows else ["number", "state", "accuracy"]
    suffix = path.suffix.lower()
    if suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())
    elif suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as parquet

        table = pa.table({name: _column([row[name] for row in rows]) for name in columns})
        with whole_file(path) as temporary:
            parquet.write_table(table, temporary)
    else:
        raise UsageError(f"{path}: a table ends in {' or '.join(FORMATS)}, found {suffix!r}")
    return len(rows)


def _column(values: list[Any]) -> Any:
    """Values as a column has them, of one kind: choices of several kinds as text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and not kinds <= {int, float}:
        return [None if value is None else str(value) for value in values]
    return values


def importances(folder: Path, name: str, storage: str | None = None) -> dict[str, float]:
    """How much each key decides about validation accuracy, largest first, 1 in all.

    PED-ANOVA over complete trials (Watanabe et al. 2023, PED-ANOVA: Efficiently Quantifying Hyperparameter
    Importance in Arbitrary Subspaces), with Optuna's extension to keys that only some of them were asked.
    Empty where there are too few trials to tell, or all are alike.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    with loaded_study(folder, name, storage) as study:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len({trial.values[0] for trial in complete}) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that small values are good ones, as they are here
            found = get_param_importances(
                study, evaluator=PedAnovaImportanceEvaluator(), target=lambda t: -t.values[0]
            )
    return {key: float(share) for key, share in found.items()}
