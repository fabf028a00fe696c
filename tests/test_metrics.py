"""Counts, intervals and confusion against closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from snnbench.metrics import Counts, confusion, count_by_group, count_correct, summarise

samples = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=60
)


def test_accuracy_is_correct_over_total():
    counts = count_correct(np.array([1, 2, 3, 3]), np.array([1, 2, 0, 3]))
    assert counts == Counts(correct=3, total=4)
    assert counts.accuracy == 0.75


def test_counts_need_a_sample():
    with pytest.raises(ValidationError):
        Counts(correct=0, total=0)


@settings(deadline=None)
@given(samples)
def test_groups_add_up_to_the_whole(rows):
    predictions, labels, groups = (np.array(column) for column in zip(*rows, strict=True))
    by_group = count_by_group(predictions, labels, groups, ["a", "b", "c"])
    whole = count_correct(predictions, labels)
    assert sum(c.correct for c in by_group.values()) == whole.correct
    assert sum(c.total for c in by_group.values()) == whole.total
    assert set(by_group) == {"abc"[g] for g in groups}


@settings(deadline=None)
@given(samples)
def test_confusion_has_correct_ones_on_its_diagonal(rows):
    predictions, labels, _ = (np.array(column) for column in zip(*rows, strict=True))
    matrix = confusion(predictions, labels, 5)
    assert np.trace(matrix) == count_correct(predictions, labels).correct
    assert (matrix.sum(axis=1) == np.bincount(labels, minlength=5)).all()


def test_confusion_rows_are_true_classes():
    assert confusion(np.array([1]), np.array([0]), 2).tolist() == [[0, 1], [0, 0]]


def test_interval_of_three_values_by_hand():
    summary = summarise([1.0, 2.0, 3.0])
    # Student's t with two degrees of freedom has a closed quantile: q sqrt(2 / (1 - q^2)), q = 0.95
    t = 0.95 * math.sqrt(2 / (1 - 0.95**2))
    assert summary.mean == 2.0
    assert summary.sd == 1.0
    assert summary.half_width_95 == pytest.approx(t / math.sqrt(3), rel=1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_interval_agrees_with_scipy(values):
    summary = summarise(values)
    assert summary.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert summary.sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    if summary.sd > 1e-6:
        low, high = stats.t.interval(
            0.95, len(values) - 1, loc=summary.mean, scale=summary.sd / math.sqrt(len(values))
        )
        assert summary.half_width_95 == pytest.approx((high - low) / 2, rel=1e-9)


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(2, 12))
def test_equal_values_have_exactly_no_spread(value, n):
    assert summarise([value] * n) == (value, 0.0, 0.0)


def test_one_value_has_no_spread_to_speak_of():
    mean, sd, half = summarise([0.4])
    assert mean == 0.4
    assert math.isnan(sd)
    assert math.isnan(half)
