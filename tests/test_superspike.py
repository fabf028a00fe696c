"""SuperSpike: closed forms of its traces, its identities, and the online definition beside it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnbench.errors import SnnbenchError, UsageError
from snnbench.models.online import errors, feedback, kernels, metric, rules, updates
from snnbench.models.online.constants import Heterosynaptic, Neuron
from snnbench.models.superspike import METRIC_FILTER, Learner, Settings, initial_weights
from tests.superspike_reference import ReferenceConstants, offline_eligibility_product, simulate

DT_S = 1e-4


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_spikes(steps: int, units: int, rate_hz: float, seed: int) -> torch.Tensor:
    chance = torch.rand(steps, 1, units, generator=generator(seed))
    return (chance < rate_hz * DT_S).to(torch.uint8)


# -- kernels and metric: closed forms ---------------------------------------------------------------


def test_presynaptic_trace_is_the_difference_of_two_exponentials():
    spikes = np.zeros((600, 1), np.uint8)
    spikes[0] = 1
    out, state = np.empty((600, 1)), np.zeros((2, 1))
    decay, euler = math.exp(-DT_S / 5e-3), DT_S / 10e-3
    kernels.trace(spikes, state[0], state[1], out, decay, euler, 1e-7)
    t = np.arange(600) * DT_S
    expected = np.exp(-t / 10e-3) - np.exp(-t / 5e-3)
    # Euler's steps are of first order: at dt = tau / 100 a hundredth of the size, or less
    np.testing.assert_allclose(out[1:, 0], expected[:-1], atol=4e-3)
    assert out.max() == pytest.approx(0.25, rel=0.02)
    assert out.argmax() * DT_S == pytest.approx(10e-3 * math.log(2), abs=2 * DT_S)  # 6.93 ms


def test_an_error_impulse_peaks_at_one_two_hundredth():
    impulses = np.zeros((600, 1))
    impulses[0] = 1
    out, state = np.empty((601, 1)), np.zeros((2, 1))
    kernels.errors(impulses, state[0], state[1], out, DT_S / 5e-3, DT_S / 10e-3)
    assert out.max() == pytest.approx(0.005, rel=0.02)
    # the relaxations keep the impulse's area, dt
    assert out.sum() * DT_S == pytest.approx(DT_S, rel=0.01)


def test_a_trace_up_to_the_cutoff_is_exactly_zero():
    spikes = np.zeros((4000, 1), np.uint8)
    spikes[0] = 1
    out, state = np.empty((4000, 1)), np.zeros((2, 1))
    kernels.trace(spikes, state[0], state[1], out, math.exp(-DT_S / 5e-3), DT_S / 10e-3, 1e-7)
    assert out[-1] == 0
    assert (out[out > 0] > 1e-7).all()


def test_a_silent_output_with_a_target_of_10_hz_has_distance_40():
    distance = metric.RunningDistance(METRIC_FILTER, DT_S)
    impulses = np.zeros((5000, 1))
    impulses[[500, 1500, 2500, 3500, 4500]] = 1
    state, out = np.zeros((2, 1)), np.empty((5001, 1))
    for _ in range(60):
        kernels.errors(impulses, state[0], state[1], out, DT_S / 5e-3, DT_S / 10e-3)
        distance.add(torch.from_numpy(out[1:, None, :].copy()))
    assert float(distance.value()) == pytest.approx(40, rel=0.02)


def test_van_rossum_distance_is_zero_for_equal_trains_and_grows_with_jitter():
    train = torch.zeros(5000, 1)
    train[::700] = 1
    assert float(metric.van_rossum(train, train, METRIC_FILTER, DT_S)) == 0
    apart = [
        float(metric.van_rossum(train, train.roll(k, 0), METRIC_FILTER, DT_S)) for k in (5, 20, 60)
    ]
    assert 0 < apart[0] < apart[1] < apart[2]


def test_van_rossum_distance_of_one_spike_more_is_half_the_kernels_energy():
    none, one = torch.zeros(1000, 1), torch.zeros(1000, 1)
    one[100] = 1
    a, b = 10e-3, 5e-3
    energy = (1 / (a - b)) ** 2 * (a / 2 + b / 2 - 2 * a * b / (a + b))
    found = float(metric.van_rossum(none, one, METRIC_FILTER, DT_S))
    assert found == pytest.approx(energy / 2, rel=0.02)


# -- the neuron, by hand ----------------------------------------------------------------------------


def one_layer(
    weight_mv: float, sent_at: list[int], steps: int = 400
) -> tuple[np.ndarray, list[int]]:
    """Membrane and spikes of one neuron with one input."""
    neuron = Neuron()
    below = np.zeros((steps, 1, 1), np.uint8)
    below[sent_at] = 1
    state = [np.full((1, 1), -60.0), np.zeros((1, 1)), np.zeros((1, 1), np.int32)]
    membranes, spikes = np.empty((steps, 1, 1)), np.empty((steps, 1, 1), np.uint8)
    kernels.lif(
        below, np.full((1, 1, 1), weight_mv), *state, membranes, spikes, neuron.euler_mem,
        neuron.decay_syn, -60.0, -50.0, neuron.refractory_steps,
    )  # fmt: skip
    return membranes[:, 0, 0], np.flatnonzero(spikes).tolist()


def test_a_psp_has_its_closed_form():
    u, spikes = one_layer(20.0, [10])
    t = np.arange(1, 390) * DT_S
    # dU/dt tau = -U + w exp(-t / tau_syn): w tau_syn / (tau_mem - tau_syn) times two exponentials
    expected = -60 + 20.0 * (np.exp(-t / 10e-3) - np.exp(-t / 5e-3))
    assert spikes == []
    np.testing.assert_allclose(u[11:], expected, atol=0.07)  # first order in dt
    assert (u[:11] == -60).all()


def test_after_a_spike_the_membrane_rests_for_the_refractory_time():
    u, spikes = one_layer(90.0, [0, 20])
    first = spikes[0]
    # the step of the spike, and 50 steps of 0.1 ms
    assert (u[first : first + 51] == -60).all()
    assert u[first + 51] > -60


def test_rate_under_constant_drive_is_the_closed_form():
    """A current of 15 mV over rest: tau ln(15 / (15 - 10)) and the refractory time between spikes."""
    steps = 20_000
    neuron = Neuron()
    below = np.ones((steps, 1, 1), np.uint8)
    # spikes in every step add up to a current of w / (1 - decay)
    state = [np.full((1, 1), -60.0), np.full((1, 1), 15.0), np.zeros((1, 1), np.int32)]
    out = np.empty((steps, 1, 1), np.uint8)
    weight = 15.0 * (1 - neuron.decay_syn)
    kernels.lif(
        below, np.full((1, 1, 1), weight), *state, np.empty((steps, 1, 1)), out, neuron.euler_mem,
        neuron.decay_syn, -60.0, -50.0, neuron.refractory_steps,
    )  # fmt: skip
    gaps_s = np.diff(np.flatnonzero(out)) * DT_S
    assert gaps_s.mean() == pytest.approx(10e-3 * math.log(3) + 5e-3, rel=0.01)


# -- the rule beside its definition -----------------------------------------------------------------

NETWORKS = {
    "one layer": (6, 3),
    "hidden layer": (6, 4, 2),
    "two hidden layers": (6, 4, 3, 2),
}


def both(
    sizes: tuple[int, ...], kind: str, *, blocks: int = 4, dtype: torch.dtype = torch.float64,
    constants: ReferenceConstants | None = None, settings_: Settings | None = None, learn_from: int = 0,
):  # fmt: skip
    """A learner and the plain reference on the same random input and target."""
    steps = 500  # a short block keeps the plain loops affordable
    inputs = random_spikes(blocks * steps, sizes[0], 150.0, 1)
    targets = random_spikes(blocks * steps, sizes[-1], 30.0, 2)
    weights = initial_weights(sizes, [generator(3)], w0_mv=80.0, dtype=dtype)
    told = feedback.make_feedback(kind, weights, [generator(4)])
    c = constants or ReferenceConstants(update_s=steps * DT_S)
    s = settings_ or Settings(block_s=steps * DT_S)
    s = replace(s, linear_hidden=kind == "symmetric-linear")
    names = {"symmetric": "symmetric", "symmetric-linear": "symmetric", "uniform": "uniform"}
    fixed = [f[0].double().numpy() for f in told.matrices(weights)]
    reference = simulate(
        [w[0].double().numpy() for w in weights],
        inputs[:, 0].numpy().astype(bool),
        targets[:, 0].numpy().astype(bool),
        names.get(kind, fixed),
        c,
        learn_from_step=learn_from * steps,
        linear_hidden=kind == "symmetric-linear",
        hidden_plastic=kind != "frozen",
        heterosynaptic_layers=range(len(sizes) - 2) if c.rho else (),
    )
    learner = Learner(weights, told, s)
    spikes: list[list[torch.Tensor]] = []
    for k in range(blocks):
        now = slice(k * steps, (k + 1) * steps)
        done = learner.run(inputs[now], targets[now], learn=k >= learn_from)
        spikes.append([x[:, 0].clone() for x in done.spikes])
    fired = [torch.cat(layer).numpy().astype(bool) for layer in zip(*spikes, strict=True)]
    return learner, fired, reference


@pytest.mark.parametrize(
    "kind", ["symmetric", "symmetric-linear", "random", "direct", "uniform", "frozen"]
)
@pytest.mark.parametrize("sizes", NETWORKS.values(), ids=NETWORKS)
def test_a_block_at_once_is_the_rule_step_by_step(sizes, kind):
    learner, fired, reference = both(sizes, kind)
    for ours, theirs in zip(fired, reference.spikes, strict=True):
        assert theirs.any()
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(learner.weights, reference.weights, strict=True):
        np.testing.assert_allclose(ours[0].numpy(), theirs, rtol=0, atol=1e-5)
    assert float(learner.metric().mean()) == pytest.approx(reference.metric, rel=1e-6)


def test_single_precision_follows_the_definition_to_1e_5_in_a_block():
    """Longer, a spike at the threshold's edge comes a step later, and the two part for good."""
    learner, fired, reference = both((6, 4, 2), "random", blocks=1, dtype=torch.float32)
    for ours, theirs in zip(fired, reference.spikes, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(learner.weights, reference.weights, strict=True):
        np.testing.assert_allclose(ours[0].double().numpy(), theirs, rtol=0, atol=1e-4)


def test_frozen_at_first_everything_runs_but_weights_stay():
    learner, fired, reference = both((6, 4, 2), "random", learn_from=2)
    np.testing.assert_array_equal(fired[-1], reference.spikes[-1])
    for ours, theirs in zip(learner.weights, reference.weights, strict=True):
        np.testing.assert_allclose(ours[0].numpy(), theirs, atol=1e-5)


@pytest.mark.parametrize("exponent", [0, 1, 4])
def test_the_pull_of_activity_is_the_definitions(exponent):
    rho = 1e3  # strong enough to be seen within a few hundred ms
    term = Heterosynaptic(rho, exponent)
    learner, _, reference = both(
        (6, 4, 2),
        "random",
        constants=ReferenceConstants(update_s=0.05, rho=term.scale, exponent=exponent),
        settings_=Settings(block_s=0.05, heterosynaptic=term),
    )
    without, _, _ = both((6, 4, 2), "random")
    for ours, theirs in zip(learner.weights, reference.weights, strict=True):
        np.testing.assert_allclose(ours[0].numpy(), theirs, atol=1e-5)
    assert not torch.allclose(learner.weights[0], without.weights[0], atol=1e-3)


def test_online_is_offline():
    """The eligibility as a double loop over pairs of times, and the learner's matrix product."""
    steps = 600
    weights = initial_weights((5, 3), [generator(3)], dtype=torch.float64)
    learner = Learner(weights, settings=Settings(block_s=steps * DT_S))
    learner.run(random_spikes(steps, 5, 60.0, 1), random_spikes(steps, 3, 40.0, 2), learn=False)
    layer = learner._layers[0]
    done = learner.run(random_spikes(steps, 5, 60.0, 5), random_spikes(steps, 3, 40.0, 6))
    # both blocks and what the second one remembers of the first
    rows = layer.pre.shape[0]
    offline = offline_eligibility_product(
        layer.pre[:, 0].numpy(),
        layer.factor[:, 0].numpy(),
        np.concatenate([np.zeros((rows - steps, 3)), done.errors[0][:, 0].numpy()]),
        ReferenceConstants(),
    )
    ours = done.gradients[0][0].numpy() * steps
    np.testing.assert_allclose(ours, offline, rtol=1e-5, atol=1e-5 * np.abs(offline).max())


# -- feedback ---------------------------------------------------------------------------------------


def small_weights(*sizes: int) -> list[torch.Tensor]:
    return initial_weights(sizes, [generator(0)], dtype=torch.float64)


def test_symmetric_feedback_is_the_transposed_current_weights():
    weights = small_weights(5, 4, 3, 2)
    told = feedback.make_feedback("symmetric", weights, [generator(1)])
    lower, upper = told.matrices(weights)
    torch.testing.assert_close(upper, weights[2].mT)
    torch.testing.assert_close(lower, weights[1].mT @ weights[2].mT)
    weights[2] *= 2  # it follows
    torch.testing.assert_close(told.matrices(weights)[1], weights[2].mT)


def test_random_feedback_goes_layer_by_layer_and_stays():
    weights = small_weights(5, 4, 3, 2)
    told = feedback.make_feedback("random", weights, [generator(1)])
    before = [f.clone() for f in told.matrices(weights)]
    assert [tuple(f.shape) for f in before] == [(1, 4, 2), (1, 3, 2)]
    assert torch.linalg.matrix_rank(before[0]).item() <= 2
    weights[1] *= 3
    for old, new in zip(before, told.matrices(weights), strict=True):
        torch.testing.assert_close(old, new)


@pytest.mark.parametrize("sign", [1, -1])
def test_feedback_of_one_sign(sign):
    weights = small_weights(5, 4, 2)
    (f,) = feedback.make_feedback("random", weights, [generator(1)], sign=sign).matrices(weights)
    assert (f * sign > 0).all()


def test_uniform_feedback_tells_every_cell_the_sum():
    weights = small_weights(5, 4, 2)
    (f,) = feedback.make_feedback("uniform", weights, [generator(1)]).matrices(weights)
    assert (f == 1).all()


def test_learned_feedback_approaches_the_forward_weights():
    weights = small_weights(5, 4, 3)
    told = feedback.make_feedback("learned", weights, [generator(1)])

    def angle() -> float:
        (f,) = told.matrices(weights)
        return float(
            torch.nn.functional.cosine_similarity(f.flatten(), weights[1].mT.flatten(), dim=0)
        )

    at_first = angle()
    for k in range(300):
        change = 4 * torch.randn(1, 3, 4, generator=generator(k), dtype=torch.float64)
        weights[1] += change
        told.learnt([torch.zeros_like(weights[0]), change])
    assert angle() > max(0.8, at_first)


def test_hidden_units_hear_raw_impulses_and_filter_them_themselves():
    """One wrong spike of the output: a hidden unit's error is F times the same double exponential, once
    filtered, and without the output's surrogate.
    """
    weights = [torch.zeros(1, 2, 3, dtype=torch.float64), torch.zeros(1, 1, 2, dtype=torch.float64)]
    f = torch.tensor([[[2.0], [-3.0]]], dtype=torch.float64)
    learner = Learner(weights, feedback.Fixed([f]), Settings(block_s=0.06))
    target = torch.zeros(600, 1, 1)
    target[0] = 1
    done = learner.run(torch.zeros(600, 1, 3, dtype=torch.uint8), target)
    hidden, output = done.errors
    assert float(output.max()) == pytest.approx(0.005, rel=0.02)
    torch.testing.assert_close(hidden, output * f[:, :, 0])


def test_errors_travel_as_long_as_spikes():
    weights = [torch.zeros(1, 1, 1, dtype=torch.float64)]
    learner = Learner(weights, settings=Settings(block_s=0.02))
    target = torch.zeros(200, 1, 1)
    target[100] = 1
    done = learner.run(torch.zeros(200, 1, 1, dtype=torch.uint8), target)
    # relaxed twice, each a step behind
    assert done.errors[0].flatten().nonzero()[0].item() == 100 + Neuron().delay_steps + 2


def test_an_unknown_feedback_suggests_a_near_name():
    with pytest.raises(UsageError, match="symmetric"):
        feedback.make_feedback("symetric", small_weights(2, 2, 1), [generator(0)])


# -- updates ----------------------------------------------------------------------------------------


def test_rmaxprop_by_hand():
    """g = 2, then 1, with gamma = exp(-0.5 / 30): full rate, then half of it and a little more."""
    update = updates.Update(rate_mv=0.5)
    weights, squares = (
        torch.zeros(1, 1, 1, dtype=torch.float64),
        torch.zeros(1, 1, 1, dtype=torch.float64),
    )
    update.apply(weights, torch.full((1, 1, 1), 2.0, dtype=torch.float64), squares, 0.5)
    assert weights.item() == pytest.approx(0.5)
    update.apply(weights, torch.full((1, 1, 1), 1.0, dtype=torch.float64), squares, 0.5)
    gamma = math.exp(-0.5 / 30)
    assert squares.item() == pytest.approx(4 * gamma)
    assert weights.item() == pytest.approx(0.5 + 0.5 / (2 * math.sqrt(gamma)))


gradients = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30)


