"""Random manifolds: a single sine in closed form, both spectra, smoothness, and one file for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snnbench.data_prep import convert as conversion
from snnbench.data_prep.randman import (
    Manifold,
    RandmanEncoder,
    draw,
    evaluate,
    random_manifolds,
    spectrum,
)
from snnbench.data_prep.recipe import PerClass, RandmanSpec, Recipe, load_recipe
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import UsageError

FINGERPRINT = "1e54c70ed0dff00bd386919b699f541735965a86be101e18d82333e23fdd93cc"


def make_spec(**changes: Any) -> RandmanSpec:
    facts: dict[str, Any] = {
        "spectrum": "article",
        "dimensions": 1,
        "alpha": 1.0,
        "seed": 0,
        "per_class": PerClass(train=40, valid=5, test=5),
    }
    return RandmanSpec(**facts | changes)


def times_of(spec: RandmanSpec, label: int = 0, n_units: int = 6) -> np.ndarray:
    """Spike times of a class in us, shape (sample, unit)."""
    recipe = load_recipe("randman").model_copy(update={"randman": spec})
    encode = RandmanEncoder(spec, n_units, 0.05)
    rows = []
    for recording in random_manifolds(Path(), recipe).recordings:
        if recording.label == label:
            times, units, _ = encode(recording)
            assert sorted(units) == list(range(n_units))
            assert (np.diff(times) >= 0).all()
            rows.append(np.rint(times[np.argsort(units)] * 1e6))
    return np.array(rows)


def test_the_spectra_are_the_two_that_are_known() -> None:
    np.testing.assert_allclose(spectrum("article", 1.0), [1 / k for k in range(1, 1001)])
    np.testing.assert_allclose(
        spectrum("public-package", 1.0), [1 / (k + 2) for k in range(1, 1000)]
    )
    np.testing.assert_allclose(spectrum("article", 3.0), [k**-3.0 for k in range(1, 11)])
    np.testing.assert_allclose(
        spectrum("public-package", 3.0), [1 / ((k + 1) ** 3 + 1) for k in range(1, 10)]
    )


def test_a_manifold_worked_out_by_hand() -> None:
    """Two dimensions multiply, harmonics add."""
    a = np.array([[[1.0, 0.5], [2.0, 0.0]]])
    b = np.array([[[1.0, 0.5], [0.25, 0.0]]])
    c = np.array([[[0.0, 0.25], [0.0, 0.0]]])
    at = np.array([[0.25, 1.0], [0.0, 1.0]])
    found = evaluate(Manifold(a, b, c), np.array([1.0, 0.5]), at)
    # x = 1/4: sin(pi/2) + 1/2 * 1/2 * sin(2 pi (2 * 1/2 * 1/4 + 1/4)) = 1; y = 1: 2 sin(pi/2) = 2
    # x = 0: sin(0) + 1/4 sin(pi/2) = 1/4
    np.testing.assert_allclose(found, [[2.0], [0.5]], atol=1e-15)


def test_a_steep_spectrum_leaves_one_sine() -> None:
    spec = make_spec(alpha=60.0)
    manifold, points = draw(spec, 6, 0)
    b, c = manifold.frequency[:, 0, 0], manifold.phase[:, 0, 0]
    sine = np.sin(2 * np.pi * (points * b + c))
    stretched = (sine - sine.min(axis=0)) / (sine.max(axis=0) - sine.min(axis=0))
    np.testing.assert_allclose(times_of(spec), 50_000 * stretched, atol=2)


@pytest.mark.parametrize("kind", ["article", "public-package"])
def test_alpha_makes_smooth(kind: str) -> None:
    def roughness(alpha: float) -> float:
        spec = make_spec(spectrum=kind, alpha=alpha, per_class=PerClass(train=300, valid=1, test=1))
        _, points = draw(spec, 6, 0)
        along = times_of(spec)[np.argsort(points[:, 0])]
        return float(np.abs(np.diff(along, axis=0)).mean())

    rough = [roughness(alpha) for alpha in (0.7, 1.0, 2.0, 3.0)]
    assert rough == sorted(rough, reverse=True)
    assert rough[0] > 5 * rough[-1]


def test_times_fill_the_duration_and_end_before_it() -> None:
    times = times_of(make_spec())
    assert (times.min(axis=0) == 0).all()
    assert (times.max(axis=0) == 49_999).all()
    # 50 us is a whole number of them: binned at 1 ms, the last spike is in the last bin
    assert np.float32(0.049999) < np.float32(0.05)


def test_seeds_classes_and_spectra_differ_and_repeat() -> None:
    made = [
        times_of(make_spec()),
        times_of(make_spec(), label=1),
        times_of(make_spec(seed=1)),
        times_of(make_spec(spectrum="public-package")),
        times_of(make_spec(dimensions=2)),
    ]
    for i, one in enumerate(made):
        for other in made[:i]:
            assert not np.array_equal(one, other)
    np.testing.assert_array_equal(times_of(make_spec()), made[0])


def test_samples_of_one_class_lie_on_one_curve() -> None:
    """Neighbours along the manifold are near in every unit's time, others are not."""
    spec = make_spec(alpha=3.0, per_class=PerClass(train=200, valid=1, test=1))
    _, points = draw(spec, 6, 0)
    along = times_of(spec)[np.argsort(points[:, 0])]
    near = np.abs(np.diff(along, axis=0)).max()
    assert near < 5_000 < np.abs(along[100:] - along[:-100]).max()


def test_the_shipped_set_is_the_same_everywhere(tmp_path: Path) -> None:
    recipe = load_recipe("randman")
    out = tmp_path / "out.h5"
    conversion.convert(recipe, Path(), out, workers=2)
    with SpikeDataset.open(out) as dataset:
        dataset.check()
        assert {s: dataset.n_samples(s) for s in dataset.splits} == recipe.expected_samples
        for split in dataset.splits:
            part = dataset.read(split)
            assert np.bincount(part.labels).tolist() == 10 * [len(part) // 10]
            assert (np.diff(part.offsets) == 20).all()
        assert part.source_ids[0] == "0/0900"
        assert dataset.fingerprint == FINGERPRINT


def test_a_recipe_without_its_section_is_refused() -> None:
    recipe = load_recipe("randman").model_copy(update={"randman": None})
    with pytest.raises(UsageError, match=r"recipe randman: .* needs a section \[randman\]"):
        random_manifolds(Path(), recipe)


def test_classes_of_one_recipe_may_be_any_number(tmp_path: Path) -> None:
    recipe = load_recipe("randman").model_dump() | {"classes": ["left", "right"]}
    recordings, classes = random_manifolds(tmp_path, Recipe.model_validate(recipe))
    assert classes == ("left", "right")
    assert [r.label for r in recordings] == 1000 * [0] + 1000 * [1]
