"""Layers with random sizes, weights and inputs, run through an engine of the scan and compared.

For the tests of what must not depend on the engine: `run_case` gives spikes, membranes, last state and
gradients of any of them, and `assert_agree` holds one engine's to another's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Tensor

from snnbench.data_prep.batch import EventBatch
from snnbench.models.compiler import compiler
from snnbench.models.neuron import Neuron, ResetMode
from snnbench.models.neurons.adlif import ADLIF
from snnbench.models.neurons.leaky import LEAKY
from snnbench.models.neurons.lif import LIF
from snnbench.models.neurons.lif_delta import LIF_DELTA
from snnbench.models.neurons.lif_refractory import LIF_REFRACTORY
from snnbench.models.neurons.se_adlif import SE_ADLIF
from snnbench.models.scan import scan
from snnbench.models.scan_types import Cell, ScanResult
from snnbench.models.surrogate import Surrogate, derivative

NEURONS: dict[str, Neuron] = {
    n.kind: n for n in (LIF, LIF_DELTA, LIF_REFRACTORY, ADLIF, SE_ADLIF, LEAKY)
}
RESETS: tuple[ResetMode, ...] = ("subtract", "zero")

needs_compiler = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")
CPU_ENGINES = ("reference", pytest.param("cpp", marks=needs_compiler))

TIE = 1e-4
"""Distance from the threshold, relative to the largest membrane, at which float32 may decide either way."""

_WEIGHTS = ("inputs", "weight", "recurrent", "outgoing")
_RANGES = {
    "alpha": (0.3, 0.9),
    "beta": (0.5, 0.95),
    "a": (-0.1, 0.2),
    "b": (0.0, 0.3),
    "q": (2.0, 6.0),
    "period": (0.5, 4.0),
    "threshold": (0.5, 1.0),
}


def surrogate(kind: str = "superspike", slope: float = 10.0, peak: float = 1.0) -> Surrogate:
    """A surrogate by name."""
    return Surrogate(kind, derivative(kind, peak), slope)


class Options(NamedTuple):
    """What kernels are compiled for."""

    kind: str
    reset: ResetMode = "subtract"
    through: bool = False
    surrogate: str = "superspike"
    learned: Literal["none", "first", "all"] = "none"
    """Constants of the neuron that want a gradient."""
    dtype: Literal["float32", "float64"] = "float32"


@dataclass(frozen=True)
class Shape:
    """Sizes of a layer and its input."""

    steps: int
    batch: int
    inputs: int
    units: int


@dataclass(frozen=True)
class Case:
    """Everything that goes into a scan."""

    cell: Cell
    inputs: Tensor | EventBatch
    weight: Tensor | None
    recurrent: Tensor | None
    outgoing: Tensor | None = None
    state: Any = None
    gate: Tensor | None = None

    @property
    def spiking(self) -> bool:
        """Whether the neuron ever spikes."""
        return self.cell.neuron.distance is not None

    def leaves(self) -> dict[str, Tensor]:
        """What wants a gradient, by name."""
        named = {k: getattr(self, k) for k in _WEIGHTS}
        named |= {f"constant {k}": p for k, p in self.cell.parameters._asdict().items()}
        first = {} if self.state is None else self.state._asdict()
        named |= {f"first {k}": s for k, s in first.items()}
        return {k: t for k, t in named.items() if isinstance(t, Tensor) and t.requires_grad}


@dataclass(frozen=True)
class Asked:
    """What a scan is asked to return."""

    spikes: bool = True
    membranes: bool = True
    peaks: bool = True


EVERYTHING = Asked()


@dataclass(frozen=True)
class Outcome:
    """What one engine made of a case."""

    outputs: dict[str, Tensor]
    gradients: dict[str, Tensor]


def make_case(
    options: Options,
    shape: Shape,
    seed: int,
    *,
    layout: Literal["events", "spikes", "drive"] = "events",
    density: float = 0.2,
    recurrent: bool = True,
    n_outgoing: int = 0,
    gated: bool = False,
    first_state: bool = False,
    slope: float = 10.0,
    frozen: frozenset[str] = frozenset(),
) -> Case:
    """A random case: the same one for the same arguments.

    Parameters
    ----------
    layout
        Of the input; all of them are the same spikes.
    density
        Mean number of spikes in a place (step, sample, channel) of the input; places may hold several.
    n_outgoing
        Units of a next layer.
    frozen
        Leaves without gradient, of inputs, weight, recurrent, outgoing and state.
    """
    g, dtype = torch.Generator().manual_seed(seed), getattr(torch, options.dtype)
    T, B, C, N = shape.steps, shape.batch, shape.inputs, shape.units

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64).to(dtype)

    counts = torch.poisson(torch.full((T, B, C), density), generator=g)
    weight = (normal(N, C) + 0.3) / max(1.0, density * C) ** 0.5
    cell = _cell(options, N, g, slope)
    case = Case(
        cell=cell,
        inputs=as_events(counts) if layout == "events" else counts.to(dtype),
        weight=weight,
        recurrent=normal(N, N) * 0.7 / N**0.5 if recurrent else None,
        outgoing=normal(n_outgoing, N) if n_outgoing else None,
        state=cell.neuron.State(*(normal(B, N) for _ in cell.neuron.State._fields))
        if first_state
        else None,
        gate=(torch.rand(B, N, generator=g) < 0.75).to(dtype) / 0.75 if gated else None,
    )
    if layout == "drive":
        drive = torch.nn.functional.linear(counts.to(dtype), weight)
        case = replace(case, inputs=drive, weight=None)
    wanted: list[Any] = [case.state or ()] if "state" not in frozen else []
    wanted += [[getattr(case, k)] for k in _WEIGHTS if k not in frozen]
    for tensor in (t for group in wanted for t in group if isinstance(t, Tensor)):
        tensor.requires_grad_()
    return case


def _cell(options: Options, n_units: int, g: torch.Generator, slope: float) -> Cell:
    neuron, dtype = NEURONS[options.kind], getattr(torch, options.dtype)
    names = neuron.Parameters._fields
    learned = {"none": (), "first": names[:1], "all": names}[options.learned]
    constants: dict[str, Any] = {}
    for k, name in enumerate(names):
        low, high = _RANGES[name]
        per_unit = low + (high - low) * torch.rand(n_units, generator=g, dtype=torch.float64)
        # numbers, and tensors with and without a gradient
        constants[name] = per_unit.to(dtype) if name in learned or k % 2 else (low + high) / 2
        if name in learned:
            constants[name].requires_grad_()
    return Cell(
        neuron,
        neuron.Parameters(**constants),
        surrogate(options.surrogate, slope) if neuron.distance else None,
        options.reset,
        options.through,
    )


def as_events(counts: Tensor) -> EventBatch:
    """Counts of shape (time, batch, channel) as events."""
    n_steps, n_batch, n_channels = counts.shape
    rows = counts.transpose(0, 1).reshape(n_batch * n_steps, n_channels).long()
    indptr = torch.zeros(len(rows) + 1, dtype=torch.int64)
    indptr[1:] = rows.sum(dim=1).cumsum(0)
    channels = torch.arange(n_channels).repeat(len(rows)).repeat_interleave(rows.flatten())
    none = torch.zeros(n_batch, dtype=torch.int64)
    return EventBatch(indptr, channels.to(torch.uint16), none, none, n_steps, n_channels)


def run_scan(case: Case, engine: Any, asked: Asked = EVERYTHING) -> ScanResult:
    """The case through an engine."""
    return scan(
        case.inputs,
        case.weight,
        case.recurrent,
        case.cell,
        outgoing_weight=case.outgoing,
        state=case.state,
        gate=case.gate,
        keep_spikes=asked.spikes,
        keep_membranes=asked.membranes,
        keep_peaks=asked.peaks,
        engine=engine,
    )


def outputs_of(case: Case, result: ScanResult, asked: Asked = EVERYTHING) -> dict[str, Tensor]:
    """What a scan has to return, by name; shapes (time, batch, unit) and (batch, unit)."""
    there = {
        "spikes": case.spiking and asked.spikes,
        "counts": case.spiking,
        "projected": case.outgoing is not None,
        "membranes": asked.membranes,
        "peaks": asked.peaks,
    }
    found = {name: getattr(result, name) for name, wanted in there.items() if wanted}
    return found | {f"last {k}": s for k, s in result.state._asdict().items()}


def random_factors(outputs: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Factors of a random linear function of the outputs, the same whoever computed them."""
    g = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(t.shape, generator=g, dtype=torch.float64).to(t.dtype)
        for name, t in outputs.items()
    }


