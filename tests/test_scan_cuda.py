"""The Triton scan against the reference: in Triton's interpreter on the CPU, and on a GPU where there is one.

What the interpreter cannot tell, the compiler can, without a GPU: that kernels compile for one, fit on it,
and spill no registers.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from snnbench.errors import SnnbenchError
from snnbench.models import scan_cuda
from snnbench.models.derivation import Recipe, derive
from snnbench.models.expressions import exp
from snnbench.models.neuron import Neuron, ResetMode
from snnbench.models.neurons.adlif import ADLIF
from snnbench.models.neurons.leaky import LEAKY
from snnbench.models.neurons.lif import LIF
from snnbench.models.neurons.lif_delta import LIF_DELTA
from snnbench.models.neurons.lif_refractory import LIF_REFRACTORY
from snnbench.models.neurons.se_adlif import SE_ADLIF
from snnbench.models.scan_cuda import HOPPER_SHARED_MEMORY, Launch, choose_launch
from snnbench.models.scan_reference import scan_drive
from snnbench.models.scan_triton import kernels
from snnbench.models.scan_types import Cell
from snnbench.models.surrogate import DERIVATIVES, Surrogate
from tests.test_derivation import POWERS

triton = pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA, or pip install")

RANGES: dict[str, tuple[float, float]] = {
    "alpha": (0.5, 0.9),
    "beta": (0.7, 0.95),
    "threshold": (0.4, 0.8),
    "a": (-0.2, 0.2),
    "b": (0.0, 0.3),
    "q": (1.0, 3.0),
    "period": (0.5, 3.0),
    "gate": (0.2, 0.4),
    "tl": (0.5, 0.8),
    "now": (0.7, 0.9),
}
TINY_TILES = Launch(samples=16, units=16, warps=1, streamed=True)
"""As if nothing fitted on the chip."""


@dataclass(frozen=True)
class Case:
    """A layer to run, and how; tensors follow from the seed."""

    neuron: Neuron = LIF
    surrogate: str = "superspike"
    reset: ResetMode = "subtract"
    gradient_through_reset: bool = False
    parameter_gradients: tuple[str, ...] = ()
    recurrent: bool = True
    through_recurrence: bool = True
    gate: bool = False
    loss_on_membranes: bool = False
    loss_on_state: bool = False
    shape: tuple[int, int, int, int] = (1, 7, 9, 16)
    """Replicas, samples, steps, units."""
    launch: Launch | None = None
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    seed: int = 0

    @property
    def recipe(self) -> Recipe:
        surrogate = Surrogate(self.surrogate, DERIVATIVES[self.surrogate], 4.0)
        return Recipe(
            self.neuron,
            surrogate if self.neuron.distance else None,
            self.reset,
            self.gradient_through_reset,
            self.parameter_gradients,
        )


@dataclass
class Layer:
    """Tensors of a case; what belongs to steps is (replica, batch, time, unit)."""

    drive: Tensor
    recurrent: Tensor | None
    parameters: Tensor
    state: Tensor
    gate: Tensor | None
    grad_spikes: Tensor | None
    grad_membranes: Tensor | None
    grad_last: Tensor | None


def layer(case: Case) -> Layer:
    generator = torch.Generator().manual_seed(case.seed)
    replicas, batch, steps, units = case.shape
    fields, parts = case.neuron.Parameters._fields, len(case.neuron.State._fields)
    spiking = case.neuron.distance is not None

    def normal(*shape: int) -> Tensor:
        # drawn on the CPU, so that a case is the same on all devices
        return torch.randn(*shape, dtype=case.dtype, generator=generator).to(case.device)

    def constant(name: str) -> Tensor:
        low, high = RANGES[name]
        u = torch.rand(replicas, units, dtype=case.dtype, generator=generator)
        return (low + (high - low) * u).to(case.device)

    sequence = (replicas, batch, steps, units)
    # the adaptive neuron takes a share 1 - alpha of its input only
    strength = 3.0 if case.neuron in (ADLIF, SE_ADLIF) else 0.7
    return Layer(
        drive=strength * normal(*sequence),
        recurrent=normal(replicas, units, units) * units**-0.5 if case.recurrent else None,
        parameters=torch.stack([constant(name) for name in fields]),
        state=0.3 * normal(parts, replicas, batch, units),
        gate=1.25 * (normal(replicas, batch, units) > -1).to(case.dtype) if case.gate else None,
        grad_spikes=normal(*sequence) if spiking else None,
        grad_membranes=normal(*sequence) if case.loss_on_membranes or not spiking else None,
        grad_last=normal(parts, replicas, batch, units) if case.loss_on_state else None,
    )


@dataclass
class Outcome:
    spikes: Tensor | None
    membranes: Tensor
    last: Tensor
    grad_drive: Tensor
    grad_recurrent: Tensor | None
    grad_parameters: Tensor
    grad_first: Tensor


def by_triton(case: Case, of: Layer) -> Outcome:
    recipe = case.recipe
    names = derive(recipe).kept
    spikes, last, kept = scan_cuda.forward(
        recipe,
        of.drive,
        of.recurrent,
        of.parameters,
        of.state,
        of.gate,
        (*names, *({"membrane"} - {*names})),
        launch=case.launch,
    )
    membranes = dict(zip((*names, "membrane"), kept, strict=False))["membrane"]
    gradients = scan_cuda.backward(
        recipe,
        of.recurrent,
        of.parameters,
        of.gate,
        4.0,
        spikes,
        kept[: len(names)],
        of.grad_spikes,
        of.grad_membranes,
        of.grad_last,
        through_recurrence=case.through_recurrence,
        # without a way back through them, no weights are streamed
        launch=case.launch if case.through_recurrence else None,
    )
    return Outcome(spikes, membranes, last, *gradients)


def by_reference(case: Case, of: Layer) -> tuple[Outcome, Tensor]:
    """What the reference does, replica by replica, and the distances from threshold that it saw."""
    outcomes, distances = zip(
        *(one_by_reference(case, of, r) for r in range(case.shape[0])), strict=True
    )

    def over_replicas(name: str, dim: int) -> Any:
        parts = [getattr(o, name) for o in outcomes]
        return None if parts[0] is None else torch.stack(parts, dim)

    together = Outcome(
        spikes=over_replicas("spikes", 0),
        membranes=over_replicas("membranes", 0),
        last=over_replicas("last", 1),
        grad_drive=over_replicas("grad_drive", 0),
        grad_recurrent=over_replicas("grad_recurrent", 0),
        grad_parameters=over_replicas("grad_parameters", 1),
        grad_first=over_replicas("grad_first", 1),
    )
    return together, torch.stack(distances)


def one_by_reference(case: Case, of: Layer, r: int) -> tuple[Outcome, Tensor]:
    """Replica number r, without its axis."""
    recipe, neuron = case.recipe, case.neuron
    drive = of.drive[r].transpose(0, 1).requires_grad_()
    weight = None if of.recurrent is None else of.recurrent[r].requires_grad_()
    parameters = [p[r].requires_grad_() for p in of.parameters]
    first = [s[r].requires_grad_() for s in of.state]
    cell = Cell(
        neuron,
        neuron.Parameters(*parameters),
        recipe.surrogate,
        recipe.reset,
        recipe.gradient_through_reset,
        case.through_recurrence,
    )
    gate = None if of.gate is None else of.gate[r]
    result = scan_drive(drive, weight, cell, neuron.State(*first), gate)
    last = torch.stack(list(result.state))

    loss = drive.new_zeros(())
    if of.grad_spikes is not None:
        loss = loss + (result.spikes * of.grad_spikes[r].transpose(0, 1)).sum()
    if of.grad_membranes is not None:
        loss = loss + (result.membranes * of.grad_membranes[r].transpose(0, 1)).sum()
    if of.grad_last is not None:
        loss = loss + (last * of.grad_last[:, r]).sum()
    wanted = [parameters[neuron.Parameters._fields.index(p)] for p in case.parameter_gradients]
    asked = [drive, *first, *wanted] + ([] if weight is None else [weight])
    grads = torch.autograd.grad(loss, asked, allow_unused=True, materialize_grads=True)

    n, k = 1 + len(first), 1 + len(first) + len(wanted)
    outcome = Outcome(
        spikes=result.spikes.detach().transpose(0, 1),
        membranes=result.membranes.detach().transpose(0, 1),
        last=last.detach(),
        grad_drive=grads[0].transpose(0, 1),
        grad_recurrent=None if weight is None else grads[-1],
        grad_parameters=torch.stack(grads[n:k]) if wanted else drive.new_empty(0, case.shape[3]),
        grad_first=torch.stack(grads[1:n]),
    )
    if neuron.distance is None:
        return outcome, torch.ones_like(outcome.membranes)
    # no neuron here looks at another part of its state to decide about a spike
    membrane_only = dict.fromkeys(neuron.State._fields) | {"membrane": outcome.membranes}
    return outcome, neuron.distance(neuron.State(**membrane_only), cell.parameters).detach()


def is_telling(case: Case) -> bool:
    """Whether there are spikes and silence to compare, and no membrane at the threshold.

    Where one comes within some 1e-5, rounding decides about the spike, and about all that follows.
    """
    expected, distances = by_reference(case, layer(case))
    if case.neuron.distance is None:
        return True
    assert expected.spikes is not None
    tie = 1e-5 if case.dtype == torch.float32 else 1e-12
    return bool(expected.spikes.any() and (distances < 0).any() and distances.abs().min() > tie)


def assert_equal_but_for_rounding(case: Case) -> None:
    assert is_telling(case), "another seed, please"
    expected, _ = by_reference(case, layer(case))
    found = by_triton(case, layer(case))
    if case.neuron.distance is None:
        assert found.spikes is None
    else:
        torch.testing.assert_close(found.spikes, expected.spikes, rtol=0, atol=0)
    relative = 1e-4 if case.dtype == torch.float32 else 1e-10
    for name, right in vars(expected).items():
        left = getattr(found, name)
        if name == "spikes" or right is None:
            continue
        assert left.shape == right.shape, name
        scale = float(right.abs().max()) if right.numel() else 0.0
        torch.testing.assert_close(left, right, rtol=relative, atol=relative * scale / 10)
    assert (found.grad_recurrent is None) == (expected.grad_recurrent is None)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels go to a folder of these tests, and not to the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels made from now on run in Triton's interpreter."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    return str(request.param)


@st.composite
def cases(draw: Any) -> Case:
    neuron = draw(st.sampled_from([LIF, LIF_DELTA, LIF_REFRACTORY, ADLIF, SE_ADLIF]))
    names = neuron.Parameters._fields
    recurrent = draw(st.booleans())
    return Case(
        neuron=neuron,
        surrogate=draw(st.sampled_from(sorted(DERIVATIVES))),
        reset=draw(st.sampled_from(["subtract", "zero"])),
        gradient_through_reset=draw(st.booleans()),
        parameter_gradients=draw(st.sampled_from([(), names, names[:1], names[-1:]])),
        recurrent=recurrent,
        through_recurrence=draw(st.booleans()),
        gate=draw(st.booleans()),
        loss_on_membranes=draw(st.booleans()),
        loss_on_state=draw(st.booleans()),
        shape=(
            draw(st.integers(1, 3)),
            draw(st.sampled_from([1, 7, 17])),
            draw(st.integers(1, 8)),
            draw(st.sampled_from([5, 16, 33])),
        ),
        launch=draw(st.sampled_from([None, TINY_TILES])) if recurrent else None,
        seed=draw(st.integers(0, 1000)),
    )


@pytest.mark.parametrize("neuron", [LIF_REFRACTORY, SE_ADLIF], ids=lambda n: n.kind)
@pytest.mark.parametrize("through", [True, False], ids=["recurrence", "past-recurrence"])
@pytest.mark.parametrize("surrogate", ["multi-gaussian", "slayer"])
def test_newer_neurons_are_those_of_the_reference(
    neuron: Neuron, through: bool, surrogate: str, device: str
):
    case = Case(
        neuron=neuron,
        surrogate=surrogate,
        reset="zero",
        gradient_through_reset=True,
        parameter_gradients=neuron.Parameters._fields,
        through_recurrence=through,
        loss_on_state=True,
        device=device,
        seed=3,
    )
    assert_equal_but_for_rounding(case)


@given(case=cases())
@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_spikes_and_gradients_are_those_of_the_reference(case: Case, device: str):
    case = replace(case, device=device)
    assume(is_telling(case))
    assert_equal_but_for_rounding(case)


@pytest.mark.parametrize("launch", [None, TINY_TILES], ids=["resident", "streamed"])
@pytest.mark.parametrize("neuron", [LIF, LIF_DELTA, ADLIF], ids=lambda neuron: neuron.kind)
def test_double_precision_agrees_to_ten_digits(neuron: Neuron, launch: Launch | None, device: str):
    assert_equal_but_for_rounding(
        Case(
            neuron,
            surrogate="sigmoid",
            gradient_through_reset=True,
            parameter_gradients=neuron.Parameters._fields,
            gate=True,
            loss_on_membranes=True,
            loss_on_state=True,
            shape=(2, 7, 6, 17),
            launch=launch,
            dtype=torch.float64,
            device=device,
        )
    )


@pytest.mark.parametrize("gradients", [(), ("alpha", "beta")], ids=["fixed", "learned"])
def test_a_neuron_that_never_spikes(gradients: tuple[str, ...], device: str):
    assert_equal_but_for_rounding(
        Case(
            LEAKY,
            recurrent=False,
            parameter_gradients=gradients,
            loss_on_state=True,
            shape=(2, 7, 9, 20),
            device=device,
        )
    )


@pytest.mark.parametrize(
    ("recurrent", "shape"),
    [
        pytest.param(False, (2, 9, 5, 150), id="several blocks of units"),
        pytest.param(True, (1, 33, 4, 128), id="the largest layer that stays on chip"),
        pytest.param(True, (1, 17, 3, 150), id="a layer that does not fit on the chip"),
        pytest.param(True, (1, 1, 1, 1), id="one of each"),
    ],
)
def test_sizes(recurrent: bool, shape: tuple[int, int, int, int], device: str):
    # two steps at least for a spike to come about; a single one starts above threshold
    case = Case(recurrent=recurrent, loss_on_membranes=True, shape=shape, device=device)
    if shape == (1, 1, 1, 1):
        of = layer(case)
        found, expected = by_triton(case, of), by_reference(case, of)[0]
        torch.testing.assert_close(found.spikes, expected.spikes)
        torch.testing.assert_close(found.last, expected.last)
        torch.testing.assert_close(found.grad_drive, expected.grad_drive)
    else:
        assert_equal_but_for_rounding(case)


@pytest.mark.parametrize("gate", [False, True], ids=["spikes", "gated spikes"])
def test_products_keep_all_digits_of_the_weights(gate: bool, device: str):
    # with two parts of a weight in place of three the error would be 30 times this
    case = Case(gate=gate, shape=(1, 16, 4, 128), loss_on_membranes=True, device=device)
    of = layer(case)
    exact = replace(case, dtype=torch.float64)
    in_double: dict[str, Any] = {k: t if t is None else t.double() for k, t in vars(of).items()}
    expected, _ = by_reference(exact, Layer(**in_double))
    found = by_triton(case, of)
    torch.testing.assert_close(found.spikes, expected.spikes, check_dtype=False)
    for name in ("membranes", "grad_drive", "grad_recurrent"):
        left, right = getattr(found, name).double(), getattr(expected, name)
        assert (left - right).abs().max() <= 1e-6 * right.abs().max()


def test_a_scan_goes_on_where_another_ended(device: str):
    case = Case(ADLIF, shape=(2, 7, 10, 16), device=device)
    of, recipe = layer(case), case.recipe
    recurrent, parameters = of.recurrent, of.parameters
    whole, last, _ = scan_cuda.forward(recipe, of.drive, recurrent, parameters, of.state, None, ())
    first_half, state, _ = scan_cuda.forward(
        recipe, of.drive[:, :, :4], recurrent, parameters, of.state, None, ()
    )
    second_half, end, _ = scan_cuda.forward(
        recipe, of.drive[:, :, 4:], recurrent, parameters, state, None, ()
    )
    assert whole is not None
    assert first_half is not None
    assert second_half is not None
    assert torch.equal(torch.cat([first_half, second_half], dim=2), whole)
    assert torch.equal(end, last)


def test_replicas_may_have_slopes_of_their_own(device: str):
    case = Case(shape=(2, 7, 9, 16), device=device)
    of, recipe = layer(case), case.recipe
    spikes, _, kept = scan_cuda.forward(
        recipe, of.drive, of.recurrent, of.parameters, of.state, None, derive(recipe).kept
    )

    def gradient(slope: float | Tensor) -> Tensor:
        found = scan_cuda.backward(
            recipe, of.recurrent, of.parameters, None, slope, spikes, kept, of.grad_spikes, None, None
        )  # fmt: skip
        return found[0]

    both = gradient(torch.tensor([2.0, 8.0], device=device))
    assert torch.equal(both[0], gradient(2.0)[0])
    assert torch.equal(both[1], gradient(8.0)[1])
    assert not torch.equal(both[1], gradient(2.0)[1])


def test_a_gpu_with_less_memory_on_chip_streams_what_hopper_keeps():
    assert not choose_launch(128, recurrent=True, shared_memory=HOPPER_SHARED_MEMORY).streamed
    assert choose_launch(129, recurrent=True, shared_memory=HOPPER_SHARED_MEMORY).streamed
    assert choose_launch(128, recurrent=True, shared_memory=99 * 1024).streamed
    assert not choose_launch(64, recurrent=True, shared_memory=99 * 1024).streamed
    assert not choose_launch(4096, recurrent=False, shared_memory=99 * 1024).streamed


def test_tensors_of_the_cpu_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(SnnbenchError, match="runs on a GPU, and got tensors on cpu"):
        by_triton(Case(), layer(Case()))


def test_without_triton_the_error_says_what_to_install(
    interpreter: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setitem(sys.modules, "triton.language", None)
    with pytest.raises(SnnbenchError, match="needs triton, which is not installed"):
        by_triton(Case(), layer(Case()))


def test_a_folder_that_cannot_be_written_only_costs_time(
    interpreter: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "snnbench").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # a recipe that no other test has had made
    module = kernels(Case(parameter_gradients=("beta", "alpha")).recipe)
    assert module.forward_resident is not None
    assert (tmp_path / "snnbench").read_text() == "in the way"


class MadeUpState(NamedTuple):
    membrane: Any
    trace: Any
    slow: Any


class MadeUpConstants(NamedTuple):
    # names that the template uses, too
    gate: Any
    tl: Any
    now: Any


def made_up_step(
    drive: Any, spike: Any, state: MadeUpState, p: MadeUpConstants, reset: Any
) -> MadeUpState:
    # what is read of the past is more than the membrane, and something is divided by
    return MadeUpState(
        membrane=reset(p.tl * state.membrane + drive / p.now - state.trace * state.slow**2, 0.5),
        trace=p.gate * state.trace + spike,
        slow=p.now * state.slow + (1 - p.now) * exp(-(state.membrane**2)),
    )


MADE_UP = Neuron(
    "made-up", MadeUpState, MadeUpConstants, made_up_step, lambda state, p: state.membrane - p.tl
)


@pytest.mark.parametrize("launch", [None, TINY_TILES], ids=["resident", "streamed"])
def test_a_new_kind_of_neuron_needs_nothing_but_its_equations(launch: Launch | None, device: str):
    assert_equal_but_for_rounding(
        Case(
            MADE_UP,
            gradient_through_reset=True,
            parameter_gradients=MadeUpConstants._fields,
            loss_on_state=True,
            shape=(2, 7, 6, 20),
            launch=launch,
            device=device,
        )
    )


# ---- what the compiler says ---------------------------------------------------------------------

HOPPER = 90


@dataclass(frozen=True)
class Compiled:
    bytes_spilled: int
    shared_memory: int


def compiled(case: Case, name: str, n_units: int) -> Compiled:
    """What the kernel that a layer of so many units runs on a Hopper asks of it; no GPU is needed."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    launch = choose_launch(n_units, recurrent=case.recurrent, shared_memory=HOPPER_SHARED_MEMORY)
    kernel = getattr(kernels(case.recipe), name)
    constants: dict[str, Any] = {"SAMPLES": launch.samples, "UNITS": launch.units}
    constants |= scan_cuda._arithmetic(case.dtype, launch.streamed)
    absent = {"grad_last"} | {f"kept_{part}" for part in (*case.neuron.State._fields, "drive")}
    absent -= {f"kept_{part}" for part in derive(case.recipe).kept}
    absent |= set() if case.gate else {"gate"}
    absent |= set() if case.loss_on_membranes else {"grad_membranes"}
    absent |= set() if case.recurrent else {"recurrent"}
    absent |= set() if case.neuron.distance else {"spikes", "grad_spikes"}
    constants |= dict.fromkeys(absent & {*kernel.arg_names})
    integers = {"n_steps", "n_batch", "n_units"}
    pointer = {torch.float32: "*fp32", torch.float64: "*fp64"}[case.dtype]
    types = {
        name: "constexpr" if name in constants else "i32" if name in integers else pointer
        for name in kernel.arg_names
    }
    multiples_of_16 = {
        (k,): [["tt.divisibility", 16]]
        for k, (name, kind) in enumerate(types.items())
        if kind == pointer or name == "n_units"
    }
    made = triton.compile(
        ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=multiples_of_16),
        target=GPUTarget("cuda", HOPPER, 32),
        options={"num_warps": launch.warps},
    )
    return Compiled(_stack(made.asm["cubin"]), made.metadata.shared)


