"""Published results of others, with where each is known from: shown beside the board, never on it.

    literature/<task>.toml    one `[[result]]` each, a `LiteratureRow`

Nobody has seen their predictions and their rules differ, so they have no rank, stand in no table with
verified rows, and say how the epoch was chosen by the code that gave them.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from snnbench.errors import SnnbenchError
from snnbench.spec_base import describe_validation_error

Mark = Literal["P", "C", "L", "2"]
MARKS: dict[Mark, str] = {
    "P": "the paper's own text",
    "C": "released code, or a data or log file released with it",
    "L": "the leaderboard of the data set's authors",
    "2": "second hand: another paper or a README",
}
"""How a published result is known."""

Selection = Literal["test-picked", "random hold-out", "loso", "unknown"]
PROTOCOLS: dict[Selection, str] = {
    "test-picked": "the epoch was chosen on the test set",
    "random hold-out": "it was chosen on training samples held out at random, of speakers who also train",
    "loso": "it was chosen leaving out one training speaker after the other",
    "unknown": "how it was chosen is not known",
}
"""How a published result's epoch was chosen, by its code."""


class LiteratureRow(BaseModel):
    """A result that others published and nobody has verified here."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1)
    year: int = Field(ge=1950, le=2100)
    source: str = Field(min_length=1)
    """Address of the paper or the code, or a reference."""
    accuracy_percent: float = Field(ge=0, le=100)
    """As it was printed, as is its standard deviation."""
    sd_percent: float | None = Field(default=None, ge=0)
    seeds: int | None = Field(default=None, ge=1)
    parameters: int | None = Field(default=None, ge=1)
    spikes: float | None = Field(default=None, ge=0)
    """Per sample."""
    protocol: Selection
    mark: Mark
    note: str = ""

    @property
    def accuracy(self) -> float:
        """Fraction of correct predictions, 0 to 1."""
        return self.accuracy_percent / 100

    @property
    def accuracy_sd(self) -> float | None:
        """Standard deviation of the same."""
        return None if self.sd_percent is None else self.sd_percent / 100


class _File(BaseModel):
    """A file of literature/."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    result: tuple[LiteratureRow, ...] = Field(min_length=1)


def read_literature(path: Path) -> tuple[LiteratureRow, ...]:
    """Published results of the task that the file is named after, newest first, then by name.

    Raises
    ------
    SnnbenchError
        The file is no TOML; a key is unknown, missing or does not fit; it is of another task; or it has a
        result twice. The message names the file and the key.
    """
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SnnbenchError(f"{path}: cannot be read as TOML: {error}") from None
    try:
        file = _File.model_validate(tree)
    except ValidationError as error:
        raise SnnbenchError(describe_validation_error(_File, error, str(path))) from None
    if file.task != path.stem:
        raise SnnbenchError(f"{path}: task is {file.task!r}, the file is of {path.stem!r}")
    known: set[tuple[str, int]] = set()
    for position, row in enumerate(file.result):
        if (row.name, row.year) in known:
            raise SnnbenchError(
                f"{path}: result.{position}.name: {row.name!r} of {row.year} is there already;"
                " tell in the name what differs"
            )
        known.add((row.name, row.year))
    return tuple(sorted(file.result, key=lambda row: (-row.year, row.name)))


def literature_folder() -> Path:
    """The files that ship."""
    return Path(str(resources.files("snnbench.leaderboards").joinpath("literature")))


def literature_of(task: str) -> tuple[LiteratureRow, ...]:
    """Published results of a task, newest first; none where no file ships for it."""
    path = literature_folder() / f"{task}.toml"
    return read_literature(path) if path.is_file() else ()


def all_literature() -> dict[str, tuple[LiteratureRow, ...]]:
    """Published results by task, for all tasks that have some."""
    return {path.stem: read_literature(path) for path in sorted(literature_folder().glob("*.toml"))}


def as_data(row: LiteratureRow) -> dict[str, Any]:
    """A result for `--json`: null where nothing was published."""
    return {
        "name": row.name,
        "year": row.year,
        "source": row.source,
        "accuracy": row.accuracy,
        "accuracy_sd": row.accuracy_sd,
        "seeds": row.seeds,
        "parameters": row.parameters,
        "spikes_per_sample": row.spikes,
        "protocol": row.protocol,
        "mark": row.mark,
        "note": row.note,
    }
