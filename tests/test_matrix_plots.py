"""Matrices as images: no weight is lost, and the order is the one that is promised."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from snnbench.matrix_plots import (
    best_input_order,
    delay_matrix,
    delay_order,
    vote_order,
    weight_matrices,
)
from snnbench.plots import save
from tests.snapshots import make_snapshot, silent_snapshot

BEFORE, AFTER = make_snapshot(0, 0.5), make_snapshot(1, 1.0)
CLASSES = ["null", "eins", "zwei"]


def images(figure: Figure) -> list[np.ndarray]:
    """The matrices that are drawn: before, after."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes[:2]]


def test_there_is_an_image_of_every_matrix():
    figures = weight_matrices(BEFORE, AFTER, CLASSES)
    assert set(figures) == set(AFTER.weights)
    for connection, figure in figures.items():
        for drawn, snapshot in zip(images(figure), (BEFORE, AFTER), strict=True):
            weights = snapshot.matrices[connection]
            assert drawn.shape == weights.shape
            np.testing.assert_array_equal(np.sort(drawn, axis=None), np.sort(weights, axis=None))
        assert connection in figure.texts[1].get_text()


def test_before_and_after_have_one_order_and_one_scale():
    # where every weight before is the place of the weight after, the drawn one tells which that was
    weights = {n: np.arange(w.size, dtype="f4").reshape(w.shape) for n, w in AFTER.weights.items()}
    for connection, figure in weight_matrices(
        AFTER._replace(matrices=weights), AFTER, CLASSES
    ).items():
        places, drawn = images(figure)
        np.testing.assert_array_equal(drawn, AFTER.matrices[connection].flat[places.astype(int)])
        limits = [axes.images[0].get_clim() for axes in figure.axes[:2]]
        assert limits[0] == limits[1]
        assert -limits[0][0] == limits[0][1] > 0


def test_every_matrix_has_the_order_of_its_layers():
    figures = weight_matrices(BEFORE, AFTER, CLASSES)
    first = AFTER.matrices["input to hidden1"]
    below = best_input_order(first)
    np.testing.assert_array_equal(images(figures["input to hidden1"])[1], first[below])
    second = AFTER.matrices["hidden1 to hidden2"][:, below]
    np.testing.assert_array_equal(
        images(figures["hidden1 to hidden2"])[1], second[best_input_order(second)]
    )
    votes = AFTER.matrices["hidden2 to readout"]
    np.testing.assert_array_equal(
        images(figures["hidden2 to readout"])[1], votes[:, vote_order(votes)]
    )


def test_a_recurrent_matrix_goes_by_time_constants_where_units_have_them():
    tau = AFTER.constants["hidden1"]["tau_mem_s"].values
    order = np.argsort(tau)
    figure = weight_matrices(BEFORE, AFTER, CLASSES)["within hidden1"]
    within = AFTER.matrices["within hidden1"]
    np.testing.assert_array_equal(images(figure)[1], within[order][:, order])
    assert "tau_mem" in figure.texts[1].get_text()

    plain = AFTER._replace(constants={})
    figure = weight_matrices(BEFORE, plain, CLASSES)["within hidden1"]
    order = best_input_order(AFTER.matrices["input to hidden1"])
    np.testing.assert_array_equal(images(figure)[1], within[order][:, order])
    assert "channel" in figure.texts[1].get_text()


def test_units_go_by_the_place_they_hear_best():
    # bumps of excitation at known places, one single strong weight elsewhere, and noise
    rng = np.random.default_rng(0)
    centres = rng.permutation(np.arange(4, 136, 4))
    weights = np.exp(-(((np.arange(140) - centres[:, None]) / 6.0) ** 2))
    weights += rng.normal(0, 0.02, weights.shape)
    weights[np.arange(len(centres)), (centres + 70) % 140] = 1.5
    np.testing.assert_array_equal(centres[best_input_order(weights)], np.sort(centres))
    # what inhibits is not heard
    flat = np.array([[0.0, 0.0, 1.0], [-9.0, 1.0, 0.0], [1.0, 0.0, -9.0]])
    np.testing.assert_array_equal(best_input_order(flat), [2, 1, 0])


def test_voters_go_by_class_and_then_by_strength():
    weights = np.array([[0.1, 0.5, -1.0, 0.9], [0.3, 0.2, 0.4, -1.0]])
    np.testing.assert_array_equal(vote_order(weights), [3, 1, 2, 0])


def test_delays_count_as_much_as_their_weights():
    delays = np.array([[0.01, 0.09], [0.01, 0.09], [0.04, 0.04], [0.0, 0.03]])
    weights = np.array([[1.0, 9.0], [-9.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    # means are 82, 18, 40 and, of a unit that hears nothing, 15 ms
    np.testing.assert_array_equal(delay_order(delays, weights), [3, 1, 2, 0])


def test_the_delay_matrix_is_in_ms_from_zero():
    figure = delay_matrix(BEFORE, AFTER)
    delays = AFTER.delays_s["input to hidden1"]
    order = delay_order(delays, AFTER.matrices["input to hidden1"])
    np.testing.assert_allclose(images(figure)[1], 1e3 * delays[order], rtol=1e-6)
    low, high = figure.axes[1].images[0].get_clim()
    assert low == 0
    assert 95 < high <= 100
    # a connection whose weights go by another name has a picture, too
    nameless = AFTER._replace(matrices={})
    np.testing.assert_allclose(
        images(delay_matrix(BEFORE, nameless))[1],
        1e3 * delays[np.argsort(delays.mean(axis=1))],
        rtol=1e-6,
    )


def test_classes_have_their_names_where_there_is_room():
    def labels(n: int) -> list[str]:
        many = AFTER._replace(
            matrices={**AFTER.matrices, "hidden2 to readout": np.eye(n, 40, dtype="f4")}
        )
        names = [f"class {i}" for i in range(n)]
        axes = weight_matrices(many, many, names)["hidden2 to readout"].axes[0]
        return [label.get_text() for label in axes.get_yticklabels()]

    assert labels(3) == ["class 0", "class 1", "class 2"]
    assert "class 0" not in labels(100)


def test_without_hidden_layers_there_is_no_matrix():
    without = AFTER._replace(rates_hz={}, matrices={"readout.weight": np.ones((3, 4), "f4")})
    assert weight_matrices(without, without, CLASSES) == {}


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_matrices_also_of_zeros_are_the_same_bytes_at_every_run(tmp_path, suffix):
    silent = silent_snapshot()
    for name, before, after in (("silent", silent, silent), ("drawn", BEFORE, AFTER)):
        written = []
        for _ in range(2):
            figures = weight_matrices(before, after, CLASSES)
            for figure in (figures["input to hidden1"], delay_matrix(before, after)):
                save(figure, tmp_path / f"{name}.{suffix}")
                written.append((tmp_path / f"{name}.{suffix}").read_bytes())
        assert written[:2] == written[2:]
