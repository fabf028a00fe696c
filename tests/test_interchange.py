"""NIR graphs: there and back the same network, and what a graph says when its equations are integrated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnbench.checkpoint import build_for, load_network, save_network
from snnbench.errors import SnnbenchError, UsageError
from snnbench.interchange import (
    INTEGRATIONS,
    Imported,
    Integration,
    graph_of,
    network_of,
    read_graph,
    write_graph,
)
from snnbench.models.layers import SpikingLayer
from snnbench.models.network import SpikingNetwork
from snnbench.models.network_base import Network
from snnbench.seeding import deterministic
from snnbench.spec import RunSpec
from tests.commands import snnbench, strict_json
from tests.toy_spikes import toy_spec

MODELS: dict[str, dict[str, Any]] = {
    "lif": {"hidden": [7]},
    "two layers": {"hidden": [7, 5]},
    "recurrent": {"hidden": [7, 5], "recurrent": True},
    "one recurrent": {"hidden": [7, 5], "recurrent": [False, True]},
    "no current": {"hidden": [7], "neuron__kind": "lif-delta"},
    "no current, recurrent": {"hidden": [7], "neuron__kind": "lif-delta", "recurrent": True},
    "reset to zero": {"hidden": [7], "recurrent": True, "neuron__reset": "zero"},
    "constants": {"hidden": [7], "neuron__threshold": 0.7, "neuron__tau_mem_s": 0.0123},
    "spike count": {"hidden": [7], "readout__kind": "spike-count", "readout__threshold": 0.3},
    "first spike": {"hidden": [7], "readout__kind": "first-spike", "readout__scale_s": 0.02},
    "mean": {"hidden": [7], "readout__reduce": "mean", "readout__tau_mem_s": 0.05},
}
PER_UNIT = {
    "neuron__tau_mem_s": {"low": 1.2e-2, "high": 5e-2, "learned": True},
    "neuron__threshold": {"low": 0.5, "high": 1.5},
}
models = pytest.mark.parametrize("name", MODELS)
integrations = pytest.mark.parametrize("integration", INTEGRATIONS)


def made(**keys: Any) -> tuple[SpikingNetwork, RunSpec]:
    """A network on 12 inputs and 3 classes that spikes a lot."""
    settings: dict[str, Any] = {"input_gain": 8.0, "recurrent_gain": 2.0, **keys}
    spec = toy_spec("ff-lif", **{f"model__{k}": v for k, v in settings.items()})
    network = build_for(spec, torch.Generator().manual_seed(3))
    assert isinstance(network, SpikingNetwork)
    return network, spec


def there_and_back(path: Path, network: Network, spec: RunSpec, **choices: Any) -> Imported:
    write_graph(path, graph_of(network, spec, **choices))
    return network_of(read_graph(path), path)


def random_input(spec: RunSpec, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.poisson(torch.full((spec.n_steps * 4, 6, spec.n_channels), 0.3), generator=g)


def layers_of(network: SpikingNetwork) -> list[SpikingLayer]:
    return [layer for layer in network.layers if isinstance(layer, SpikingLayer)]


def behaviour(network: Network, inputs: Tensor) -> list[Tensor]:
    with deterministic(), torch.inference_mode():
        return [network(inputs).logits, *network.hidden_spikes(inputs)]


@models
@integrations
def test_there_and_back_is_the_same_network(
    tmp_path: Path, name: str, integration: Integration
) -> None:
    network, spec = made(**MODELS[name])
    back = there_and_back(tmp_path / "net.nir", network, spec, integration=integration)
    assert back.spec == spec
    assert back.assumed == []
    expected = network.state_dict()
    assert back.network.state_dict().keys() == expected.keys()
    for key, tensor in back.network.state_dict().items():
        assert torch.equal(tensor, expected[key]), key
    inputs = random_input(spec)
    ours = behaviour(network, inputs)
    assert all(spikes.sum() > 50 for spikes in ours[1:])
    for found, wanted in zip(behaviour(back.network, inputs), ours, strict=True):
        assert torch.equal(found, wanted)


def test_another_step_changes_nothing(tmp_path: Path) -> None:
    network, spec = made(**MODELS["recurrent"])
    path = tmp_path / "net.nir"
    back = there_and_back(path, network, spec, step_s=1e-4)
    assert read_graph(path).metadata["step_s"] == "0.0001"
    assert back.spec == spec
    for key, tensor in back.network.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[key]), key


@integrations
def test_constants_of_each_unit_come_back_but_for_rounding(
    tmp_path: Path, integration: Integration
) -> None:
    network, spec = made(hidden=[7, 5], **PER_UNIT)
    back = there_and_back(tmp_path / "net.nir", network, spec, integration=integration)
    assert back.spec == spec
    for ours, theirs in zip(layers_of(network), layers_of(back.network), strict=True):
        for name, constant in ours.constants.items():
            torch.testing.assert_close(
                theirs.constants[name], constant, rtol=1e-5, atol=0, msg=name
            )
    inputs = random_input(spec)
    for found, wanted in zip(
        network.hidden_spikes(inputs), back.network.hidden_spikes(inputs), strict=True
    ):
        assert (found != wanted).float().mean() < 1e-3


# ---- what a graph means


def decay(tau: Any, step_s: float, integration: Integration) -> NDArray[np.float64]:
    return 1 - step_s / tau if integration == "euler" else np.exp(-step_s / tau)


def integrate(
    graph: nir.NIRGraph, inputs: NDArray[np.float64], step_s: float, integration: Integration
) -> list[NDArray[np.float64]]:
    """Spikes of every spiking node, (time, unit), by the equations of NIR.

    A step of length h takes tau dy/dt = -y + g x, with x held, to a y + (1 - a) g x, where a is 1 - h / tau
    or exp(-h / tau). The membrane takes the current of before the step. The threshold comes off (or all does)
    in the step after a spike.
    """
    spikes = []
    for _, name in graph.edges:
        node = graph.nodes[name]
        if isinstance(node, nir.Linear):
            inputs = inputs @ node.weight.T.astype(np.float64)
        if not isinstance(node, nir.NIRGraph | nir.LIF | nir.CubaLIF):
            continue
        lif, v = node, None
        if isinstance(node, nir.NIRGraph):
            lif, v = node.nodes["lif"], node.nodes["w_rec"].weight
        found = np.zeros(inputs.shape[:1] + lif.r.shape)
        current, membrane = np.zeros(lif.r.shape), np.zeros(lif.r.shape)
        for n, x in enumerate(inputs):
            found[n] = membrane > lif.v_threshold
            if v is not None:
                x = x + v @ found[n]
            if isinstance(lif, nir.CubaLIF):
                a = decay(lif.tau_syn, step_s, integration)
                heard, current = current, a * current + (1 - a) * lif.w_in * x
            else:
                heard = x
            b = decay(lif.tau if isinstance(lif, nir.LIF) else lif.tau_mem, step_s, integration)
            membrane = b * membrane + (1 - b) * lif.r * heard
            if lif.metadata["reset"] == "subtract":
                membrane = membrane - lif.v_threshold * found[n]
            else:
                membrane = membrane * (1 - found[n])
        spikes.append(found)
        inputs = found
    return spikes


@pytest.mark.parametrize("name", [n for n in MODELS if "spike" not in n])
@integrations
@pytest.mark.parametrize("step_s", [10e-3, 1e-4])
def test_equations_of_the_graph_give_our_spikes(
    tmp_path: Path, name: str, integration: Integration, step_s: float
) -> None:
    network, spec = made(**MODELS[name])
    path = tmp_path / "net.nir"
    write_graph(path, graph_of(network, spec, integration=integration, step_s=step_s))
    inputs = random_input(spec)[:, 0]
    found = integrate(read_graph(path), inputs.numpy().astype(float), step_s, integration)
    ours = network.hidden_spikes(inputs[:, None])
    assert len(found) == len(ours)
    for a, b in zip(found, ours, strict=True):
        assert b.sum() > 10
        np.testing.assert_array_equal(a, b[:, 0].detach().numpy())


def test_nodes_and_constants() -> None:
    network, spec = made(hidden=[7, 5], recurrent=[False, True], neuron__tau_mem_s=0.03)
    exact = graph_of(network, spec, integration="exponential")
    assert {k: type(v).__name__ for k, v in exact.nodes.items()} == {
        "input": "Input",
        "hidden1_afferent": "Linear",
        "hidden1_neurons": "CubaLIF",
        "hidden2_afferent": "Linear",
        "hidden2_neurons": "NIRGraph",
        "readout_afferent": "Linear",
        "readout_neurons": "CubaLI",
        "output": "Output",
    }
    lif = exact.nodes["hidden1_neurons"]
    np.testing.assert_allclose(lif.tau_mem, 0.03, rtol=1e-12)
    euler = graph_of(network, spec).nodes["hidden1_neurons"]
    beta = np.exp(-10e-3 / 0.03)
    np.testing.assert_allclose(euler.tau_mem, 10e-3 / (1 - beta), rtol=1e-12)
    for node in (lif, euler):
        np.testing.assert_allclose(node.r, 1 / (1 - beta), rtol=1e-12)
        assert node.metadata["reset"] == "subtract"
    hidden = graph_of(network, spec, readout=False)
    assert "readout_neurons" not in hidden.nodes
    assert hidden.nodes["output"].output_type["output"].tolist() == [5]


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"neuron__kind": "adlif"}, 'neuron.kind = "adlif"'),
        ({"neuron__kind": "se-adlif"}, 'neuron.kind = "se-adlif"'),
        ({"neuron__refractory_s": 0.02}, "neuron.refractory_s = 0.02"),
        ({"norm": "batch"}, 'norm = "batch"'),
        ({"readout__norm": "batch"}, 'readout.norm = "batch"'),
        ({"delays": {"max_s": 0.05}}, 'delays.kind = "learned"'),
        ({"conv": {"kernels": [3], "strides": [1]}}, "conv"),
    ],
)
def test_what_nir_cannot_say_is_refused_by_name(keys: dict[str, Any], named: str) -> None:
    network, spec = made(hidden=[7], **keys)
    with pytest.raises(SnnbenchError, match="NIR cannot say") as caught:
        graph_of(network, spec)
    assert named in str(caught.value)


def test_hidden_layers_can_go_without_a_readout_that_cannot() -> None:
    network, spec = made(hidden=[7, 5], readout__norm="batch")
    graph = graph_of(network, spec, readout=False)
    assert list(graph.nodes)[-2:] == ["hidden2_neurons", "output"]


def test_a_network_without_spiking_layers_is_refused() -> None:
    spec = toy_spec("lstm")
    with pytest.raises(SnnbenchError, match="kind lstm has no spiking layers"):
        graph_of(build_for(spec, torch.Generator()), spec)


# ---- graphs of others


def foreign(**changes: Any) -> nir.NIRGraph:
    """One LIF layer with recurrence as a cycle in the graph itself, and a CubaLI; no metadata."""
    rng = np.random.default_rng(0)
    ones = np.ones(7, np.float32)
    nodes = {
        "in": nir.Input(np.array([700])),
        "w": nir.Affine(weight=rng.normal(size=(7, 700)).astype(np.float32), bias=0 * ones),
        "lif": nir.LIF(tau=0.02 * ones, r=ones, v_leak=0 * ones, v_threshold=ones),
        "v": nir.Linear(weight=rng.normal(size=(7, 7)).astype(np.float32)),
        "out_w": nir.Linear(weight=rng.normal(size=(20, 7)).astype(np.float32)),
        "li": nir.CubaLI(
            tau_syn=np.full(20, 0.01),
            tau_mem=np.full(20, 0.02),
            r=np.ones(20),
            v_leak=np.zeros(20),
            w_in=np.full(20, 2.0),
        ),
        "out": nir.Output(np.array([20])),
    }
    edges = [
        *(("in", "w"), ("w", "lif"), ("lif", "v"), ("v", "lif")),
        *(("lif", "out_w"), ("out_w", "li"), ("li", "out")),
    ]
    return nir.NIRGraph(nodes=nodes | changes, edges=edges, type_check=False)


def test_a_graph_of_others(tmp_path: Path) -> None:
    graph, path = foreign(), tmp_path / "other.nir"
    nir.write(path, graph)
    found = network_of(read_graph(path), path, task="hd", step_s=1e-3)
    assert found.spec.model.neuron.kind == "lif-delta"  # type: ignore[union-attr]
    assert found.spec.model.neuron.reset == "zero"  # type: ignore[union-attr]
    assert found.spec.train.dt_s == 1e-3
    assert [text.partition(":")[0] for text in found.assumed] == [
        *("integration", "reset", "readout", "surrogate and what else only training knows"),
    ]
    layer = layers_of(found.network)[0]
    # r = 1 and forward Euler: an input moves the membrane by dt / tau
    np.testing.assert_allclose(layer.cell.parameters.beta, 1 - 1e-3 / 0.02, rtol=1e-6)
    np.testing.assert_allclose(layer.weight.detach(), graph.nodes["w"].weight / 20, rtol=1e-6)
    assert layer.recurrent_weight is not None
    np.testing.assert_allclose(
        layer.recurrent_weight.detach(), graph.nodes["v"].weight / 20, rtol=1e-6
    )
    np.testing.assert_allclose(
        found.network.readout.weight.detach(),
        graph.nodes["out_w"].weight * (2 * 0.1) * 0.05,
        rtol=1e-6,
    )


def test_constants_of_others_may_differ_from_unit_to_unit(tmp_path: Path) -> None:
    ones = np.ones(7)
    tau = np.linspace(0.01, 0.05, 7)
    lif = nir.LIF(tau=tau, r=tau / 1e-3, v_leak=0 * ones, v_threshold=ones)
    found = network_of(foreign(lif=lif), tmp_path / "x.nir", task="hd", step_s=1e-3)
    beta = layers_of(found.network)[0].cell.parameters.beta
    np.testing.assert_allclose(beta.detach(), 1 - 1e-3 / tau, rtol=1e-5)


ONES = np.ones(7)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bias": ({"w": nir.Affine(weight=np.ones((7, 700)), bias=ONES)}, "'w' has a bias"),
    "leak": (
        {"lif": nir.LIF(tau=ONES, r=ONES, v_leak=ONES, v_threshold=ONES)},
        "'lif' has v_leak other than 0",
    ),
    "short": (
        {"lif": nir.LIF(tau=1e-4 * ONES, r=ONES, v_leak=0 * ONES, v_threshold=ONES)},
        "'lif' has tau = 0.0001 s, too short",
    ),
    "kind": ({"lif": nir.Threshold(threshold=ONES)}, "'lif' is Threshold"),
    "integrator": (
        {"lif": nir.LI(tau=ONES, r=ONES, v_leak=0 * ONES)},
        "'lif' is LI",
    ),
    "readout": (
        {"li": nir.LIF(tau=ONES[:1], r=ONES[:1], v_leak=0 * ONES[:1], v_threshold=ONES[:1])},
        "a LIF without synaptic current; a readout is",
    ),
    "inputs": (
        {"w": nir.Linear(weight=np.ones((7, 333)))},
        "has 333 inputs; task hd has 700 units",
    ),
    "sizes": ({"out_w": nir.Linear(weight=np.ones((20, 9)))}, "before node 'li' have shape"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_graphs_of_others_that_do_not_fit_are_refused_by_name(what: str) -> None:
    changes, named = REFUSED[what]
    with pytest.raises(SnnbenchError, match=named) as caught:
        network_of(foreign(**changes), Path("x.nir"), task="hd", step_s=1e-3)
    assert "x.nir" in str(caught.value)


def test_a_graph_that_branches_is_refused() -> None:
    graph = foreign(w2=nir.Linear(weight=np.ones((20, 7))))
    graph.edges = [*graph.edges, ("lif", "w2"), ("w2", "li")]
    with pytest.raises(SnnbenchError, match="node 'lif' leads to out_w, w2"):
        network_of(graph, Path("x.nir"), task="hd", step_s=1e-3)


def test_without_metadata_task_and_step_are_asked_for() -> None:
    with pytest.raises(UsageError, match="--task"):
        network_of(foreign(), Path("x.nir"), step_s=1e-3)
    with pytest.raises(UsageError, match="--step-s"):
        network_of(foreign(), Path("x.nir"), task="hd")


@pytest.mark.parametrize("content", [None, b"", b"hello"])
def test_a_file_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.nir"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SnnbenchError, match=r"x\.nir: (no such file|cannot be read)"):
        read_graph(path)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [("step_s", "soon", "step_s = 'soon'"), ("run_spec", "{}", "metadata of another version")],
)
def test_metadata_that_say_nothing_are_named(key: str, value: str, named: str) -> None:
    graph = graph_of(*made(hidden=[7]))
    graph.metadata[key] = value
    with pytest.raises(SnnbenchError, match=named):
        network_of(graph, Path("x.nir"))


# ---- the command line


def test_from_checkpoint_to_graph_to_checkpoint(tmp_path: Path) -> None:
    network, spec = made(**MODELS["recurrent"])
    first, graph, second = (tmp_path / n for n in ("a.safetensors", "a.nir", "b.safetensors"))
    save_network(first, network, spec)
    written = snnbench("export", "nir", first, "--out", graph, "--json")
    assert written.code == 0, written.err
    assert strict_json(written.out)["nodes"]["hidden1_neurons"] == "NIRGraph"
    read = snnbench("import", "nir", graph, "--out", second, "--json")
    assert read.code == 0, read.err
    assert read.err == ""
    assert second.read_bytes() == first.read_bytes()
    assert load_network(second)[1] == spec


def test_refusals_on_the_command_line(tmp_path: Path) -> None:
    network, spec = made(hidden=[7], neuron__kind="adlif")
    save_network(tmp_path / "a.safetensors", network, spec)
    refused = snnbench("export", "nir", tmp_path / "a.safetensors", "--out", tmp_path / "a.nir")
    assert refused.code == 1
    assert 'neuron.kind = "adlif"' in refused.err
    assert not (tmp_path / "a.nir").exists()
    absent = snnbench("import", "nir", tmp_path / "b.nir", "--out", tmp_path / "b.safetensors")
    assert absent.code == 1
    assert "no such file" in absent.err
