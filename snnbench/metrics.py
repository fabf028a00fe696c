"""Accuracy as counts, its intervals, and confusion matrices. NumPy only: a row is verified on a laptop."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


class Counts(BaseModel):
    """Correct predictions and all predictions; the accuracy follows from them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    correct: int = Field(ge=0)
    total: int = Field(gt=0)

    @property
    def accuracy(self) -> float:
        """Fraction of correct predictions, 0 to 1."""
        return self.correct / self.total


class Summary(NamedTuple):
    """Mean over seeds, sample standard deviation and half-width of the 95 % interval of the mean."""

    mean: float
    sd: float
    half_width_95: float


def count_correct(predictions: NDArray[np.integer], labels: NDArray[np.integer]) -> Counts:
    """Counts over every sample; both arrays have shape (sample,)."""
    return Counts(correct=int((predictions == labels).sum()), total=len(labels))


def together(counts: Iterable[Counts]) -> Counts:
    """Counts of disjoint samples as one."""
    every = list(counts)
    return Counts(correct=sum(c.correct for c in every), total=sum(c.total for c in every))


def count_by_group(
    predictions: NDArray[np.integer],
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
    names: Sequence[str],
) -> dict[str, Counts]:
    """Counts per group (speaker) that occurs; `groups` indexes `names`."""
    return {
        names[g]: count_correct(predictions[groups == g], labels[groups == g])
        for g in np.unique(groups)
    }


def best_epochs(folds: Mapping[str, Sequence[Counts]]) -> int:
    """The number of epochs, from 1, after which most samples of all folds are right; fewer at a tie.

    Every sample of training and validation data is in exactly one fold, so samples count alike.
    """
    correct = np.array([[c.correct for c in counts] for counts in folds.values()]).sum(axis=0)
    return int(correct.argmax()) + 1


def all_folds(folds: Mapping[str, Sequence[Counts]], epochs: int) -> Counts:
    """Counts of all folds together after so many epochs."""
    return together(counts[epochs - 1] for counts in folds.values())


def confusion(
    predictions: NDArray[np.integer], labels: NDArray[np.integer], n_classes: int
) -> NDArray[np.int64]:
    """Matrix of counts, shape (true class, predicted class)."""
    matrix = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def binomial_interval(counts: Counts) -> tuple[float, float]:
    """95 % interval of the accuracy that so many correct predictions tell of (Clopper & Pearson 1934).

    Of one network and the samples that were drawn; what seeds do to it is `summarise`'s.
    """
    from scipy import stats

    found = stats.binomtest(counts.correct, counts.total).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)


def pooled(counts: Mapping[str, Counts], names: Collection[str]) -> Counts | None:
    """Counts of these groups together; None where none of them occurs."""
    chosen = [c for name, c in counts.items() if name in names]
    return together(chosen) if chosen else None


def summarise(values: Sequence[float]) -> Summary:
    """Mean, sample standard deviation and Student-t 95 % half-width; the last two are nan for one value."""
    from scipy import stats

    n = len(values)
    # the quotient of a rounded sum is not always the value that all seeds share
    mean = values[0] if len(set(values)) == 1 else math.fsum(values) / n
    if n == 1:
        return Summary(mean, math.nan, math.nan)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return Summary(mean, sd, float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n))