def gradients(
    case: Case, outputs: dict[str, Tensor], seed: int, samples: Tensor | None = None
) -> dict[str, Tensor]:
    """Gradients of that function; with `samples`, bool of shape (batch,), only of some samples' outputs."""
    factors = random_factors(outputs, seed)
    if samples is not None:
        factors = {name: f * samples[:, None] for name, f in factors.items()}
    total = torch.stack([(factors[name] * t).sum() for name, t in outputs.items()]).sum()
    leaves = case.leaves()
    found = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def run_case(case: Case, engine: Any, seed: int = 0) -> Outcome:
    """The case through an engine, and the gradients of all that came out."""
    outputs = outputs_of(case, run_scan(case, engine))
    return Outcome(outputs, gradients(case, outputs, seed))


def assert_same_bits(found: Outcome, expected: Outcome) -> None:
    """Every number of two outcomes is the same."""
    for ours, theirs in (
        (found.outputs, expected.outputs),
        (found.gradients, expected.gradients),
    ):
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert torch.equal(ours[name], tensor), name


def assert_agree(case: Case, engine: Any, seed: int, asked: Asked = EVERYTHING) -> None:
    """An engine agrees with the reference on a case.

    In float64 in all spikes, and 1e-10 in all numbers. In float32 spikes may differ from where a membrane
    of the reference lies within TIE of its threshold; of samples without such a tie all spikes agree, and
    all numbers within 1e-4 of the largest and of the norm.
    """
    truth, found = run_scan(case, "reference"), run_scan(case, engine, asked)
    exact = truth.membranes.dtype == torch.float64
    agreeing = samples_without_ties(case, run_scan(case, engine), truth)
    assert not exact or agreeing.all()
    tolerance = 1e-10 if exact else 1e-4
    ours, theirs = outputs_of(case, found, asked), outputs_of(case, truth, asked)
    for name, expected in theirs.items():
        assert_near(name, ours[name][..., agreeing, :], expected[..., agreeing, :], tolerance)
    if case.leaves():
        grads = gradients(case, ours, seed, agreeing)
        for name, expected in gradients(case, theirs, seed, agreeing).items():
            assert_near(f"gradient of {name}", grads[name], expected, tolerance)