@given(gradients, st.floats(1e-3, 10))
def test_rmaxprop_never_moves_a_weight_by_more_than_its_rate(values, rate):
    update = updates.Update(rate_mv=rate)
    weights, squares = (
        torch.zeros(1, 1, 1, dtype=torch.float64),
        torch.zeros(1, 1, 1, dtype=torch.float64),
    )
    for value in values:
        change = update.apply(
            weights, torch.full((1, 1, 1), value, dtype=torch.float64), squares, 0.5
        )
        assert abs(change.item()) <= rate * (1 + 1e-9)
        assert abs(weights.item()) <= update.bound_mv


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20))
def test_rmaxprop_does_not_see_the_scale_of_the_error(values):
    update = updates.Update(epsilon=0.0)
    moved = []
    for scale in (1.0, 10.0):
        weights, squares = (
            torch.zeros(1, 1, 1, dtype=torch.float64),
            torch.zeros(1, 1, 1, dtype=torch.float64),
        )
        for value in values:
            update.apply(
                weights, torch.full((1, 1, 1), scale * value, dtype=torch.float64), squares, 0.5
            )
        moved.append(weights.item())
    assert moved[0] == pytest.approx(moved[1], rel=1e-9)


def test_a_learner_does_not_see_the_scale_of_feedback():
    """Without cut-offs and epsilon, ten times the feedback gives the same weights."""
    results = []
    for scale in (1.0, 10.0):
        weights = small_weights(6, 4, 2)
        f = torch.randn(1, 4, 2, generator=generator(9), dtype=torch.float64)
        rule = replace(rules.SUPERSPIKE, cutoff=0.0)
        # not 0: where nothing was gathered, 0 / 0 is no number
        s = Settings(block_s=0.05, rule=rule, update=updates.Update(epsilon=1e-200))
        learner = Learner(weights, feedback.Fixed([scale * f]), s)
        for k in range(4):
            learner.run(random_spikes(500, 6, 60.0, k), random_spikes(500, 2, 30.0, 10 + k))
        results.append(learner.weights[0].clone())
    torch.testing.assert_close(*results)