def _stack(cubin: bytes) -> int:
    """Bytes per thread in local memory, where registers are spilled to."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.is_file():
        pytest.skip(f"this Triton comes without {tool.name}")
    file = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.cubin"
    file.write_bytes(cubin)
    told = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True)
    found = re.search(r"STACK:(\d+)", told.stdout)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize(
    ("case", "n_units"),
    [
        pytest.param(Case(), 128, id="LIF, 128 units"),
        pytest.param(Case(), 20, id="LIF, 20 units"),
        pytest.param(Case(), 256, id="LIF, 256 units"),
        pytest.param(Case(recurrent=False), 1024, id="LIF without recurrence"),
        pytest.param(Case(LEAKY, recurrent=False, loss_on_membranes=True), 20, id="leaky readout"),
    ],
)
def test_kernels_for_hopper_keep_everything_on_chip(case: Case, n_units: int):
    streamed = choose_launch(
        n_units, recurrent=case.recurrent, shared_memory=HOPPER_SHARED_MEMORY
    ).streamed
    for name in ("forward", "backward"):
        made = compiled(case, f"{name}_{'streamed' if streamed else 'resident'}", n_units)
        assert made.bytes_spilled == 0
        assert made.shared_memory <= HOPPER_SHARED_MEMORY


def test_the_shared_memory_that_a_launch_counts_on_is_what_the_compiler_takes():
    # as choose_launch computes it
    assert compiled(Case(), "backward_resident", 128).shared_memory == 6 * 128 * (128 + 16)


@pytest.mark.parametrize("kind", ["resident", "streamed"])
@pytest.mark.parametrize(
    ("neuron", "surrogate"),
    [(ADLIF, "sigmoid"), (POWERS, "boxcar")],
    ids=lambda what: getattr(what, "kind", what),
)
def test_all_that_a_kernel_can_do_compiles_for_hopper(neuron: Neuron, surrogate: str, kind: str):
    case = Case(
        neuron,
        surrogate=surrogate,
        reset="zero",
        gradient_through_reset=True,
        parameter_gradients=neuron.Parameters._fields,
        gate=True,
        loss_on_membranes=True,
    )
    n_units = {"resident": 64, "streamed": 192}[kind]
    for dtype in (torch.float32, torch.float64):
        for name in ("forward", "backward"):
            made = compiled(replace(case, dtype=dtype), f"{name}_{kind}", n_units)
            assert made.shared_memory <= HOPPER_SHARED_MEMORY
