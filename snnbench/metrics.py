"""Accuracy as counts, its intervals, and confusion matrices. NumPy only: a row is verified on a laptop."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def confusion(
    predictions: NDArray[np.integer], labels: NDArray[np.integer], n_classes: int
) -> NDArray[np.int64]:
    """Matrix of counts, shape (true class, predicted class)."""
    matrix = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


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