# -- rules as plug-ins ------------------------------------------------------------------------------


def one_block(rule: rules.Rule) -> tuple[torch.Tensor, Learner, torch.Tensor]:
    weights = [torch.full((1, 2, 3), 60.0, dtype=torch.float64)]
    learner = Learner(weights, settings=Settings(block_s=0.05, rule=rule))
    inputs = random_spikes(500, 3, 80.0, 1)
    done = learner.run(inputs, random_spikes(500, 2, 30.0, 2))
    return done.gradients[0][0] * 500, learner, done.spikes[0][:, 0].double()


def test_hebb_gathers_the_presynaptic_trace_at_spikes():
    gathered, learner, fired = one_block(rules.HEBB)
    trace = learner._layers[0].pre[-500:, 0]
    delay = Neuron().delay_steps
    expected = fired[:-delay].mT @ trace[:-delay]
    assert fired.any()
    torch.testing.assert_close(gathered, expected)


def test_a_rule_of_ones_own_needs_no_kernel():
    anti = replace(rules.HEBB, name="anti", post=lambda membrane, spikes, neuron: -spikes)
    torch.testing.assert_close(one_block(anti)[0], -one_block(rules.HEBB)[0])


def test_e_prop_differs_from_superspike_and_learns_from_the_same_error():
    ours, eprop = one_block(rules.SUPERSPIKE)[0], one_block(rules.E_PROP)[0]
    assert eprop.abs().max() > 0
    assert not torch.allclose(ours / ours.abs().max(), eprop / eprop.abs().max(), atol=1e-2)


