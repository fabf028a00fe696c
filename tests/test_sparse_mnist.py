"""Which data the study of few spikes takes, and that its arms differ in nothing but the bound."""

from __future__ import annotations

import pytest

from snnbench.studies import sparse_mnist
from snnbench.studies.study import Data

FILES = sparse_mnist.FILES


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ([], [sparse_mnist.MANIFOLDS]),
        (["MNIST"], ["MNIST"]),
        (["Fashion-MNIST"], ["Fashion-MNIST"]),
        (["MNIST", "Fashion-MNIST"], ["MNIST", "Fashion-MNIST"]),
    ],
)
def test_every_set_whose_file_is_there_is_taken_and_manifolds_where_none_is(tmp_path, there, taken):
    for name in there:
        (tmp_path / FILES[name]).touch()
    jobs = sparse_mnist.jobs(sparse_mnist.Parameters(), [0], Data((tmp_path,)))
    assert list(dict.fromkeys(j.arguments["set"] for j in jobs)) == taken
    for job in jobs:
        name = job.arguments["set"]
        path = str((tmp_path / FILES[name]).resolve()) if name in FILES else ""
        assert job.arguments["mnist"] == path


def test_strengths_are_compared_from_the_same_seeds_and_all_else_equal():
    jobs = sparse_mnist.jobs(sparse_mnist.Parameters(), [0, 1], Data(()))
    told = [dict(j.arguments) for j in jobs]
    strengths = [a.pop("upper_strength") for a in told]
    assert 0.0 in strengths
    assert {s: strengths.count(s) for s in strengths} == dict.fromkeys(strengths, 2)
    by_seed = {a["seed"]: a for a in told}
    assert all(a == by_seed[a["seed"]] for a in told)
    first, second = ({**a, "seed": None} for a in by_seed.values())
    assert first == second
