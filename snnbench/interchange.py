"""Networks in NIR, the Neuromorphic Intermediate Representation, and back.

NIR says what a neuron is in continuous time:

    tau_syn dI/dt = -I + w_in X          tau_mem dU/dt = -U + r I          (LIF without I: r X)

and leaves the step to whoever runs it. Our update in bins of dt,

    I[n + 1] = alpha I[n] + D[n]         U[n + 1] = beta U[n] + I[n] - theta S[n]

is what an integrator makes of these equations with steps of dt and r = 1 / (1 - beta), w_in = 1 / (1 -
alpha), where the time constants depend on how it integrates:

    euler         forward Euler, decay 1 - dt / tau       tau = dt / (1 - decay)
    exponential   decay exp(-dt / tau)                    tau = -dt / ln(decay), the model's own

So r and w_in are the same for both, and weights stay as they are. docs/interchange.md tells what NIR cannot
say: it goes into the metadata of graph and nodes.

Pedersen et al. (2024), "Neuromorphic intermediate representation: A unified instruction set for interoperable
brain-inspired computing", Nature Communications 15:8122.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from snnbench import __version__
from snnbench.checkpoint import build_for
from snnbench.errors import SnnbenchError, UsageError
from snnbench.model_spec import (
    LifDeltaSpec,
    LifSpec,
    ModelSpec,
    PerUnit,
    PositivePerUnit,
    ReadoutSpec,
    SpikingReadoutSpec,
)
from snnbench.models.constants import UnitConstant
from snnbench.models.layers import SpikingLayer
from snnbench.models.network import SpikingNetwork
from snnbench.models.network_base import Network
from snnbench.models.readout import LeakyReadout, SpikingReadout
from snnbench.paths import whole_file
from snnbench.spec import RunSpec, TrainSpec, load_task
from snnbench.spec_base import describe_validation_error

if TYPE_CHECKING:
    import nir

Integration = Literal["euler", "exponential"]
INTEGRATIONS: tuple[Integration, ...] = get_args(Integration)
Floats = NDArray[np.float64]

_Part = SpikingLayer | LeakyReadout | SpikingReadout
_NEURONS = ("LIF", "CubaLIF", "CubaLI")
_WEIGHTS = ("Linear", "Affine")
_SAME = 1e-6  # relative: constants of a file in float32 are no nearer to what they were


# ---- out


def graph_of(
    network: Network,
    spec: RunSpec,
    *,
    integration: Integration = "euler",
    step_s: float | None = None,
    readout: bool = True,
) -> nir.NIRGraph:
    """A network as a NIR graph.

    Parameters
    ----------
    network, spec
        As in a checkpoint.
    integration
        How whoever reads the graph will integrate.
    step_s
        Its step; by default the bin width. With another one, time runs faster or slower there, and the
        steps are the same.
    readout
        Whether the readout is part of the graph; without, its output are the last hidden layer's spikes.

    Raises
    ------
    SnnbenchError
        Something in the network that NIR cannot say; the message names it. Or no `nir` package.
    """
    nir = _nir()
    if not isinstance(spec.model, ModelSpec) or not isinstance(network, SpikingNetwork):
        raise SnnbenchError(
            f"model {spec.model.name}: kind {spec.model.kind} has no spiking layers"
        )
    if refused := not_in_nir(spec.model, readout=readout):
        raise SnnbenchError(
            f"model {spec.model.name}: NIR cannot say {', '.join(refused)}; LIF neurons with plain weights,"
            " recurrent or not, can be exported"
        )
    step_s = step_s or spec.train.dt_s
    nodes: dict[str, Any] = {"input": nir.Input(input_type=np.array([spec.n_channels]))}
    edges: list[tuple[str, str]] = []
    last = "input"

    def follow(name: str, node: Any) -> None:
        nonlocal last
        nodes[name] = node
        edges.append((last, name))
        last = name

    for name, module in _parts(network):
        if name == "readout" and not readout:
            break
        # a file has its nodes in alphabetical order, in which nirtorch 2.6 needs those of a layer
        follow(f"{name}_afferent", nir.Linear(weight=_array(module.weight)))
        neuron = _neuron_node(module, step_s, integration)
        recurrent = module.recurrence if isinstance(module, SpikingLayer) else None
        if recurrent is not None:
            neuron = _with_recurrence(neuron, _array(recurrent))
        follow(f"{name}_neurons", neuron)
    nodes["output"] = nir.Output(output_type=nodes[last].output_type["output"])
    edges.append((last, "output"))
    metadata = {
        "written_by": f"snnbench {__version__}",
        "step_s": repr(step_s),
        "integration": integration,
        "run_spec": spec.canonical_json(),
    }
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata)


def write_graph(path: Path, graph: nir.NIRGraph) -> None:
    """Write a graph to a file, whole or not at all."""
    with whole_file(path) as temporary:
        _nir().write(temporary, graph)


def not_in_nir(model: ModelSpec, *, readout: bool) -> list[str]:
    """What a model, with or without its readout, has that NIR cannot say: keys of its spec with values."""
    neuron, found = model.neuron, []
    if not isinstance(neuron, LifSpec | LifDeltaSpec):
        found.append(f'neuron.kind = "{neuron.kind}"')
    elif isinstance(neuron, LifSpec) and neuron.refractory_s:
        found.append(f"neuron.refractory_s = {neuron.refractory_s}")
    if model.norm != "none":
        found.append(f'norm = "{model.norm}"')
    if readout and isinstance(model.readout, ReadoutSpec) and model.readout.norm != "none":
        found.append(f'readout.norm = "{model.readout.norm}" (--no-readout leaves the readout out)')
    if model.delays is not None:
        found.append(f'delays.kind = "{model.delays.kind}"')
    if model.conv is not None:
        found.append("conv")
    return found


def _neuron_node(
    module: SpikingLayer | LeakyReadout | SpikingReadout, step_s: float, integration: Integration
) -> nir.NIRNode:
    """The neurons of a layer or readout; every constant of shape (unit,)."""
    nir, n_units, p = _nir(), module.weight.shape[0], module.cell.parameters
    constants = {name: _per_unit(value, n_units) for name, value in p._asdict().items()}
    beta, zeros = constants["beta"], np.zeros(n_units)
    tau_mem, r = _tau(beta, step_s, integration), 1 / (1 - beta)
    common: dict[str, Any] = {"r": r, "v_leak": zeros}
    if "threshold" in constants:
        common |= {"v_threshold": constants["threshold"], "v_reset": zeros}
        common["metadata"] = {"reset": module.cell.reset}
    if "alpha" not in constants:
        return nir.LIF(tau=tau_mem, **common)
    alpha = constants["alpha"]
    kind = nir.CubaLIF if "threshold" in constants else nir.CubaLI
    return kind(
        tau_syn=_tau(alpha, step_s, integration), tau_mem=tau_mem, w_in=1 / (1 - alpha), **common
    )


def _with_recurrence(neuron: Any, weight: NDArray[np.float32]) -> nir.NIRGraph:
    """A layer whose units hear each other, as a graph of its own."""
    nir = _nir()
    return nir.NIRGraph(
        nodes={
            "input": nir.Input(input_type=neuron.input_type["input"]),
            "lif": neuron,
            "w_rec": nir.Linear(weight=weight),
            "output": nir.Output(output_type=neuron.output_type["output"]),
        },
        edges=[("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
    )


# ---- in


@dataclass(frozen=True)
class _Layer:
    """Neurons of a graph in our terms."""

    name: str
    kind: str
    """Of the NIR node."""
    weight: NDArray[np.float32]
    recurrent: NDArray[np.float32] | None
    constants: dict[str, Floats]
    """By their names in a spec, each of shape (unit,)."""
    reset: str | None
    """None where the graph says nothing but v_reset = 0."""


class Imported(NamedTuple):
    """A network that came from a graph."""

    network: SpikingNetwork
    spec: RunSpec
    assumed: list[str]
    """What the graph did not say, and what was taken for it, in words."""


def read_graph(path: Path) -> nir.NIRGraph:
    """The graph in a file.

    Raises
    ------
    SnnbenchError
        No such file, or not one of NIR.
    """
    nir = _nir()
    if not path.is_file():
        raise SnnbenchError(f"{path}: no such file")
    try:
        return nir.read(path)
    except Exception as error:  # h5py and nir raise nearly anything on a file that is not theirs
        raise SnnbenchError(f"{path}: cannot be read as a NIR graph: {error}") from None


def network_of(
    graph: nir.NIRGraph,
    path: Path,
    *,
    task: str | None = None,
    step_s: float | None = None,
    integration: Integration | None = None,
) -> Imported:
    """The network that a graph describes.

    Parameters
    ----------
    graph, path
        A graph, and the file that errors name.
    task
        The task it is for; needed where the graph was not written by snnbench.
    step_s
        Step that the graph's constants are meant for, likewise; it becomes the bin width.
    integration
        How whoever wrote the graph integrates; by default what its metadata says, else euler.

    Raises
    ------
    SnnbenchError
        Something in the graph that no network here can do, or sizes that are not the task's.
    UsageError
        No task or no step.
    """
    told = {k: v for k, v in graph.metadata.items() if isinstance(v, str)}
    base = _base_spec(told, path)
    assumed = []
    if step_s is None and "step_s" in told:
        step_s = _positive(told["step_s"], path)
    if integration is None:
        integration = "exponential" if told.get("integration") == "exponential" else "euler"
        if "integration" not in told:
            assumed.append("integration: euler")
    if step_s is None or (base is None and task is None):
        raise UsageError(
            f"{path}: was not written by snnbench, so it does not tell what it is for; give --task and"
            " --step-s, the time step in s that its constants are meant for"
        )
    try:
        layers = list(_layers(graph, path, step_s, integration))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        # nir takes whatever a file has in the place of numbers
        raise SnnbenchError(f"{path}: a node holds what it cannot: {error}") from None
    if len(layers) < 2 or any(layer.kind == "CubaLI" for layer in layers[:-1]):
        raise SnnbenchError(
            f"{path}: {' -> '.join(layer.kind for layer in layers)} is not a network here: spiking layers"
            " and a readout are needed, CubaLI or CubaLIF the last node, CubaLI there only"
        )
    dt_s = base.train.dt_s if base else step_s
    model = _model_spec(layers, base, dt_s, path, assumed)
    spec = _run_spec(model, base, task, dt_s, layers[0].weight.shape[1], path)
    network = build_for(spec, torch.Generator())
    assert isinstance(network, SpikingNetwork)
    _check_sizes(network, layers, path)
    _fill(network, layers)
    return Imported(network, spec, assumed)


def _positive(text: str, path: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise SnnbenchError(
            f"{path}: metadata step_s = {text!r} is no time step in s; give one with --step-s"
        )
    return value


def _base_spec(told: dict[str, str], path: Path) -> RunSpec | None:
    if "run_spec" not in told:
        return None
    try:
        return RunSpec.model_validate_json(told["run_spec"])
    except ValidationError as error:
        problem = describe_validation_error(RunSpec, error, "run_spec")
        raise SnnbenchError(f"{path}: metadata of another version: {problem}") from None


def _layers(
    graph: nir.NIRGraph, path: Path, step_s: float, integration: Integration
) -> Iterable[_Layer]:
    """Weights and neurons from input to output."""
    weight: NDArray[np.float32] | None = None
    for name, node, recurrent in _chain(graph, path):
        kind = type(node).__name__
        if kind in _WEIGHTS and weight is None:
            weight = _weight(name, node, path)
        elif kind in _NEURONS and weight is not None:
            yield _layer(name, node, weight, recurrent, path, step_s, integration)
            weight = None
        else:
            raise SnnbenchError(
                f"{path}: node {name!r} is {kind}; weights (Linear) and neurons ({', '.join(_NEURONS)})"
                " in turn are what can be imported"
            )


def _chain(
    graph: nir.NIRGraph, path: Path
) -> Iterable[tuple[str, Any, NDArray[np.float32] | None]]:
    """Nodes from after the input to before the output, with the recurrent weights of each."""
    edges = {(str(a), str(b)) for a, b in graph.edges}
    by_kind: dict[str, list[str]] = {"Input": [], "Output": []}
    for name, node in graph.nodes.items():
        by_kind.setdefault(type(node).__name__, []).append(name)
    if len(by_kind["Input"]) != 1 or len(by_kind["Output"]) != 1:
        raise SnnbenchError(
            f"{path}: {len(by_kind['Input'])} inputs and {len(by_kind['Output'])} outputs; one of each"
            " is needed"
        )
    loops = {
        b: a
        for a, b in edges
        if (b, a) in edges and type(graph.nodes[a]).__name__ in _WEIGHTS and a != b
    }
    edges -= {pair for b, a in loops.items() for pair in ((a, b), (b, a))}
    here, seen = by_kind["Input"][0], 0
    while True:
        onward = [b for a, b in edges if a == here]
        if len(onward) != 1:
            raise SnnbenchError(
                f"{path}: node {here!r} leads to {', '.join(sorted(onward)) or 'nothing'}; a chain of"
                " layers is needed, recurrence apart"
            )
        here, seen = onward[0], seen + 1
        if here == by_kind["Output"][0]:
            return
        if seen > len(graph.nodes):
            raise SnnbenchError(f"{path}: node {here!r} comes back to itself through other layers")
        node, recurrent = graph.nodes[here], None
        if type(node).__name__ == "NIRGraph":
            inner = list(_chain(node, path))
            if len(inner) != 1:
                raise SnnbenchError(
                    f"{path}: node {here!r} is a graph of {len(inner)} layers; neurons with recurrent"
                    " weights are what it may hold"
                )
            yield here, inner[0][1], inner[0][2]
            continue
        if here in loops:
            recurrent = _weight(loops[here], graph.nodes[loops[here]], path)
        yield here, node, recurrent


def _weight(name: str, node: Any, path: Path) -> NDArray[np.float32]:
    if type(node).__name__ == "Affine" and np.any(node.bias):
        raise SnnbenchError(f"{path}: node {name!r} has a bias; layers here have none")
    if np.ndim(node.weight) != 2:
        raise SnnbenchError(f"{path}: node {name!r} has weights of shape {np.shape(node.weight)}")
    return np.asarray(node.weight, np.float32)


def _layer(
    name: str,
    node: Any,
    weight: NDArray[np.float32],
    recurrent: NDArray[np.float32] | None,
    path: Path,
    step_s: float,
    integration: Integration,
) -> _Layer:
    kind, n_units = type(node).__name__, len(weight)

    def constant(key: str) -> Floats:
        value = np.asarray(getattr(node, key), np.float64)
        if value.size not in (1, n_units):
            raise SnnbenchError(
                f"{path}: node {name!r} has {value.size} values of {key} for {n_units} units"
            )
        return np.broadcast_to(value.reshape(-1), (n_units,))

    def decay_of(key: str) -> Floats:
        tau = constant(key)
        if np.any(tau <= (step_s if integration == "euler" else 0)):
            raise SnnbenchError(
                f"{path}: node {name!r} has {key} = {tau.min():.6g} s, too short for {integration} steps"
                f" of {step_s:g} s"
            )
        return 1 - step_s / tau if integration == "euler" else np.exp(-step_s / tau)

    for key in ("v_leak", "v_reset"):
        if np.any(getattr(node, key, 0)):
            raise SnnbenchError(
                f"{path}: node {name!r} has {key} other than 0; neurons here rest at 0"
            )
    beta = decay_of("tau" if kind == "LIF" else "tau_mem")
    constants, factor = {"beta": beta}, constant("r") * (1 - beta)
    if kind != "LIF":
        constants["alpha"] = decay_of("tau_syn")
        factor = factor * constant("w_in") * (1 - constants["alpha"])
    if kind != "CubaLI":
        constants["threshold"] = constant("v_threshold")
    if recurrent is not None and recurrent.shape != (n_units, n_units):
        raise SnnbenchError(
            f"{path}: node {name!r} has recurrent weights of shape {recurrent.shape} for {n_units} units"
        )
    scaled = [None if w is None else _scaled(w, factor) for w in (weight, recurrent)]
    assert scaled[0] is not None
    reset = node.metadata.get("reset")
    if not isinstance(reset, str | None):
        raise SnnbenchError(f"{path}: node {name!r} has metadata reset = {reset!r}")
    return _Layer(name, kind, scaled[0], scaled[1], constants, reset)


def _scaled(weight: NDArray[np.float32], factor: Floats) -> NDArray[np.float32]:
    """Weights with what an input is multiplied by on its way to the membrane."""
    # where this is 1 but for rounding, a product would change nothing but last bits
    if np.allclose(factor, 1, rtol=_SAME, atol=0):
        return weight
    return (weight * factor[:, None]).astype(np.float32)


def _model_spec(
    layers: list[_Layer], base: RunSpec | None, dt_s: float, path: Path, assumed: list[str]
) -> ModelSpec:
    given = base.model if base is not None and isinstance(base.model, ModelSpec) else None
    hidden, last = layers[:-1], layers[-1]
    kinds = {layer.kind for layer in hidden}
    if len(kinds) > 1:
        raise SnnbenchError(
            f"{path}: hidden layers are {' and '.join(sorted(kinds))}; take one kind"
        )
    resets = {layer.reset for layer in hidden}
    if len(resets) > 1:
        raise SnnbenchError(f"{path}: hidden layers differ in how they reset; one way is needed")
    reset = resets.pop()
    if reset is None:
        reset = "zero"
        assumed.append("reset: to zero, one step after the spike")
    kind = "lif-delta" if kinds == {"LIF"} else "lif"
    before: Any = given.neuron if given is not None and given.neuron.kind == kind else None
    neuron: dict[str, Any] = {} if before is None else before.model_dump()
    neuron |= {"kind": kind, "reset": reset}
    for name in ("tau_mem_s", "tau_syn_s", "threshold"):
        if kind == "lif-delta" and name == "tau_syn_s":
            continue
        values = np.concatenate([_in_spec(layer, name, dt_s) for layer in hidden])
        neuron[name] = _constant(values, getattr(before, name, None))
    recurrent = tuple(layer.recurrent is not None for layer in hidden)
    tree = {"name": path.stem} if given is None else given.model_dump()
    tree |= {
        "hidden": tuple(len(layer.weight) for layer in hidden),
        "recurrent": recurrent[0] if len(set(recurrent)) == 1 else recurrent,
        "neuron": neuron,
        "readout": _readout_spec(last, given, dt_s, path, assumed),
    }
    if given is None:
        assumed.append("surrogate and what else only training knows: defaults")
    try:
        return ModelSpec.model_validate(tree)
    except ValidationError as error:
        raise SnnbenchError(describe_validation_error(ModelSpec, error, str(path))) from None


def _readout_spec(
    last: _Layer, given: ModelSpec | None, dt_s: float, path: Path, assumed: list[str]
) -> dict[str, Any]:
    if last.kind == "LIF":
        raise SnnbenchError(
            f"{path}: node {last.name!r} is the last one and a LIF without synaptic current; a readout is"
            " CubaLI or CubaLIF. If its spikes are the output, add a readout and train it"
        )
    if last.recurrent is not None:
        raise SnnbenchError(f"{path}: node {last.name!r} is the readout and has recurrent weights")
    family = ReadoutSpec if last.kind == "CubaLI" else SpikingReadoutSpec
    before: Any = given.readout if given is not None and isinstance(given.readout, family) else None
    readout: dict[str, Any] = {} if before is None else before.model_dump()
    if before is None:
        readout["kind"] = "leaky" if last.kind == "CubaLI" else "spike-count"
        what = "the maximum of a membrane" if last.kind == "CubaLI" else "the number of spikes"
        assumed.append(f"readout: {what}")
    names = ("tau_mem_s", "tau_syn_s") + (("threshold",) if last.kind == "CubaLIF" else ())
    for name in names:
        value = _constant(_in_spec(last, name, dt_s), getattr(before, name, None))
        if isinstance(value, PerUnit):
            raise SnnbenchError(f"{path}: node {last.name!r}: {name} differs from class to class")
        readout[name] = value
    return readout


def _in_spec(layer: _Layer, name: str, dt_s: float) -> Floats:
    """A constant of a layer as a spec has it: decays as time constants."""
    if name == "threshold":
        return layer.constants["threshold"]
    return _tau(layer.constants["beta" if name == "tau_mem_s" else "alpha"], dt_s, "exponential")


def _constant(values: Floats, given: float | PerUnit | None) -> float | PerUnit:
    """One number, or a range in which all values lie; `given` where it fits."""
    low, high = float(values.min()), float(values.max())
    if isinstance(given, PerUnit):
        if given.low * (1 - _SAME) <= low and high <= given.high * (1 + _SAME):
            return given
    elif given is not None and np.allclose(values, given, rtol=_SAME, atol=0):
        return given
    if math.isclose(low, high, rel_tol=_SAME):
        return float(f"{values.mean():.10g}")
    return PositivePerUnit(low=low * (1 - 1e-3), high=high * (1 + 1e-3), draw="middle")


def _run_spec(
    model: ModelSpec, base: RunSpec | None, task: str | None, dt_s: float, n_inputs: int, path: Path
) -> RunSpec:
    chosen = load_task(task) if task is not None else None
    if base is not None and (chosen is None or chosen == base.task):
        tree = base.model_dump() | {"model": model}
    else:
        assert chosen is not None
        together = max(1, round(chosen.n_units / n_inputs))
        train = TrainSpec(dt_s=dt_s, units_per_channel=together)
        tree = {"task": chosen, "model": model, "train": train, "seed": 0, "data_fingerprint": ""}
    try:
        spec = RunSpec.model_validate(tree)
    except ValidationError as error:
        raise SnnbenchError(describe_validation_error(RunSpec, error, str(path))) from None
    if spec.n_channels != n_inputs:
        raise SnnbenchError(
            f"{path}: has {n_inputs} inputs; task {spec.task.name} has {spec.task.n_units} units, and no"
            " number of neighbours summed makes these"
        )
    return spec


def _check_sizes(network: SpikingNetwork, layers: list[_Layer], path: Path) -> None:
    for (_, module), layer in zip(_parts(network), layers, strict=True):
        asked, found = tuple(module.weight.shape), layer.weight.shape
        if asked != found:
            raise SnnbenchError(
                f"{path}: weights before node {layer.name!r} have shape {found}; (units, inputs) ="
                f" {asked} is needed"
            )


@torch.no_grad()
def _fill(network: SpikingNetwork, layers: list[_Layer]) -> None:
    for (_, module), layer in zip(_parts(network), layers, strict=True):
        module.weight.copy_(torch.from_numpy(layer.weight))
        if not isinstance(module, SpikingLayer):
            continue
        if module.recurrent_weight is not None and layer.recurrent is not None:
            module.recurrent_weight.copy_(torch.from_numpy(layer.recurrent))
        for name, constant in module.per_unit.items():
            assert isinstance(constant, UnitConstant)
            constant.take(torch.from_numpy(_in_spec(layer, name, module.dt_s).copy()))


# ---- both


def _parts(
    network: SpikingNetwork,
) -> list[tuple[str, SpikingLayer | LeakyReadout | SpikingReadout]]:
    kinds = (SpikingLayer, LeakyReadout, SpikingReadout)
    return [(name, module) for name, module in network.parts if isinstance(module, kinds)]


def _tau(decay: Floats, step_s: float, integration: Integration) -> Floats:
    return step_s / (1 - decay) if integration == "euler" else -step_s / np.log(decay)


def _per_unit(value: Any, n_units: int) -> Floats:
    found = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    return np.array(np.broadcast_to(np.asarray(found, np.float64), (n_units,)))


def _array(weight: torch.Tensor) -> NDArray[np.float32]:
    return weight.detach().cpu().numpy().astype(np.float32)


def _nir() -> Any:
    try:
        import nir
    except ImportError:
        raise SnnbenchError("NIR needs the package nir: pip install 'snnbench[nir]'") from None
    return nir
