"""Readout, layers, whole networks, activity regularisers."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from snnbench.connection_spec import Connections
from snnbench.data_prep.batch import EventBatch
from snnbench.model_spec import LifSpec, ModelSpec, ReadoutSpec
from snnbench.models import known_recipes
from snnbench.models.layers import SpikingLayer
from snnbench.models.network import SpikingNetwork, build
from snnbench.models.readout import LeakyReadout
from snnbench.models.regularise import activity_loss
from snnbench.models.scan import scan
from snnbench.models.scan_types import ScanResult
from snnbench.seeding import deterministic, make_generator
from snnbench.spec import ActivitySpec
from tests.scan_cases import CPU_ENGINES, as_events, assert_near, needs_compiler

DT_S = 10e-3

engines = pytest.mark.parametrize("engine", CPU_ENGINES)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(n_inputs: int = 6, n_outputs: int = 3, seed: int = 0, **fields: object) -> SpikingNetwork:
    spec = ModelSpec.model_validate({"name": "test", "hidden": (8,), "input_gain": 4.0, **fields})
    return build(spec, n_inputs, n_outputs, DT_S, generator(seed))


def random_input(steps: int = 40, batch: int = 5, channels: int = 6, seed: int = 1) -> torch.Tensor:
    return torch.poisson(torch.full((steps, batch, channels), 0.4), generator=generator(seed))


def run_readout(readout: LeakyReadout, spikes: Tensor, engine: Any = "auto") -> ScanResult:
    drive = spikes @ readout.weight.t()
    return scan(
        drive, None, None, readout.cell, keep_membranes=True, keep_peaks=True, engine=engine
    )


def one_class_readout(alpha: float | None = None, beta: float | None = None) -> LeakyReadout:
    """One unit with weight 1 onto one class; decays may be given."""
    readout = LeakyReadout(1, 1, ReadoutSpec(), DT_S, generator())
    with torch.no_grad():
        readout.weight.fill_(1.0)
    if alpha is not None:
        decays = readout.cell.parameters._replace(alpha=alpha, beta=beta)
        readout.cell = replace(readout.cell, parameters=decays)
    return readout


@engines
def test_readout_equals_its_equations_step_by_step(engine: Any):
    readout = LeakyReadout(4, 3, ReadoutSpec(), DT_S, generator())
    alpha, beta = readout.cell.parameters
    assert (alpha, beta) == pytest.approx((np.exp(-10 / 10), np.exp(-10 / 20)))
    spikes = random_input(30, 2, 4)
    current, membrane, expected = torch.zeros(2, 3), torch.zeros(2, 3), []
    for s in spikes:
        expected.append(membrane)
        current, membrane = alpha * current + s @ readout.weight.t(), beta * membrane + current
    stacked = torch.stack(expected)
    found = run_readout(readout, spikes, engine)
    torch.testing.assert_close(found.membranes, stacked, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.peaks, stacked.amax(dim=0), rtol=1e-5, atol=1e-6)


@engines
def test_gradient_reaches_only_what_the_largest_step_saw(engine: Any):
    readout = one_class_readout()
    spikes = torch.zeros(12, 1, 1)
    spikes[2] = 1.0
    spikes.requires_grad_()
    found = run_readout(readout, spikes, engine)
    last = int(found.membranes.argmax())
    assert 0 < last < 11
    found.peaks.sum().backward()
    assert spikes.grad is not None
    # the step at n sees spikes up to n - 2, weighted by the response to them; later ones not at all
    impulse = torch.eye(12)[:, :1, None]
    response = run_readout(readout, impulse, engine).membranes.detach().flatten()
    expected = [float(response[last - m]) if m <= last else 0.0 for m in range(12)]
    assert spikes.grad.flatten().tolist() == pytest.approx(expected, abs=1e-6)
    assert expected[last - 1 :] == [0.0] * (13 - last)


@engines
def test_a_tie_over_time_gives_the_gradient_to_the_first_step(engine: Any):
    # two equal spikes far apart in a readout that forgets at once
    readout = one_class_readout(alpha=0.0, beta=0.0)
    spikes = torch.zeros(12, 1, 1)
    spikes[2], spikes[8] = 1.0, 1.0
    spikes.requires_grad_()
    run_readout(readout, spikes, engine).peaks.sum().backward()
    assert spikes.grad is not None
    assert spikes.grad.flatten().tolist() == [0.0, 0.0, 1.0, *[0.0] * 9]


def test_initial_response_area_does_not_depend_on_the_bin_width():
    areas = []
    for dt_s in (1e-3, 5e-3, 10e-3):
        layer = SpikingLayer(
            Connections(40, 50, None, recurrent=False, around=None),
            ModelSpec(name="test", input_gain=2.0),
            dt_s,
            generator(),
        )  # tau_mem 20 ms, tau_syn 10 ms
        alpha, beta = np.exp(-dt_s / 10e-3), np.exp(-dt_s / 20e-3)
        areas.append(layer.weight.detach() * dt_s / ((1 - alpha) * (1 - beta)))
    torch.testing.assert_close(areas[0], areas[1])
    torch.testing.assert_close(areas[0], areas[2])
    bound = 2.0 / np.sqrt(40) * 20e-3
    assert 0.98 * bound < float(areas[0].abs().max()) <= bound


@pytest.mark.parametrize("recurrent", [False, True])
def test_initial_rates_are_reasonable_for_every_bin_width(recurrent: bool):
    # as many spikes as a spoken digit through the cochlea: 7,600 in 0.7 s over 140 channels, unevenly
    rng = np.random.default_rng(0)
    profile = rng.gamma(0.7, size=140)
    for dt_s in (2e-3, 5e-3, 10e-3, 14e-3):
        n = round(0.7 / dt_s)
        counts = rng.poisson(7600 / n * profile / profile.sum(), size=(n, 8, 140))
        spec = ModelSpec(
            name="test",
            recurrent=recurrent,
            neuron=LifSpec(tau_syn_s=14e-3),
            readout=ReadoutSpec(tau_syn_s=14e-3),
        )
        network = build(spec, 140, 20, dt_s, generator())
        with torch.no_grad():
            output = network(torch.from_numpy(counts).float())
        assert 2 < float(output.spike_counts[0].mean()) / 0.7 < 50


def test_time_constants_become_decays_of_the_real_bin():
    layer = make(neuron={"tau_mem_s": 0.02, "tau_syn_s": 0.01}).layers[0]
    assert isinstance(layer, SpikingLayer)
    assert layer.cell.parameters.alpha == pytest.approx(np.exp(-1))
    assert layer.cell.parameters.beta == pytest.approx(np.exp(-0.5))


@engines
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("hidden", [(8,), (8, 5)])
def test_every_weight_gets_a_gradient(recurrent: bool, hidden: tuple[int, ...], engine: Any):
    network = make(hidden=hidden, recurrent=recurrent, surrogate={"slope": 5.0})
    network.engine = engine
    network(random_input()).logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0, name


@engines
def test_counts_are_the_sums_of_the_spikes(engine: Any):
    network = make(hidden=(8, 5), recurrent=True)
    network.engine = engine
    spikes = random_input()
    output = network(spikes)
    hidden = network.hidden_spikes(spikes)
    assert [h.shape for h in hidden] == [(40, 5, 8), (40, 5, 5)]
    for counts, layer in zip(output.spike_counts, hidden, strict=True):
        assert counts.sum() > 0
        assert torch.equal(counts, layer.sum(dim=0))


def test_same_seed_same_weights_another_seed_others():
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_number_of_parameters():
    assert make(hidden=(8,)).n_parameters == 6 * 8 + 8 * 3
    assert make(hidden=(8, 5), recurrent=True).n_parameters == 48 + 64 + 40 + 25 + 15


@engines
def test_dropout_silences_units_for_a_whole_sample_and_keeps_the_mean(engine: Any):
    network = make(n_inputs=6, hidden=(400,), dropout=0.25)
    network.engine = engine
    spikes = random_input(30, 20, 6)
    (full,) = network(spikes).spike_counts
    (dropped,) = network(spikes, generator(3)).spike_counts
    active = full > 0
    kept = dropped[active] > 0
    assert abs(float(kept.float().mean()) - 0.75) < 0.03
    torch.testing.assert_close(dropped[active][kept], full[active][kept] / 0.75)


def test_without_a_generator_nothing_is_dropped():
    network = make(dropout=0.9)
    spikes = random_input()
    assert torch.equal(network(spikes).logits, network(spikes).logits)


def test_silence_gives_zero_logits():
    output = make()(torch.zeros(20, 2, 6))
    assert not output.logits.any()
    assert not output.spike_counts[0].any()


def test_activity_loss_by_hand():
    # layer 1: unit means 0 and 4; layer 2: unit means 10
    counts = [torch.tensor([[0.0, 3.0], [0.0, 5.0]]), torch.tensor([[8.0], [12.0]])]
    spec = ActivitySpec(lower_strength=2.0, lower=1.0, upper_strength=0.5, upper=7.0)
    lower = 2.0 * (1.0**2 + 0) / 2
    upper = 0.5 * (10.0 - 7.0) ** 2
    assert float(activity_loss(counts, spec)) == pytest.approx(lower + upper)
    assert float(activity_loss(counts, ActivitySpec())) == 0.0


def test_streams_of_a_seed_are_independent_and_repeatable():
    draws = {
        (seed, stream): torch.rand(3, generator=make_generator(seed, stream)).tolist()
        for seed in (0, 1)
        for stream in ("init", "order", "dropout")
    }
    assert len({tuple(d) for d in draws.values()}) == 6
    assert torch.rand(3, generator=make_generator(0, "init")).tolist() == draws[0, "init"]


def test_deterministic_mode_ends_with_its_block():
    assert not torch.are_deterministic_algorithms_enabled()
    try:
        with deterministic():
            assert torch.are_deterministic_algorithms_enabled()
            raise KeyError
    except KeyError:
        pass
    assert not torch.are_deterministic_algorithms_enabled()


# ---- engines, layouts, recomputation ---------------------------------------------------------------


def gradients_of(
    network: SpikingNetwork, inputs: Tensor | EventBatch, dropout_seed: int | None = None
) -> tuple[Tensor, tuple[Tensor, ...], dict[str, Tensor]]:
    """Logits, spike counts, and gradients of a loss that sees both."""
    network.zero_grad()
    noise = None if dropout_seed is None else generator(dropout_seed)
    output = network(inputs, noise)
    activity = sum((c.square().mean() for c in output.spike_counts), torch.zeros(()))
    (output.logits.square().sum() + 0.1 * activity).backward()
    return (
        output.logits.detach(),
        tuple(c.detach() for c in output.spike_counts),
        {k: p.grad.clone() for k, p in network.named_parameters() if p.grad is not None},
    )


@needs_compiler
@pytest.mark.parametrize("layout", [as_events, lambda counts: counts], ids=["events", "dense"])
def test_engines_agree_on_a_whole_network(layout: Any):
    network = make(hidden=(40, 33), recurrent=True, dropout=0.2, surrogate={"slope": 5.0})
    inputs = layout(random_input(50, 20))
    network.engine = "reference"
    logits, counts, gradients = gradients_of(network, inputs, dropout_seed=4)
    network.engine = "cpp"
    found = gradients_of(network, inputs, dropout_seed=4)
    assert all(c.sum() > 0 for c in counts)
    assert all(map(torch.equal, found[1], counts))  # no tie among these numbers
    assert_near("logits", found[0], logits, 1e-5)
    assert found[2].keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert_near(name, found[2][name], gradient, 1e-4)


@engines
@pytest.mark.parametrize("steps", [1, 7, 30, 1000])
@pytest.mark.parametrize("layout", [as_events, lambda counts: counts], ids=["events", "dense"])
def test_recomputation_changes_nothing_but_memory(steps: int, engine: Any, layout: Any):
    network = make(hidden=(8, 5), recurrent=True, dropout=0.2, surrogate={"slope": 5.0})
    network.engine = engine
    inputs = layout(random_input(30, 5))
    logits, counts, gradients = gradients_of(network, inputs, dropout_seed=2)
    network.recompute_steps = steps
    found = gradients_of(network, inputs, dropout_seed=2)
    assert all(map(torch.equal, found[1], counts))
    if engine == "reference":  # a dense product of other sizes may round in another way
        assert_near("logits", found[0], logits, 1e-5)
    else:
        assert torch.equal(found[0], logits)
    for name, gradient in gradients.items():
        assert_near(name, found[2][name], gradient, 1e-5)


@needs_compiler
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_a_copy_computes_the_same_and_shares_nothing(copied: Any):
    network = make(hidden=(8, 5), recurrent=True)
    network.engine = "cpp"
    inputs = as_events(random_input())
    before, _, gradients = gradients_of(network, inputs)
    twin = copied(network)
    assert twin.engine == "cpp"
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    after, _, twins = gradients_of(twin, inputs)
    assert torch.equal(before, after)
    assert all(torch.equal(twins[k], g) for k, g in gradients.items())


@engines
def test_hooks_see_what_goes_through_a_layer_and_back(engine: Any):
    network = make(hidden=(8, 5), recurrent=True, surrogate={"slope": 5.0})
    network.engine = engine
    seen: dict[str, Any] = {}

    def watch(module: torch.nn.Module, args: Any, result: Any) -> None:
        seen["result"] = result
        result.projected.register_hook(lambda grad: seen.update(grad=grad))

    handle = network.layers[0].register_forward_hook(watch)
    output = network(as_events(random_input()))
    output.logits.sum().backward()
    handle.remove()
    assert torch.equal(seen["result"].counts, output.spike_counts[0])
    assert seen["grad"].shape == seen["result"].projected.shape == (40, 5, 5)
    # what the hook saw is what the weights below were made of
    weight = network.layers[1].weight
    assert isinstance(weight, Tensor)
    assert weight.grad is not None
    spikes = network.hidden_spikes(as_events(random_input()))[0]
    expected = torch.einsum("tbj,tbi->ji", seen["grad"], spikes)
    assert_near("weight", weight.grad, expected, 1e-4)


@needs_compiler
@pytest.mark.parametrize("layout", [as_events, lambda counts: counts], ids=["events", "dense"])
@pytest.mark.parametrize("engine", ["auto", "cpp"])
def test_torch_compile_sees_one_graph_and_gives_the_same(
    layout: Any, engine: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(known_recipes, "_KNOWN", {})  # as if nothing like it had run before
    network = make(hidden=(8, 5), recurrent=True)
    network.engine = engine
    inputs = layout(random_input())
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    found = gradients_of(compiled, inputs)  # type: ignore[arg-type]
    torch._dynamo.reset()
    logits, counts, gradients = gradients_of(network, inputs)
    assert torch.equal(found[0], logits)
    assert all(map(torch.equal, found[1], counts))
    for name, gradient in gradients.items():
        assert_near(name, found[2][f"_orig_mod.{name}"], gradient, 1e-6)


# ---- memory ----------------------------------------------------------------------------------------

ONE_TRAINING_STEP = """
import sys
import torch
from snnbench.data_prep.batch import EventBatch, events_of_steps
from snnbench.models.network import build
from snnbench.model_spec import ModelSpec

