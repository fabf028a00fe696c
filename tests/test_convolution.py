"""Convolution over channels: units, weights that they share, and recurrent weights made of a kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from snnbench.checkpoint import build_for
from snnbench.connection_spec import ConvShape, ConvSpec
from snnbench.models.convolution import ChannelConvolution, LocalRecurrence
from snnbench.models.delays import DelayLine
from snnbench.models.layers import SpikingLayer
from snnbench.models.network import SpikingNetwork
from tests.scan_cases import CPU_ENGINES, as_events, assert_near
from tests.toy_spikes import toy_spec

SHAPES = st.builds(
    ConvShape,
    filters_in=st.integers(1, 3),
    positions_in=st.integers(1, 9),
    filters=st.integers(1, 3),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
)
CONV: dict[str, Any] = {"kernels": [5, 3], "strides": [2, 1], "recurrent_kernel": 3}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_weight(shape: ConvShape) -> nn.Parameter:
    size = shape.matrix_size
    return nn.Parameter(torch.randn(size, generator=generator(), dtype=torch.float64))


def build(**changes: Any) -> SpikingNetwork:
    network = build_for(toy_spec(**{"model__hidden": [6, 4], **changes}), generator())
    assert isinstance(network, SpikingNetwork)
    return network


@given(SHAPES)
@settings(deadline=None, max_examples=40)
def test_units_hear_their_neighbourhood_through_shared_weights(shape: ConvShape):
    layer = ChannelConvolution(random_weight(shape), shape)
    n_in = shape.filters_in * shape.positions_in
    spikes = torch.randn(3, 2, n_in, generator=generator(1), dtype=torch.float64)
    maps = spikes.view(3, 2, shape.filters_in, shape.positions_in)
    weight = layer.weight.detach()
    n_synapses = 0
    expected = torch.zeros(3, 2, shape.filters, shape.positions, dtype=torch.float64)
    for f in range(shape.filters):
        for y in range(shape.positions):
            for g in range(shape.filters_in):
                for j in range(shape.kernel):
                    x = y * shape.stride + j - shape.kernel // 2
                    if 0 <= x < shape.positions_in:
                        expected[:, :, f, y] += weight[f, g, j] * maps[:, :, g, x]
                        n_synapses += 1
    torch.testing.assert_close(layer(spikes).detach(), expected.flatten(2))
    assert shape.n_synapses == n_synapses
    assert shape.n_weights == weight.numel()


@given(
    filters=st.integers(1, 3),
    positions=st.integers(1, 8),
    kernel=st.sampled_from([1, 3, 5, 7]),
)
@settings(deadline=None, max_examples=40)
def test_recurrent_weights_are_a_convolution(filters: int, positions: int, kernel: int):
    shape = ConvShape(filters, positions, filters, kernel, 1)
    lateral = LocalRecurrence(random_weight(shape), shape)
    spikes = torch.randn(4, filters * positions, generator=generator(1), dtype=torch.float64)
    upstream = torch.randn(4, filters * positions, generator=generator(2), dtype=torch.float64)

    def by_matrix() -> Tensor:
        return spikes @ lateral.matrix().t()

    def by_convolution() -> Tensor:
        maps = spikes.view(4, filters, positions)
        return functional.conv1d(maps, lateral.kernel, padding=kernel // 2).flatten(1)

    found, expected = by_matrix(), by_convolution()
    torch.testing.assert_close(found.detach(), expected.detach())
    # and the gradient reaches what is shared
    (grad,) = torch.autograd.grad(found, lateral.kernel, upstream)
    (truth,) = torch.autograd.grad(expected, lateral.kernel, upstream)
    torch.testing.assert_close(grad, truth)
    assert int(lateral.matrix().detach().count_nonzero()) == shape.n_synapses


def test_sizes_of_a_published_network():
    # 700 channels through filters 16, 32, 64, kernels 21, 7, 7 and strides 10, 3, 3
    conv = ConvSpec(kernels=(21, 7, 7), strides=(10, 3, 3))
    shapes = conv.shapes(700, (16, 32, 64))
    assert [shape.positions for shape in shapes] == [70, 24, 8]
    assert [shape.n_weights for shape in shapes] == [16 * 21, 32 * 16 * 7, 64 * 32 * 7]


@pytest.mark.parametrize("recurrent_kernel", [None, 3])
def test_layers_are_filters_times_positions(recurrent_kernel: int | None):
    conv = {"kernels": [5, 3], "strides": [2, 1], "recurrent_kernel": recurrent_kernel}
    network = build(model__conv=conv, model__recurrent=True)
    output = network(torch.ones(20, 2, 12))
    assert [tuple(c.shape) for c in output.spike_counts] == [(2, 6 * 6), (2, 4 * 6)]
    for layer, filters in zip(network.layers, (6, 4), strict=True):
        assert isinstance(layer, SpikingLayer)
        assert layer.recurrence is not None
        assert layer.recurrence.shape == (filters * 6, filters * 6)
        plain = layer.recurrent_weight is not None
        assert plain == (recurrent_kernel is None)


def test_initial_weights_have_the_scale_of_their_fan_in():
    narrow, wide = (
        build(
            model__hidden=[300],
            model__conv={"kernels": [k], "strides": [1], "recurrent_kernel": 3},
            model__recurrent=True,
        ).layers[0]
        for k in (2, 8)
    )
    assert isinstance(narrow, SpikingLayer)
    assert isinstance(wide, SpikingLayer)
    assert narrow.afferent is not None
    assert wide.afferent is not None
    ratio = narrow.afferent.weight.abs().max() / wide.afferent.weight.abs().max()
    assert float(ratio.detach()) == pytest.approx(2.0, rel=0.02)


def test_plain_layers_with_delays_stand_above_a_convolution():
    network = build(
        model__hidden=[3, 5, 4],
        model__conv={"kernels": [5], "strides": [2]},
        model__delays={"kind": "fixed", "taps_s": [0.0, 0.02], "where": "hidden"},
        model__recurrent=[False, True, False],
    )
    layers = [layer for layer in network.layers if isinstance(layer, SpikingLayer)]
    assert [type(layer.afferent) for layer in layers] == [ChannelConvolution, DelayLine, DelayLine]
    assert [(layer.n_in, layer.n_units) for layer in layers] == [(12, 18), (18, 5), (5, 4)]
    assert [layer.recurrence is not None for layer in layers] == [False, True, False]
    names = {name for name, _ in network.named_parameters()}
    assert {n for n in names if "recurrent" in n} == {"layers.1.recurrent_weight"}


NETWORKS: dict[str, dict[str, Any]] = {
    "local": {"model__conv": CONV},
    "in stretches": {"model__conv": CONV, "train__recompute_steps": 7},
    "below a delay line": {
        "model__conv": {"kernels": [5], "strides": [2]},
        "model__delays": {"kind": "fixed", "taps_s": [0.0, 0.02], "where": "hidden"},
    },
}


@pytest.mark.parametrize("engine", [e for e in CPU_ENGINES if e != "reference"])
@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS.keys())
def test_engines_agree_on_a_convolutional_network(engine: Any, changes: dict[str, Any]):
    network = build(model__recurrent=True, model__input_gain=8.0, **changes)
    spikes = torch.poisson(torch.full((20, 5, 12), 0.4), generator=generator(3))
    found: dict[str, Any] = {}
    runs: list[tuple[Any, Any]] = [("reference", spikes), (engine, as_events(spikes))]
    for name, inputs in runs:
        network.engine = name
        network.zero_grad()
        output = network(inputs)
        functional.cross_entropy(output.logits, torch.arange(5) % 3).backward()
        grads = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
        found[name] = output, grads
    (truth, gradients), (output, others) = found["reference"], found[engine]
    assert all(float(counts.detach().sum()) > 20 for counts in truth.spike_counts)
    assert gradients.keys() == dict(network.named_parameters()).keys()
    for one, two in zip(truth.spike_counts, output.spike_counts, strict=True):
        assert torch.equal(one, two)
    for name, gradient in gradients.items():
        assert_near(name, others[name], gradient, 1e-4)
