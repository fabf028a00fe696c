"""The Triton scan behind `scan`, in Triton's interpreter; and replicas, on any engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from snnbench.errors import SnnbenchError
from snnbench.models.known_recipes import name_of
from snnbench.models.neurons.leaky import LEAKY
from snnbench.models.neurons.lif import LIF
from snnbench.models.scan import scan
from snnbench.models.scan_cuda_operator import _operator
from snnbench.models.scan_replicas import scan_replicas
from snnbench.models.scan_types import Cell, ScanResult
from tests.scan_cases import (
    Asked,
    Case,
    Options,
    Shape,
    assert_agree,
    assert_near,
    make_case,
    random_factors,
    surrogate,
)

SMALL = Shape(steps=8, batch=7, inputs=11, units=20)
N_REPLICAS = 3
Layout = Literal["events", "spikes", "drive"]

needs_triton = pytest.mark.usefixtures("interpreter")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Kernels go to a folder of these tests, and not to the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA, or pip install")
    monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture(params=["reference", "triton"])
def engine(request: pytest.FixtureRequest) -> Any:
    if request.param == "triton":
        request.getfixturevalue("interpreter")
    return request.param


# ---- one layer through scan ---------------------------------------------------------------------


@needs_triton
@pytest.mark.parametrize(
    ("options", "layout"),
    [
        (Options("lif"), "events"),
        (Options("lif", "zero", through=True, surrogate="sigmoid", learned="all"), "spikes"),
        (Options("lif-delta", "zero", through=True, surrogate="gaussian"), "drive"),
        (Options("adlif", learned="first", surrogate="triangle"), "events"),
        (Options("adlif", learned="all", dtype="float64"), "drive"),
    ],
    ids=str,
)
def test_scan_by_triton_agrees_with_the_reference(options: Options, layout: Layout):
    case = make_case(
        options, SMALL, seed=1, layout=layout, n_outgoing=4, gated=True, first_state=True
    )
    assert_agree(case, "triton", seed=2)


@needs_triton
@pytest.mark.parametrize("learned", ["none", "all"])
def test_a_readout_by_triton_agrees_with_the_reference(learned: Literal["none", "all"]):
    options = Options("leaky", learned=learned)
    case = make_case(options, SMALL, seed=1, layout="drive", recurrent=False, first_state=True)
    assert_agree(case, "triton", seed=2)


@needs_triton
def test_what_nobody_asks_for_changes_no_gradient():
    case = make_case(Options("lif"), SMALL, seed=1, n_outgoing=4)
    assert_agree(case, "triton", seed=2, asked=Asked(spikes=False, membranes=False, peaks=False))


@needs_triton
def test_only_the_last_state_of_a_readout_is_looked_at():
    case = make_case(Options("leaky"), SMALL, seed=1, layout="drive", recurrent=False)
    assert isinstance(case.inputs, Tensor)
    grads = []
    for engine in ("reference", "triton"):
        result = scan(case.inputs, None, None, case.cell, engine=engine)
        grads.append(torch.autograd.grad(result.state.membrane.sum(), case.inputs)[0])
    assert_near("drive", grads[1], grads[0], 1e-4)


@needs_triton
def test_without_gradients_nothing_is_kept():
    case = make_case(Options("lif"), SMALL, seed=1)
    with torch.no_grad():
        result = scan(case.inputs, case.weight, case.recurrent, case.cell, engine="triton")
    assert result.spikes.any()
    assert result.membranes.numel() == 0


@needs_triton
def test_torch_takes_it_for_a_proper_operator():
    case = make_case(Options("adlif", learned="all"), SMALL, seed=1, layout="drive")
    assert isinstance(case.inputs, Tensor)
    parts = case.cell.neuron.State._fields
    replicas, n_batch, n_units = 2, SMALL.batch, SMALL.units
    recipe = name_of(_recipe_of(case.cell))
    drive = case.inputs.detach().transpose(0, 1).expand(replicas, -1, -1, -1).contiguous()
    parameters = torch.stack(
        [torch.as_tensor(p).detach().expand(n_units) for p in case.cell.parameters]
    )
    torch.library.opcheck(
        _operator,
        (
            drive.requires_grad_(),
            0.1 * torch.randn(replicas, n_units, n_units).requires_grad_(),
            parameters[:, None].repeat(1, replicas, 1).requires_grad_(),
            None,
            torch.zeros(len(parts), replicas, n_batch, n_units),
            4.0,
            recipe,
            "for-backward,membrane",
            True,
        ),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def _recipe_of(cell: Cell) -> Any:
    from snnbench.models.derivation import Recipe

    names = cell.neuron.Parameters._fields
    return Recipe(cell.neuron, cell.surrogate, cell.reset, cell.gradient_through_reset, names)


# ---- replicas -----------------------------------------------------------------------------------


def cases(options: Options, layout: Layout) -> list[Case]:
    """Replicas of one layer: numbers that the cell has are the same in all."""
    first = make_case(options, SMALL, 0, layout=layout, n_outgoing=4, gated=True, first_state=True)
    every = [
        first,
        *(
            make_case(options, SMALL, r, layout=layout, n_outgoing=4, gated=True, first_state=True)
            for r in range(1, N_REPLICAS)
        ),
    ]
    return [
        replace(case, cell=replace(case.cell, surrogate=first.cell.surrogate)) for case in every
    ]


def at_once(every: list[Case], engine: Any) -> ScanResult:
    """All cases in one call; events each of its own."""

    def stacked(name: str) -> Any:
        values = [getattr(case, name) for case in every]
        return torch.stack(values) if isinstance(values[0], Tensor) else values[0]

    def per_replica(values: tuple[Any, ...]) -> Any:
        return torch.stack(values) if isinstance(values[0], Tensor) else values[0]

    kind = every[0].cell.neuron
    cell = replace(
        every[0].cell,
        parameters=kind.Parameters(
            *map(per_replica, zip(*(c.cell.parameters for c in every), strict=True))
        ),
    )
    inputs = [case.inputs for case in every]
    return scan_replicas(
        torch.stack(inputs) if isinstance(inputs[0], Tensor) else inputs,  # type: ignore[arg-type]
        stacked("weight"),
        stacked("recurrent"),
        cell,
        outgoing_weight=stacked("outgoing"),
        state=kind.State(*map(torch.stack, zip(*(c.state for c in every), strict=True))),
        gate=stacked("gate"),
        keep_membranes=True,
        keep_peaks=True,
        engine=engine,
    )


def one_by_one(every: list[Case]) -> ScanResult:
    results = [
        scan(
            c.inputs, c.weight, c.recurrent, c.cell, outgoing_weight=c.outgoing, state=c.state,
            gate=c.gate, keep_membranes=True, keep_peaks=True, engine="reference",
        )
        for c in every
    ]  # fmt: skip
    *tensors, states = zip(*results, strict=True)
    state = type(states[0])(*map(torch.stack, zip(*states, strict=True)))
    return ScanResult._make([*map(torch.stack, tensors), state])


def gradients(every: list[Case], result: ScanResult) -> list[Tensor]:
    named = result._asdict() | result.state._asdict()
    del named["state"]
    factors = random_factors(named, seed=3)
    total = torch.stack([(factors[name] * t).sum() for name, t in named.items()]).sum()
    leaves = [leaf for case in every for leaf in case.leaves().values()]
    return list(torch.autograd.grad(total, leaves, materialize_grads=True))


@pytest.mark.parametrize("layout", ["events", "spikes", "drive"])
@pytest.mark.parametrize("kind", ["lif", "adlif"])
def test_replicas_are_as_if_each_ran_alone(kind: str, layout: Layout, engine: str):
    # in float64, where no spike hangs on rounding
    every = cases(Options(kind, learned="all", dtype="float64"), layout)
    found, expected = at_once(every, engine), one_by_one(every)
    assert expected.spikes.any(dim=-1).any(dim=-1).any(dim=-1).all()
    for name in ("spikes", "counts", "projected", "membranes", "peaks"):
        assert_near(name, getattr(found, name), getattr(expected, name), 1e-10)
    for part, left in found.state._asdict().items():
        assert_near(part, left, getattr(expected.state, part), 1e-10)
    for left, right in zip(gradients(every, found), gradients(every, expected), strict=True):
        assert_near("gradient", left, right, 1e-10)


def test_replicas_may_all_receive_the_same_events(engine: Any):
    options = Options("lif", dtype="float64")
    every = [make_case(options, SMALL, r) for r in range(N_REPLICAS)]
    every = [replace(case, inputs=every[0].inputs, cell=every[0].cell) for case in every]
    weight = torch.stack([c.weight for c in every if c.weight is not None])
    recurrent = torch.stack([c.recurrent for c in every if c.recurrent is not None])
    parameters = (
        p.expand(N_REPLICAS, -1) if isinstance(p, Tensor) else p for p in every[0].cell.parameters
    )
    cell = replace(every[0].cell, parameters=type(every[0].cell.parameters)(*parameters))
    found = scan_replicas(every[0].inputs, weight, recurrent, cell, engine=engine)
    for r, c in enumerate(every):
        alone = scan(c.inputs, c.weight, c.recurrent, c.cell, engine="reference")
        assert torch.equal(found.spikes[r], alone.spikes)
    assert not torch.equal(found.spikes[0], found.spikes[1])


def test_numbers_of_replicas_have_to_agree():
    case = make_case(Options("lif"), SMALL, seed=1, layout="spikes")
    assert isinstance(case.inputs, Tensor)
    weight, recurrent = case.weight, case.recurrent
    assert weight is not None
    assert recurrent is not None
    cell = replace(case.cell, parameters=type(case.cell.parameters)(0.5, 0.5, 1.0))
    with pytest.raises(SnnbenchError, match="tensors of 2, 3 replicas"):
        scan_replicas(
            case.inputs.expand(3, -1, -1, -1), weight.expand(3, -1, -1), recurrent.expand(2, -1, -1), cell
        )  # fmt: skip


R, N = 2, 2
FITTING: dict[str, Any] = {
    "inputs": torch.zeros(R, 3, 4, 5),
    "weight": torch.zeros(R, N, 5),
    "recurrent_weight": torch.zeros(R, N, N),
    "outgoing_weight": torch.zeros(R, 3, N),
    "gate": torch.zeros(R, 4, N),
}


def run(changed: dict[str, Any], engine: Any, constants: tuple[Any, ...] = (0.5, 0.5, 1.0)) -> Any:
    cell = Cell(LIF, LIF.Parameters(*constants), surrogate())
    given = FITTING | {"state": LIF.State(torch.zeros(R, 4, N), torch.zeros(R, 4, N))} | changed
    rest = {k: v for k, v in given.items() if k not in ("inputs", "weight", "recurrent_weight")}
    return scan_replicas(
        given["inputs"], given["weight"], given["recurrent_weight"], cell, engine=engine, **rest
    )


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"weight": torch.zeros(R, N, 4)}, "weight has shape"),
        ({"weight": torch.zeros(R, N)}, "weight has shape"),
        ({"recurrent_weight": torch.zeros(R, 1, 1)}, "recurrent_weight has shape"),
        ({"outgoing_weight": torch.zeros(R, 3, 1)}, "outgoing_weight has shape"),
        ({"outgoing_weight": torch.zeros(R, 0, N)}, "no numbers"),
        ({"gate": torch.zeros(R, 1, 1)}, "gate has shape"),
        (
            {"state": LIF.State(torch.zeros(R, 1, N), torch.zeros(R, 1, N))},
            "state.current has shape",
        ),
        ({"state": (torch.zeros(R, 4, N),) * 2}, "not the State of lif"),
        ({"inputs": torch.zeros(R, 0, 4, 5)}, "0 time steps"),
        ({"inputs": torch.zeros(R, 3, 5)}, "inputs have shape"),
        ({"recurrent_weight": torch.zeros(R, N, N, dtype=torch.float64)}, "is torch.float64"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changed: dict[str, Any], says: str, engine: Any):
    assert run({}, engine).spikes.shape == (R, 3, 4, N)
    with pytest.raises(SnnbenchError, match=says):
        run(changed, engine)


@pytest.mark.parametrize("shape", [(R,), (R, 1, N), (R, N + 1)])
def test_a_constant_is_a_number_or_one_for_each_unit_of_each_replica(shape: Any, engine: Any):
    # as many replicas as units: one for each could mean either
    with pytest.raises(SnnbenchError, match="beta has shape"):
        run({}, engine, (0.5, torch.full(shape, 0.5), 1.0))
    run({}, engine, (0.5, torch.full((R, N), 0.5), torch.tensor(1.0)))


def test_weights_from_units_that_never_spike_are_refused(engine: Any):
    cell = Cell(LEAKY, LEAKY.Parameters(0.5, 0.5))
    for kind in ("recurrent_weight", "outgoing_weight"):
        weights = {"recurrent_weight": None, "outgoing_weight": None, kind: torch.zeros(R, N, N)}
        with pytest.raises(SnnbenchError, match="never spikes"):
            scan_replicas(
                torch.zeros(R, 3, 4, N), None, weights["recurrent_weight"], cell,
                outgoing_weight=weights["outgoing_weight"], engine=engine,
            )  # fmt: skip


def test_batches_of_events_have_to_be_of_one_size(engine: Any):
    first = make_case(Options("lif"), SMALL, 0)
    longer = make_case(Options("lif"), replace(SMALL, steps=9), 1)
    assert first.weight is not None
    with pytest.raises(SnnbenchError, match="batches of"):
        scan_replicas(
            [first.inputs, longer.inputs], first.weight.expand(2, -1, -1), None,  # type: ignore[list-item]
            Cell(LIF, LIF.Parameters(0.5, 0.5, 1.0), surrogate()), engine=engine,
        )  # fmt: skip


def test_no_replicas_are_nothing_to_run():
    cell = Cell(LIF, LIF.Parameters(0.5, 0.5, 1.0), surrogate())
    with pytest.raises(SnnbenchError, match="0 replicas"):
        scan_replicas(torch.zeros(0, 3, 4, N), None, None, cell)


def test_events_need_a_weight():
    case = make_case(Options("lif"), SMALL, seed=1)
    with pytest.raises(SnnbenchError, match="events need a weight"):
        scan_replicas(case.inputs, None, None, case.cell)


def test_no_gradient_goes_through_a_gate_of_replicas(engine: str):
    every = cases(Options("lif"), "drive")
    weights = frozenset({"inputs", "weight", "recurrent", "outgoing", "state"})
    frozen = [
        make_case(
            Options("lif"), SMALL, 1, layout="drive", n_outgoing=4, gated=True, first_state=True,
            frozen=weights,
        )
    ]  # fmt: skip
    for case in (*every, *frozen):
        assert case.gate is not None
        case.gate.requires_grad_()
    assert not at_once(frozen, engine).counts.requires_grad
    assert at_once(every, engine).counts.requires_grad