def test_a_post_factor_of_another_shape_is_refused():
    wrong = replace(rules.HEBB, post=lambda membrane, spikes, neuron: spikes[:, :, :1])
    with pytest.raises(SnnbenchError, match="post factor has shape"):
        one_block(wrong)


def test_an_unknown_rule_suggests_a_near_name():
    with pytest.raises(UsageError, match="superspike"):
        rules.rule_named("superspik")


def test_the_surrogate_has_its_values():
    membrane = torch.tensor([-50.0, -51.0, -40.0, -81.0])
    found = rules.SurrogateOfMembrane()(membrane.clone(), torch.zeros(4), Neuron())
    torch.testing.assert_close(found, torch.tensor([1.0, 0.25, 1 / 121, 0.0]))


# -- errors of windows ------------------------------------------------------------------------------


def test_window_errors_by_hand():
    """Right unit 0 silent in the first window, right and wrong spikes in the second."""
    spikes = torch.zeros(30, 1, 2)
    spikes[5, 0, 1] = 1  # wrong at once
    spikes[14, 0, 1] = 1  # between windows: free
    spikes[22, 0, 0] = 1  # right
    windows = [[errors.Window(2, 10, 0), errors.Window(20, 28, 0)]]
    impulses = errors.window_errors(spikes, windows)
    expected = torch.zeros(30, 1, 2)
    expected[5, 0, 1] = -1
    expected[9, 0, 0] = 1
    torch.testing.assert_close(impulses, expected)
    assert errors.solved(spikes, windows) == [[False, True]]


