"""Ranks: cases by hand, agreement with scipy, and invariants."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from snnbench.leaderboards.rank import Contender, place, separated

accuracy = st.integers(0, 40).map(lambda k: k / 40)
rows = st.lists(
    st.tuples(st.lists(accuracy, min_size=1, max_size=12), st.booleans()), min_size=1, max_size=7
).map(lambda rs: [Contender(f"row{i}", tuple(a), p) for i, (a, p) in enumerate(rs)])


def around(mean, spread=0.01, n=10):
    """n values with exactly this mean and this sample standard deviation."""
    values = np.linspace(-1, 1, n)
    return tuple(float(v) for v in mean + spread * values / values.std(ddof=1))


def test_rows_the_test_does_not_separate_share_a_rank_and_the_next_counts_on():
    # standard error of a difference: 0.01 * sqrt(2 / 10) = 0.0045, so p < 0.05 from about 0.0094 on
    table = [
        Contender("third", around(0.85)),
        Contender("second", around(0.896)),
        Contender("first", around(0.9)),
    ]
    assert [(p.name, p.rank) for p in place(table, 10)] == [
        ("first", 1),
        ("second", 1),
        ("third", 3),
    ]


def test_a_row_is_compared_with_the_best_of_its_group_not_with_its_neighbour():
    table = [Contender(n, around(m)) for n, m in (("a", 0.9), ("b", 0.893), ("c", 0.886))]
    assert not separated(table[1].accuracies, table[2].accuracies)
    assert [p.rank for p in place(table, 10)] == [1, 1, 3]


def test_ranks_never_contradict_means():
    # the third is too uncertain to be told from the first, but its mean is below the second's
    table = [
        Contender("first", around(0.9, 0.001)),
        Contender("second", around(0.89, 0.001)),
        Contender("uncertain", around(0.885, 0.05)),
    ]
    assert not separated(table[0].accuracies, table[2].accuracies)
    assert [p.rank for p in place(table, 10)] == [1, 2, 2]


def test_standing_follows_the_number_of_seeds():
    table = [
        Contender("ten", around(0.5, n=10)),
        Contender("nine", around(0.7, n=9)),
        Contender("five", around(0.8, n=5)),
        Contender("four", around(0.9, n=4)),
        Contender("draft", around(0.95, n=20), provisional=True),
    ]
    assert [(p.name, p.standing, p.rank) for p in place(table, 10)] == [
        ("ten", "ranked", 1),
        ("draft", "provisional", None),
        ("five", "provisional", None),
        ("nine", "provisional", None),
        ("four", "unranked", None),
    ]


def test_a_diverged_seed_costs_its_share_of_the_mean():
    steady = Contender("steady", around(0.85))
    failing = Contender("failing", (*around(0.9, n=9), 0.0))
    assert [p.name for p in place([failing, steady], 10)] == ["steady", "failing"]


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ((0.9,) * 10, (0.9,) * 10, False),
        ((0.9,) * 10, (0.9001,) * 10, True),
        ((0.1,) * 3, (0.1,) * 7, False),
        ((0.9,) * 10, around(0.8), True),
        ((0.9,) * 10, around(0.9), False),
        ((0.9,), (0.1,) * 10, False),
    ],
)
def test_rows_without_spread(one, other, apart):
    assert separated(one, other) is apart
    assert separated(other, one) is apart


@settings(deadline=None)
@given(
    st.lists(st.floats(0.1, 0.9), min_size=2, max_size=12),
    st.lists(st.floats(0.1, 0.9), min_size=2, max_size=12),
)
def test_separation_is_welchs_test(one, other):
    if np.std(one) < 1e-3 or np.std(other) < 1e-3:
        return
    p = stats.ttest_ind(one, other, equal_var=False).pvalue
    if abs(p - 0.05) > 1e-9:
        assert separated(one, other) == (p < 0.05)


@settings(deadline=None)
@given(rows, st.integers(1, 10), st.randoms(use_true_random=False))
def test_neither_the_order_of_rows_nor_of_seeds_plays_a_part(table, min_seeds, random):
    shuffled = [
        row._replace(accuracies=tuple(random.sample(row.accuracies, len(row.accuracies))))
        for row in table
    ]
    random.shuffle(shuffled)
    assert place(shuffled, min_seeds) == place(table, min_seeds)


@settings(deadline=None)
@given(rows, st.integers(1, 10))
def test_places_are_complete_and_in_order(table, min_seeds):
    places = place(table, min_seeds)
    assert sorted(p.name for p in places) == sorted(c.name for c in table)
    ranks = [p.rank for p in places if p.rank is not None]
    assert ranks == sorted(ranks)
    assert all(rank <= index + 1 for index, rank in enumerate(ranks))
    assert all(rank in (index + 1, ranks[index - 1]) for index, rank in enumerate(ranks))
    standings = [p.standing for p in places]
    assert standings == sorted(standings, key=["ranked", "provisional", "unranked"].index)
    means = {c.name: np.mean(c.accuracies) for c in table}
    for above, below in itertools.pairwise(places):
        if above.standing == below.standing:
            assert means[above.name] >= means[below.name] - 1e-12


def test_a_reproduced_row_stands_above_the_others_of_its_rank_and_above_no_better_rank():
    table = [
        Contender("first", around(0.9)),
        Contender("second", around(0.899)),
        Contender("third", around(0.898), reproduced=True),
        Contender("below", around(0.8)),
        Contender("last", around(0.7), reproduced=True),
    ]
    assert [(p.name, p.rank) for p in place(table, 10)] == [
        ("third", 1),
        ("first", 1),
        ("second", 1),
        ("below", 4),
        ("last", 5),
    ]


@given(rows, st.data())
def test_being_reproduced_changes_nobodys_rank(table, data):
    again = [row._replace(reproduced=data.draw(st.booleans())) for row in table]
    before, after = place(table, 10), place(again, 10)
    assert {(p.name, p.rank) for p in before} == {(p.name, p.rank) for p in after}
    assert [p.rank for p in before] == [p.rank for p in after]
