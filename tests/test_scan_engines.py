"""The compiled scan against the reference; as an operator of torch.library; what it refuses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snnbench.data_prep.batch import EventBatch
from snnbench.errors import SnnbenchError, UsageError
from snnbench.models.neurons.lif import LIF
from snnbench.models.scan import scan
from snnbench.models.surrogate import DERIVATIVES
from tests.scan_cases import (
    NEURONS,
    RESETS,
    Asked,
    Case,
    Options,
    Shape,
    assert_agree,
    assert_same_bits,
    make_case,
    needs_compiler,
    outputs_of,
    random_factors,
    run_case,
    run_scan,
    surrogate,
)

# every pair of choices occurs (the first test sees to it); each line compiles kernels of its own, so these
# occur in pairs with resets, gradients and types, and not with all of each other
FEWER = {
    "se-adlif", "lif-refractory", "multi-gaussian", "arctangent", "slayer", "straight-through"
}  # fmt: skip
OPTIONS = (
    Options("lif", "subtract", False, "superspike", "none", "float32"),  # the shipped models
    Options("lif", "subtract", True, "gaussian", "all", "float64"),
    Options("lif", "subtract", True, "triangle", "none", "float64"),
    Options("lif", "zero", False, "boxcar", "all", "float32"),
    Options("lif", "zero", False, "sigmoid", "first", "float64"),
    Options("lif", "zero", True, "superspike", "first", "float32"),
    Options("lif-delta", "subtract", False, "sigmoid", "none", "float32"),
    Options("lif-delta", "subtract", True, "boxcar", "first", "float64"),
    Options("lif-delta", "subtract", True, "superspike", "all", "float32"),
    Options("lif-delta", "zero", False, "gaussian", "first", "float32"),
    Options("lif-delta", "zero", False, "triangle", "all", "float32"),
    Options("adlif", "subtract", True, "sigmoid", "all", "float64"),
    Options("adlif", "subtract", True, "gaussian", "none", "float64"),
    Options("adlif", "zero", False, "superspike", "none", "float64"),
    Options("adlif", "zero", False, "boxcar", "none", "float64"),
    Options("adlif", "zero", True, "triangle", "first", "float32"),
    Options("se-adlif", "zero", False, "slayer", "none", "float32"),
    Options("se-adlif", "zero", True, "multi-gaussian", "all", "float64"),
    Options("se-adlif", "subtract", False, "arctangent", "first", "float64"),
    Options("se-adlif", "subtract", True, "straight-through", "all", "float32"),
    Options("lif-refractory", "subtract", False, "multi-gaussian", "none", "float32"),
    Options("lif-refractory", "zero", True, "arctangent", "all", "float32"),
    Options("lif-refractory", "zero", False, "straight-through", "first", "float64"),
    Options("lif-refractory", "subtract", True, "slayer", "all", "float64"),
    Options("leaky", learned="none", dtype="float32"),
    Options("leaky", learned="first", dtype="float64"),
    Options("leaky", learned="all", dtype="float32"),
)

# a group of samples has 8, or 32 from 512 units on; units are padded to 32
SHAPES = st.one_of(
    st.builds(
        Shape, st.integers(1, 30), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)
    ),
    st.builds(
        Shape, st.integers(1, 12), st.sampled_from((16, 17, 35)), st.integers(1, 40),
        st.sampled_from((1, 31, 32, 33, 128, 130)),
    ),
    st.builds(Shape, st.integers(1, 8), st.sampled_from((1, 3, 34)), st.integers(1, 40), st.just(513)),
)  # fmt: skip
FROZEN = st.frozensets(st.sampled_from(("inputs", "weight", "recurrent", "outgoing", "state")))


def test_options_hold_every_pair_of_choices():
    spiking = [kind for kind, neuron in NEURONS.items() if neuron.distance]
    choices = (
        spiking, RESETS, (False, True), tuple(DERIVATIVES), ("none", "first", "all"),
        ("float32", "float64"),
    )  # fmt: skip
    for i, j in combinations(range(len(choices)), 2):
        missing = {(a, b) for a in choices[i] for b in choices[j]} - {(o[i], o[j]) for o in OPTIONS}
        assert not {pair for pair in missing if not FEWER & {*pair}}
    for name in FEWER:
        lines = [o for o in OPTIONS if name in (o.kind, o.surrogate)]
        assert {o.reset for o in lines} == set(RESETS)
        assert {o.through for o in lines} == {False, True}
        assert {o.dtype for o in lines} == {"float32", "float64"}
        assert "all" in {o.learned for o in lines}


@needs_compiler
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@given(
    shape=SHAPES,
    seed=st.integers(0, 10**6),
    layout=st.sampled_from(("events", "spikes", "drive")),
    density=st.sampled_from((0.0, 0.01, 0.1, 0.5, 1.0)),
    slope=st.sampled_from((1.0, 10.0, 50.0)),
    recurrent=st.booleans(),
    n_outgoing=st.sampled_from((0, 1, 5, 33)),
    gated=st.booleans(),
    first_state=st.booleans(),
    asked=st.builds(Asked, st.booleans(), st.booleans(), st.booleans()),
    frozen=FROZEN,
)
@settings(max_examples=12)
def test_cpp_agrees_with_the_reference(
    options, shape, seed, recurrent, n_outgoing, asked, **choices
):
    spiking = options.kind != "leaky"
    sent = {"recurrent": recurrent and spiking, "n_outgoing": n_outgoing * spiking}
    assert_agree(make_case(options, shape, seed, **sent, **choices), "cpp", seed, asked)


@needs_compiler
def test_slopes_of_one_surrogate_side_by_side():
    # they share one compiled library
    cases = [make_case(OPTIONS[0], Shape(9, 3, 5, 6), 2, slope=slope) for slope in (1.0, 50.0)]
    for case in (*cases, *cases):
        assert_agree(case, "cpp", seed=3)
    flat, steep = (run_case(case, "cpp").gradients["weight"] for case in cases)
    assert not torch.allclose(flat, steep, rtol=0.1)


@needs_compiler
@pytest.mark.parametrize("engine", ["cpp", "numba"])
@pytest.mark.parametrize("kind", ["lif", "leaky"])
def test_a_peak_that_is_not_a_number_shows(kind: str, engine: Any):
    layout: Any = "drive"
    case = make_case(Options(kind), Shape(9, 3, 5, 6), 2, layout=layout, recurrent=False)
    assert isinstance(case.inputs, Tensor)
    inputs = case.inputs.detach().clone()
    inputs[4, 1, 2] = torch.nan
    peaks = run_scan(replace(case, inputs=inputs), engine).peaks
    assert peaks.isnan().nonzero().tolist() == [[1, 2]]


# ---- past recurrence; other peaks ----------------------------------------------------------------------

COMPILED = (pytest.param("cpp", marks=needs_compiler), "numba")


def past_recurrence(case: Case) -> Case:
    return replace(case, cell=replace(case.cell, gradient_through_recurrence=False))


@pytest.mark.parametrize("engine", COMPILED)
@given(seed=st.integers(0, 10**6), gated=st.booleans(), first_state=st.booleans())
@settings(max_examples=12)
def test_engines_agree_past_recurrence(seed: int, gated: bool, first_state: bool, engine: Any):
    case = make_case(
        OPTIONS[0], Shape(14, 9, 12, 33), seed, n_outgoing=5, gated=gated, first_state=first_state
    )
    assert_agree(past_recurrence(case), engine, seed)


@needs_compiler
def test_engines_agree_past_recurrence_to_ten_digits():
    case = make_case(OPTIONS[1], Shape(14, 9, 12, 33), 1, n_outgoing=5, gated=True)
    assert_agree(past_recurrence(case), "cpp", 1)


@pytest.mark.parametrize("engine", ["reference", *COMPILED])
def test_past_recurrence_its_weights_learn_and_inputs_learn_otherwise(engine: Any):
    case = make_case(OPTIONS[0], Shape(14, 9, 12, 33), 1)
    through, past = run_case(case, engine), run_case(past_recurrence(case), engine)
    for name, tensor in through.outputs.items():
        assert torch.equal(past.outputs[name], tensor), name
    for name in ("weight", "recurrent"):
        assert past.gradients[name].abs().sum() > 0
        assert not torch.allclose(past.gradients[name], through.gradients[name], rtol=0.01)


@pytest.mark.parametrize("engine", ["reference", *COMPILED])
def test_what_recurrence_cannot_reach_is_as_before(engine: Any):
    # spikes come from n = 2 on and arrive at n = 4: there the recurrent weights have done one step, and what
    # they learn from membranes is the same; inputs learn the same from the steps before
    def learned(case: Case, name: str, until: int) -> Tensor:
        membranes = run_scan(case, engine).membranes[:until]
        (found,) = torch.autograd.grad(membranes.square().sum(), [case.leaves()[name]])
        return found

    case = make_case(OPTIONS[0], Shape(5, 9, 12, 33), 1, density=1.0)
    for name, until in (("recurrent", 5), ("weight", 4)):
        through, past = learned(case, name, until), learned(past_recurrence(case), name, until)
        assert through.abs().sum() > 0
        torch.testing.assert_close(past, through, rtol=1e-5, atol=1e-6)
    # a weight of zero lets nothing through, either
    silent = make_case(OPTIONS[0], Shape(14, 9, 12, 33), 2)
    assert silent.recurrent is not None
    with torch.no_grad():
        silent.recurrent.zero_()
    before, after = run_case(silent, engine), run_case(past_recurrence(silent), engine)
    for name, tensor in before.gradients.items():
        torch.testing.assert_close(after.gradients[name], tensor, rtol=1e-6, atol=1e-7)


def with_peak(case: Case, peak: float) -> Case:
    spike = surrogate("superspike", 10.0, peak)
    return replace(case, cell=replace(case.cell, surrogate=spike))


@pytest.mark.parametrize("engine", COMPILED)
def test_engines_agree_with_any_peak(engine: Any):
    case = make_case(OPTIONS[0], Shape(14, 5, 12, 33), 3, n_outgoing=4)
    assert_agree(with_peak(case, 0.25), engine, 3)


@pytest.mark.parametrize("engine", ["reference", *COMPILED])
def test_without_recurrence_the_peak_is_a_factor_of_the_gradient(engine: Any):
    # of the spikes alone: membranes have a gradient that does not go through them
    case = make_case(Options("lif"), Shape(14, 5, 12, 33), 3, recurrent=False, n_outgoing=4)

    def gradient(peak: float) -> Tensor:
        projected = run_scan(with_peak(case, peak), engine).projected
        (found,) = torch.autograd.grad(projected.sum(), [case.leaves()["weight"]])
        return found

    torch.testing.assert_close(gradient(0.25), 0.25 * gradient(1.0), rtol=1e-5, atol=1e-6)


# ---- threads and repeated calls ----------------------------------------------------------------------


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("layout", ["events", "spikes", "drive"])
@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (OPTIONS[0], Shape(20, 83, 60, 130)),
        (OPTIONS[5], Shape(9, 70, 33, 513)),
        (OPTIONS[11], Shape(12, 35, 21, 40)),
    ],
    ids=["lif", "wide", "adlif"],
)
def test_number_of_threads_changes_no_bit(
    options: Options, shape: Shape, layout: Any, threads: Callable[[int], None]
):
    case = make_case(
        options, shape, 5, layout=layout, density=0.1, n_outgoing=20, gated=True, first_state=True,
        # the gradient by dense spikes is PyTorch's product, which promises less
        frozen=frozenset({"inputs"} if layout == "spikes" else ()),
    )  # fmt: skip
    threads(1)
    alone = run_case(case, "cpp")
    assert alone.outputs["spikes"].sum() > 0
    for n in (1, 2, 3, 2, 11):  # and more than there are shares of the samples
        threads(n)
        assert_same_bits(run_case(case, "cpp"), alone)


@needs_compiler
@pytest.mark.parametrize("shape", [Shape(15, 37, 20, 33), Shape(6, 34, 20, 513)])
def test_samples_alone_and_together_are_the_same_bits(shape: Shape):
    # groups of samples share loads and products, but no sum
    case = make_case(
        OPTIONS[5], shape, 6, layout="drive", n_outgoing=5, gated=True, first_state=True
    )
    together = run_case(case, "cpp")
    assert isinstance(case.inputs, Tensor)
    assert case.gate is not None
    for b in (0, 15, 16, shape.batch - 1):
        one = slice(b, b + 1)
        alone = replace(
            case,
            inputs=case.inputs.detach()[:, one].clone().requires_grad_(),
            state=type(case.state)(*(s.detach()[one].clone().requires_grad_() for s in case.state)),
            gate=case.gate[one],
        )
        outputs = outputs_of(alone, run_scan(alone, "cpp"))
        for name, tensor in outputs.items():
            assert torch.equal(tensor, together.outputs[name][..., one, :]), name
        # the same factors as in the gradients of all samples together
        factors = random_factors(together.outputs, seed=0)
        total = sum(
            ((factors[k][..., one, :] * t).sum() for k, t in outputs.items()), torch.zeros(())
        )
        leaves = {k: t for k, t in alone.leaves().items() if k == "inputs" or k.startswith("first")}
        assert len(leaves) == 3
        for name, grad in zip(
            leaves, torch.autograd.grad(total, list(leaves.values())), strict=True
        ):
            assert torch.equal(grad, together.gradients[name][..., one, :]), name


# ---- an operator like any other ------------------------------------------------------------------


def operator_arguments(options: Options, layout: Any, *, requires_grad: bool) -> tuple[Any, ...]:
    """Arguments with which scan() calls the operator, by way of a call."""
    case = make_case(
        options, Shape(5, 3, 7, 6), 3, layout=layout, density=0.5, n_outgoing=4,
        first_state=True, gated=True,
    )  # fmt: skip
    calls: list[tuple[Any, ...]] = []

    class Listen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if f is torch.ops.snnbench.scan.default:
                calls.append(args)
            return f(*args, **(kwargs or {}))

    with Listen():
        run_scan(case, "cpp")
    (arguments,) = calls
    return tuple(
        a.detach().clone().requires_grad_(requires_grad and a.is_floating_point())
        if isinstance(a, Tensor)
        else a
        for a in arguments
    )


@needs_compiler
@pytest.mark.parametrize("layout", ["events", "spikes", "drive"])
@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[11]], ids=["lif", "adlif"])
def test_pytorch_finds_the_operator_in_order(options: Options, layout: Any):
    # schema, gradient's registration, and shapes foretold without running
    arguments = operator_arguments(options, layout, requires_grad=True)
    torch.library.opcheck(
        torch.ops.snnbench.scan.default,
        arguments,
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


# ---- what it refuses -----------------------------------------------------------------------------

REFUSED_BY = ("reference", pytest.param("cpp", marks=needs_compiler))


def scan_with(engine: Any, **changes: Any) -> Any:
    """A small scan with some of its arguments replaced."""
    case = make_case(OPTIONS[0], Shape(4, 3, 6, 5), 1, layout="spikes")
    arguments = {
        "inputs": case.inputs,
        "weight": case.weight,
        "recurrent_weight": case.recurrent,
        "cell": case.cell,
        **changes,
    }
    return scan(**arguments, engine=engine)


def lif_state(*shape: int, dtype: torch.dtype = torch.float32) -> Any:
    return LIF.State(torch.zeros(*shape, dtype=dtype), torch.zeros(*shape, dtype=dtype))


@pytest.mark.parametrize("engine", REFUSED_BY)
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"weight": torch.zeros(5, 7)}, r"weight .*\(5, 7\).*\(5, 6\)"),
        ({"recurrent_weight": torch.zeros(5, 4)}, r"recurrent_weight .*\(5, 4\).*\(5, 5\)"),
        ({"outgoing_weight": torch.zeros(2, 6)}, r"outgoing_weight .*\(2, 6\)"),
        ({"gate": torch.ones(2, 5)}, r"gate .*\(2, 5\).*\(3, 5\)"),
        ({"state": lif_state(2, 5)}, r"\(2, 5\).*\(3, 5\)"),
        ({"state": (torch.zeros(3, 5), torch.zeros(3, 5))}, "state"),
        ({"inputs": torch.zeros(3, 6)}, "time"),
        ({"inputs": torch.zeros(0, 3, 6)}, "step"),
        ({"recurrent_weight": torch.zeros(5, 5, dtype=torch.float64)}, "recurrent_weight.*float64"),
        ({"state": lif_state(3, 5, dtype=torch.float64)}, "float64"),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(v),
)
def test_sizes_and_types_that_do_not_fit_are_named(
    changes: dict[str, Any], named: str, engine: Any
):
    with pytest.raises(SnnbenchError, match=named):
        scan_with(engine, **changes)


@pytest.mark.parametrize("engine", REFUSED_BY)
@pytest.mark.parametrize("constant", [torch.full((4,), 0.5), torch.full((5,), 0.5).double()])
def test_a_constant_that_fits_no_unit_is_named(constant: Tensor, engine: Any):
    cell = make_case(OPTIONS[0], Shape(1, 1, 1, 5), 1).cell
    cell = replace(cell, parameters=cell.parameters._replace(beta=constant))
    with pytest.raises(SnnbenchError, match="beta"):
        scan_with(engine, cell=cell)


@pytest.mark.parametrize("engine", REFUSED_BY)
def test_a_neuron_that_spikes_needs_a_surrogate(engine: Any):
    cell = make_case(OPTIONS[0], Shape(1, 1, 1, 5), 1).cell
    with pytest.raises(SnnbenchError, match=r"lif.*surrogate"):
        scan_with(engine, cell=replace(cell, surrogate=None))


@pytest.mark.parametrize("engine", REFUSED_BY)
def test_events_need_a_weight(engine: Any):
    events = make_case(OPTIONS[0], Shape(4, 3, 5, 5), 1).inputs
    with pytest.raises(SnnbenchError, match="events need a weight"):
        scan_with(engine, inputs=events, weight=None)


EVERY_CPU_ENGINE = ("reference", pytest.param("cpp", marks=needs_compiler), "numba")


@pytest.mark.parametrize("engine", EVERY_CPU_ENGINE)
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("channels", 5, "an event of channel 5, but there are 5 inputs"),
        ("indptr", 10**6, "has to ascend from 0 to"),
        ("indptr", -1, "has to ascend from 0 to"),
    ],
)
def test_events_that_point_elsewhere_are_refused(field: str, value: int, message: str, engine: Any):
    case = make_case(Options("lif"), Shape(6, 3, 5, 4), 1, density=1.0)
    assert isinstance(case.inputs, EventBatch)
    wrong = getattr(case.inputs, field).clone()
    wrong[4] = value
    with pytest.raises(SnnbenchError, match=message):
        run_scan(replace(case, inputs=case.inputs._replace(**{field: wrong})), engine)
    short = case.inputs._replace(channels=case.inputs.channels[:-1])
    with pytest.raises(SnnbenchError, match="has to ascend from 0 to"):
        run_scan(replace(case, inputs=short), engine)


@pytest.mark.parametrize("engine", EVERY_CPU_ENGINE)
@pytest.mark.parametrize("field", ["indptr", "channels"])
def test_events_of_another_type_are_refused(field: str, engine: Any):
    case = make_case(Options("lif"), Shape(6, 3, 5, 4), 1, density=1.0)
    assert isinstance(case.inputs, EventBatch)
    other = case.inputs._replace(**{field: getattr(case.inputs, field).int()})
    with pytest.raises(
        SnnbenchError, match=r"torch.int32.*torch.int64 and torch.uint16 are needed"
    ):
        run_scan(replace(case, inputs=other), engine)


@pytest.mark.parametrize("engine", [pytest.param("cpp", marks=needs_compiler), "numba"])
def test_channels_out_of_order_are_refused_where_threads_search_in_them(engine: Any):
    case = make_case(Options("lif"), Shape(3, 2, 700, 512), 1, density=0.1, recurrent=False)
    assert isinstance(case.inputs, EventBatch)
    run_scan(case, engine)
    reversed_ = case.inputs.channels.long().flip(0).to(torch.uint16)
    backwards = case.inputs._replace(channels=reversed_)
    with pytest.raises(SnnbenchError, match="have to ascend within each bin of a sample"):
        run_scan(replace(case, inputs=backwards), engine)


@pytest.mark.parametrize("engine", EVERY_CPU_ENGINE)
def test_no_gradient_goes_through_a_gate(engine: Any):
    options = Options("lif")
    case = make_case(options, Shape(9, 3, 5, 4), 1, density=1.0, gated=True)
    frozen = make_case(
        options,
        Shape(9, 3, 5, 4),
        1,
        density=1.0,
        frozen=frozenset({"weight", "recurrent", "state"}),
    )
    assert case.gate is not None
    gate = case.gate.requires_grad_()
    assert run_scan(replace(case, gate=gate), engine).counts.requires_grad
    assert not run_scan(replace(frozen, gate=gate), engine).counts.requires_grad


@pytest.mark.parametrize("engine", EVERY_CPU_ENGINE)
def test_what_nobody_asked_for_is_empty(engine: Any):
    case = make_case(Options("lif"), Shape(9, 3, 5, 4), 1)
    result = run_scan(case, engine, Asked(spikes=False, membranes=False, peaks=False))
    assert result.counts.requires_grad
    assert [len(t) for t in (result.spikes, result.membranes, result.peaks)] == [0, 0, 0]


def test_a_mistyped_reset_is_told_near_names():
    case = make_case(Options("lif"), Shape(9, 3, 5, 4), 1)
    mistyped: Any = "zreo"
    with pytest.raises(UsageError, match="zero"):
        replace(case.cell, reset=mistyped)


def test_an_unknown_engine_is_told_near_names():
    with pytest.raises(UsageError, match="unknown engine 'cp'; did you mean cpp"):
        scan_with("cp")


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="Triton runs on the CPU here")
def test_the_engine_of_a_gpu_does_not_run_on_the_cpu():
    with pytest.raises(SnnbenchError, match="triton runs on a GPU only, not on cpu"):
        scan_with("triton")


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64, torch.float16])
def test_input_spikes_of_any_type_are_the_same_spikes(dtype: torch.dtype):
    spikes = make_case(OPTIONS[0], Shape(20, 3, 6, 5), 1, layout="spikes", density=1.0).inputs > 0  # type: ignore[operator]
    expected = scan_with("cpp", inputs=spikes.float())
    assert expected.spikes.sum() > 0
    assert torch.equal(scan_with("cpp", inputs=spikes.to(dtype)).spikes, expected.spikes)


@needs_compiler
def test_a_gate_may_be_of_truth_values():
    gate = torch.tensor([[True, False, True, True, False]] * 3)
    expected = scan_with("cpp", gate=gate.float())
    assert torch.equal(scan_with("cpp", gate=gate).spikes, expected.spikes)


def far_input(n_inputs: int) -> dict[str, Tensor]:
    """One spike in the last input, with weight 2 onto all units."""
    inputs, weight = torch.zeros(3, 1, n_inputs), torch.zeros(5, n_inputs)
    inputs[0, 0, -1] = 1.0
    weight[:, -1] = 2.0
    return {"inputs": inputs, "weight": weight}


@needs_compiler
def test_the_last_input_that_16_bits_can_tell_is_seen():
    result = scan_with("cpp", **far_input(65_535), recurrent_weight=None, keep_membranes=True)
    assert result.membranes[:, 0, 0].tolist() == [0, 0, 2]


@needs_compiler
def test_more_inputs_than_16_bits_can_tell_are_refused():
    with pytest.raises(SnnbenchError, match="70000"):
        scan_with("cpp", **far_input(70_000))
