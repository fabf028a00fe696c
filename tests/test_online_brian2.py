"""An independent witness of online learning: Brian2 runs neurons, traces and rule of the same layer.

`tests.superspike_brian` says how Brian2's slots become our order of operations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from snnbench.models.online.engine import CpuEngine
from snnbench.models.online.rules import SUPERSPIKE
from snnbench.models.superspike import Learner
from tests.brian import import_brian2
from tests.superspike_brian import layer_in_brian
from tests.superspike_reference import ReferenceConstants

# Brian2 calls pyparsing by names that pyparsing means to drop
pytestmark = pytest.mark.filterwarnings("ignore:.* deprecated(,| -) use:DeprecationWarning")

N_INPUTS, N_UNITS, BLOCKS, DT_S = 20, 3, 4, 1e-4


@pytest.fixture(scope="module")
def brian() -> Any:
    return import_brian2()


def test_brian2_finds_the_same_spikes_traces_errors_and_weights(brian: Any):
    g = np.random.default_rng(3)
    steps = BLOCKS * 5000
    inputs = g.random((steps, N_INPUTS)) < 20 * DT_S
    targets = g.random((steps, N_UNITS)) < 10 * DT_S
    weights = g.normal(10, 20, (N_UNITS, N_INPUTS))

    layer = layer_in_brian(brian, weights, inputs, targets, ReferenceConstants())
    # from before the first step on, which is what plasticity of each step sees
    seen: dict[str, Any] = {"record": True, "when": "start"}
    traces = brian.StateMonitor(layer.inputs, "p", **seen)
    errors = brian.StateMonitor(layer.units, "error", **seen)
    membranes = brian.StateMonitor(layer.units, "u", record=True, when="end")
    layer.network.add(traces, errors, membranes)
    # a step more: Brian2 changes weights where the next block begins
    layer.network.run((steps + 1) * DT_S * brian.second, namespace={})
    spikes = np.zeros((steps + 1, N_UNITS), np.uint8)
    spikes[np.round(layer.spikes.t / brian.second / DT_S).astype(int), layer.spikes.i] = 1

    ours = Learner([torch.from_numpy(weights.copy())[None]])
    sent, wanted = (torch.from_numpy(x.astype(np.uint8))[:, None] for x in (inputs, targets))
    for block, (x, y) in enumerate(zip(sent.split(5000), wanted.split(5000), strict=True)):
        found = ours.run(x, y)
        now = slice(block * 5000, (block + 1) * 5000)
        assert found.spikes[0].any(0).all()
        np.testing.assert_array_equal(found.spikes[0][:, 0].numpy(), spikes[now])
        for a, b in ((found.membranes[0], membranes.u), (found.errors[0], errors.error)):
            np.testing.assert_allclose(a[:, 0].numpy(), b.T[now], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.weights[0][0].numpy(), layer.weights(), rtol=0, atol=1e-9)
    assert np.abs(layer.weights() - weights).max() > 1

    delay = ours.settings.neuron.delay_steps
    p = torch.empty(steps, 1, N_INPUTS, dtype=torch.float64)
    # Brian2's is the trace of spikes that arrived, as it was `delay` ago
    late = torch.nn.functional.pad(sent, (0, 0, 0, 0, 2 * delay, 0))[:steps].contiguous()
    CpuEngine().trace(late, p.new_zeros(2, 1, N_INPUTS), p, SUPERSPIKE.pre, DT_S, 0.0)
    np.testing.assert_allclose(p[:, 0].numpy(), traces.p.T[:steps], rtol=0, atol=1e-9)