torch.set_num_threads(1)
n_steps, n_batch, n_units, n_events, recompute = map(int, sys.argv[1:])
g = torch.Generator().manual_seed(0)
rows = torch.randint(n_batch * n_steps, (n_batch * n_events,), generator=g).bincount(
    minlength=n_batch * n_steps
)
indptr = torch.zeros(len(rows) + 1, dtype=torch.int64)
indptr[1:] = rows.cumsum(0)
# channels ascend within a row
channels = torch.randint(700, (len(rows), int(rows.max())), generator=g).sort(dim=1).values
channels = channels[torch.arange(channels.shape[1]) < rows[:, None]].to(torch.uint16)
labels = torch.arange(n_batch) % 20
events = EventBatch(indptr, channels, labels, labels, n_steps, 700)
spec = ModelSpec(name="test", hidden=(n_units,), recurrent=True, input_gain=12.0)
network = build(spec, 700, 20, 1e-3, g, recompute_steps=recompute or None)
optimiser = torch.optim.Adam(network.parameters())


def train(batch):
    output = network(batch)
    torch.nn.functional.cross_entropy(output.logits, labels).backward()
    optimiser.step()
    return float(output.spike_counts[0].detach().mean()) / batch.n_steps


def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


train(events_of_steps(events, 0, 2))  # loads the kernels, and makes the optimiser's state
whole_process = memory("VmHWM")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = memory("VmRSS")
rate = train(events)
assert all(p.grad.abs().sum() > 0 for p in network.parameters())
print(max(whole_process, memory("VmHWM")), memory("VmHWM") - before, rate)
"""

needs_linux = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's account of memory"
)


def peak_memory_bytes(
    n_steps: int, n_batch: int, n_units: int, n_events: int, recompute_steps: int = 0
) -> tuple[int, int]:
    """Peak of a process that trains one step: of all of it, and what the step added.

    700 inputs with `n_events` events a sample, as many samples as `n_batch`; the process is a new one.
    """
    arguments = (n_steps, n_batch, n_units, n_events, recompute_steps)
    done = subprocess.run(
        [sys.executable, "-c", ONE_TRAINING_STEP, *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    peak, added, rate = done.stdout.split()
    assert 0.005 < float(rate) < 0.2
    return int(peak), int(added)


@needs_compiler
@needs_linux
def test_recomputation_needs_the_memory_of_a_stretch():
    # one sequence of 800 steps, 64 samples and 512 units in float32 has 105 MB, far more than what
    # does not depend on the number of steps
    sequence = 4 * 800 * 64 * 512
    _, whole = peak_memory_bytes(800, 64, 512, 4000)
    _, stretches = peak_memory_bytes(800, 64, 512, 4000, recompute_steps=40)
    assert whole < 3 * sequence  # membranes, and gradients by the drive
    assert stretches < sequence
    assert stretches < whole / 2


@pytest.mark.slow
@needs_compiler
@needs_linux
def test_a_thousand_steps_of_a_wide_network_train_in_four_gib():
    peak, _ = peak_memory_bytes(1000, 256, 1024, 8000, recompute_steps=100)
    assert peak < 4 * 2**30