def test_the_code_of_its_page_runs():
    page = (Path(__file__).resolve().parents[1] / "docs" / "superspike.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "superspike.md", "exec"), names)
    assert names["learner"].settings.rule.name == "boxcar"
    assert len(names["block"].spikes) == 2
    names["learner"] = Learner(small_weights(100, 1), settings=names["learner"].settings)
    names["learner"].run(names["inputs"], names["targets"])


# -- learner: seeds, state, bad input ---------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4), st.integers(0, 1000))
def test_seeds_side_by_side_are_what_they_are_alone(seeds, first):
    s = Settings(block_s=0.03)
    numbers = range(first, first + seeds)
    inputs, targets = random_spikes(300, 5, 60.0, first), random_spikes(300, 2, 30.0, first + 1)
    together = Learner(
        initial_weights((5, 4, 2), [generator(k) for k in numbers], dtype=torch.float64), settings=s
    )
    together.run(inputs, targets)
    for at, k in enumerate(numbers):
        alone = Learner(initial_weights((5, 4, 2), [generator(k)], dtype=torch.float64), settings=s)
        alone.run(inputs, targets)
        for a, b in zip(together.weights, alone.weights, strict=True):
            torch.testing.assert_close(a[at], b[0])


def test_a_restored_learner_goes_on_with_the_same_bits():
    def fresh() -> Learner:
        weights = initial_weights((6, 4, 2), [generator(3)])
        return Learner(weights, feedback.make_feedback("random", weights, [generator(4)]),
                       Settings(block_s=0.05, heterosynaptic=Heterosynaptic()))  # fmt: skip

    def go(learner: Learner, blocks: range) -> None:
        for k in blocks:
            learner.run(random_spikes(500, 6, 60.0, k), random_spikes(500, 2, 30.0, 50 + k))

    whole, half = fresh(), fresh()
    go(whole, range(6))
    go(half, range(3))
    other = fresh()
    other.restore(half.state())
    go(other, range(3, 6))
    for a, b in zip(whole.weights, other.weights, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(whole.metric(), other.metric())


def test_a_repeated_run_has_the_same_bits():
    first, second = (both((6, 4, 2), "random", dtype=torch.float32)[0] for _ in range(2))
    for a, b in zip(first.weights, second.weights, strict=True):
        assert torch.equal(a, b)


def test_a_time_constant_shorter_than_a_step_is_refused():
    with pytest.raises(
        SnnbenchError, match=r"tau_syn_s is 5e-05 s, shorter than the time step dt_s of 0.0001"
    ):
        Neuron(tau_syn_s=5e-5)
    with pytest.raises(SnnbenchError, match="decay_s is 1e-05"):
        Settings(rule=replace(rules.SUPERSPIKE, pre=rules.Filter(5e-3, 1e-5)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dt_s": 0.0}, "time step above 0"),
        ({"delay_s": 0.0}, "at least one step"),
        ({"refractory_s": 1.05e-4 * 3}, "no whole number of steps"),
        ({"threshold_mv": -61.0}, "not above rest_mv"),
    ],
)
def test_constants_that_cannot_work_are_refused(changes, message):
    with pytest.raises(SnnbenchError, match=message):
        Neuron(**changes)


def test_rates_that_run_away_are_an_error():
    weights = [torch.full((1, 3, 20), 100.0)]
    learner = Learner(weights, settings=Settings(block_s=0.1))
    with pytest.raises(SnnbenchError, match="rates have diverged: output fires"):
        learner.run(torch.ones(1000, 1, 20, dtype=torch.uint8), torch.zeros(1000, 1, 3))


def test_weights_that_are_no_numbers_are_an_error():
    weights = [torch.full((1, 1, 2), float("nan"))]
    learner = Learner(weights, settings=Settings(block_s=0.01))
    with pytest.raises(SnnbenchError, match="no longer finite"):
        learner.run(torch.zeros(100, 1, 2, dtype=torch.uint8), torch.zeros(100, 1, 1))


def test_layers_and_inputs_that_do_not_fit_are_refused():
    with pytest.raises(SnnbenchError, match="layers 1 and 2 do not fit"):
        Learner([torch.zeros(1, 4, 3), torch.zeros(1, 2, 5)])
    learner = Learner([torch.zeros(1, 4, 3)], settings=Settings(block_s=0.01))
    with pytest.raises(SnnbenchError, match="this network takes"):
        learner.run(torch.zeros(100, 1, 5, dtype=torch.uint8), torch.zeros(100, 1, 4))
    with pytest.raises(SnnbenchError, match="none 0"):
        initial_weights((5, 0, 2), [generator(0)])


@pytest.mark.parametrize("name", ["rate_mv", "tau_rms_s", "bound_mv"])
def test_an_update_without_a_rate_is_refused(name):
    changes: Any = {name: 0.0}
    with pytest.raises(SnnbenchError, match=name):
        updates.Update(**changes)