def samples_without_ties(case: Case, found: ScanResult, truth: ScanResult) -> Tensor:
    """Which samples may be compared, bool of shape (batch,); asserts that others differ by a tie only."""
    if not case.spiking:
        return ~_samples_with_two_peaks(truth.membranes)
    differ = found.spikes != truth.spikes
    undecided = differ.any(dim=2).any(dim=0)
    assert case.cell.surrogate is not None
    edges = case.cell.surrogate.kind == "boxcar" and truth.membranes.dtype == torch.float32
    if not undecided.any() and not edges:
        return ~_samples_with_two_peaks(truth.membranes)
    distance = (truth.membranes - case.cell.parameters.threshold).detach()
    near = TIE * max(1.0, float(truth.membranes.detach().abs().max()))
    for b in undecided.nonzero().flatten().tolist():
        first = int(differ[:, b].any(dim=1).nonzero()[0])
        gap = distance[first, b][differ[first, b]].abs()
        assert (gap < near).all(), f"sample {b}, step {first}: spikes differ at distances {gap}"
    if edges:  # this derivative has edges, at which rounding decides as well
        beside = (distance.abs() - 1 / (2 * case.cell.surrogate.slope)).abs() < near
        undecided |= beside.any(dim=2).any(dim=0)
    return ~(undecided | _samples_with_two_peaks(truth.membranes))


def _samples_with_two_peaks(membranes: Tensor) -> Tensor:
    """Where rounding decides which of two steps has the largest membrane and gets its gradient."""
    if membranes.dtype == torch.float64 or len(membranes) == 1:
        return torch.zeros(membranes.shape[1], dtype=torch.bool)
    first, second = membranes.detach().topk(2, dim=0).values
    return (first - second < 1e-5 * membranes.detach().abs().amax(dim=0)).any(dim=1)


def assert_near(name: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Agreement relative to the largest number and, together, to the norm."""
    assert found.shape == expected.shape, name
    assert found.dtype == expected.dtype, name
    if expected.numel() == 0:
        return
    difference = (found - expected).detach()
    largest, norm = expected.detach().abs().max(), expected.detach().norm()
    assert difference.abs().max() <= tolerance * largest, (
        f"{name}: off by {float(difference.abs().max()):.3g}, largest {float(largest):.3g}"
    )
    assert difference.norm() <= tolerance * norm, (
        f"{name}: norm of difference {float(difference.norm()):.3g}, of it {float(norm):.3g}"
    )
