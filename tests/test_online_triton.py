"""Online learning's Triton kernels against numba's: in Triton's interpreter, and on a GPU where there is one.

Rounding is the same but in one place: inputs of a step are summed in another order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from snnbench.errors import SnnbenchError
from snnbench.models.online import triton_engine
from snnbench.models.online.constants import Heterosynaptic, Neuron
from snnbench.models.online.engine import CpuEngine, Engine
from snnbench.models.online.feedback import make_feedback
from snnbench.models.online.rules import (
    E_PROP,
    SUPERSPIKE,
    Filter,
    Rule,
    SurrogateOfMembrane,
)
from snnbench.models.online.triton_engine import UNITS, TritonEngine
from snnbench.models.superspike import Learner, Settings, initial_weights

triton = pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA, or pip install")

STEPS, SEEDS, DT_S = 60, 3, 1e-4
FILTERS = {
    "double": SUPERSPIKE.eligibility,
    "single": E_PROP.eligibility,
    "none": Filter(0.0, 0.0),
}


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled kernels go to a folder of these tests, and not to the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    return str(request.param)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def poisson(*shape: int, probability: float, seed: int = 0) -> Tensor:
    u = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    return (u < probability).to(torch.uint8)


def impulses(*shape: int) -> Tensor:
    """-1, 0 and 1, mostly 0."""
    late = poisson(*shape, probability=0.1, seed=1).double()
    return late - poisson(*shape, probability=0.1, seed=2).double()


def on_both(device: str, call: Any, *tensors: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """What an engine's method made of the same tensors, numba's and Triton's; also what it returned."""
    results = []
    for engine, where in ((CpuEngine(), "cpu"), (TritonEngine(), device)):
        own = [t.clone().to(where) for t in tensors]
        returned = call(engine, *own)
        results.append([*own, *([] if returned is None else [returned])])
    for expected, found in zip(*results, strict=True):
        yield expected, found.cpu()


# ---- kernels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("n_post", [5, UNITS + 1], ids=["one chunk", "several chunks"])
def test_neurons(n_post: int, dtype: torch.dtype, device: str):
    below = poisson(3 * STEPS, SEEDS, 8, probability=0.1)
    weights = 10 + 30 * drawn(SEEDS, n_post, 8, dtype=dtype)
    state = torch.full((SEEDS, n_post), -60.0, dtype=dtype), torch.zeros(SEEDS, n_post, dtype=dtype)
    waits = torch.zeros(SEEDS, n_post, dtype=torch.int32)
    waits[0] = 7
    spikes = torch.zeros(3 * STEPS, SEEDS, n_post, dtype=torch.uint8)
    membranes = torch.zeros(3 * STEPS, SEEDS, n_post, dtype=dtype)

    def call(engine: Engine, voltage, current, waits, spikes, membranes):
        given = below.to(voltage.device), weights.to(voltage.device)
        engine.lif(*given, (voltage, current, waits), spikes, membranes, Neuron())

    pairs = list(on_both(device, call, *state, waits, spikes, membranes))
    # after the refractory time some of them fire a second time
    assert int(pairs[3][0].sum(0).max()) > 1
    relative = 1e-10 if dtype == torch.float64 else 1e-5
    for expected, found in pairs:
        if expected.is_floating_point():
            torch.testing.assert_close(found, expected, rtol=relative, atol=100 * relative)
        else:
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", FILTERS)
def test_presynaptic_traces(name: str, dtype: torch.dtype, device: str):
    spikes = poisson(STEPS, SEEDS, 8, probability=0.1)
    state = drawn(2, SEEDS, 8, dtype=dtype).abs()
    out = torch.zeros(STEPS, SEEDS, 8, dtype=dtype)

    def call(engine: Engine, spikes, state, out):
        engine.trace(spikes, state, out, FILTERS[name], DT_S, 0.3)

    for expected, found in on_both(device, call, spikes, state, out):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", FILTERS)
def test_error_traces(name: str, dtype: torch.dtype, device: str):
    made = impulses(STEPS, SEEDS, 5).to(dtype)
    state, out = drawn(2, SEEDS, 5, dtype=dtype), torch.zeros(STEPS + 1, SEEDS, 5, dtype=dtype)

    def call(engine: Engine, made, state, out):
        engine.errors(made, state, out, FILTERS[name], DT_S)

    for expected, found in on_both(device, call, made, state, out):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("history", [0, 25])
@pytest.mark.parametrize("name", FILTERS)
def test_credit(name: str, history: int, dtype: torch.dtype, device: str):
    third = drawn(STEPS, SEEDS, 5, dtype=dtype)
    factor = drawn(history + STEPS, SEEDS, 5, dtype=dtype, seed=1)
    out = torch.zeros_like(factor)

    def call(engine: Engine, third, factor, out):
        engine.credit(third, factor, out, FILTERS[name], DT_S, 0.3)

    for expected, found in on_both(device, call, third, factor, out):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "term",
    [Heterosynaptic(), Heterosynaptic(exponent=0), Heterosynaptic(times_error=True)],
    ids=["fourth power", "constant", "times error"],
)
def test_activity(term: Heterosynaptic, device: str):
    spikes, z = poisson(STEPS, SEEDS, 5, probability=0.1), drawn(SEEDS, 5).abs()
    third = drawn(STEPS, SEEDS, 5, seed=1)

    def call(engine: Engine, spikes, z, third):
        return engine.activity(spikes, z, third, term, DT_S)

    for expected, found in on_both(device, call, spikes, z, third):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


# ---- a network that learns -----------------------------------------------------------------------

FAST = Neuron(tau_mem_s=1e-3, tau_syn_s=0.5e-3, refractory_s=0.5e-3)
FAST_RULE = Rule(
    "fast superspike",
    post=SurrogateOfMembrane(),
    pre=Filter(0.5e-3, 1e-3),
    # what an eligibility remembers is a block and a half of the few steps that the interpreter has time for
    eligibility=Filter(0.1e-3, 0.25e-3),
    third=Filter(0.5e-3, 1e-3),
)


def learner(engine: Engine | None, device: str = "cpu") -> Learner:
    generators = [torch.Generator().manual_seed(s) for s in range(SEEDS)]
    weights = initial_weights([8, 6, 5], generators, w0_mv=120, dtype=torch.float64)
    weights = [w.to(device) for w in weights]
    settings = Settings(
        neuron=FAST, rule=FAST_RULE, block_s=STEPS * DT_S, heterosynaptic=Heterosynaptic()
    )
    made = Learner(weights, make_feedback("symmetric", weights, generators), settings)
    if engine is not None:
        made.engine = engine
    return made


def test_a_network_learns_the_same(device: str):
    ours = learner(TritonEngine() if device == "cpu" else None, device)
    assert isinstance(ours.engine, TritonEngine)
    theirs = learner(None)
    start = [w.clone() for w in theirs.weights]
    for block in range(3):
        inputs = poisson(STEPS, SEEDS, 8, probability=0.2, seed=block)
        targets = poisson(STEPS, 1, 5, probability=0.05, seed=100 + block)
        found = ours.run(inputs.to(device), targets.to(device))
        expected = theirs.run(inputs, targets)
        for a, b in zip(found.spikes, expected.spikes, strict=True):
            assert b.any()
            assert not b.all()
            torch.testing.assert_close(a.cpu(), b, rtol=0, atol=0)
        for w, v in zip(ours.weights, theirs.weights, strict=True):
            torch.testing.assert_close(w.cpu(), v, rtol=1e-9, atol=1e-9)
        if block == 1:  # a checkpoint is read on the CPU
            ours.restore({name: x.cpu() for name, x in ours.state().items()})
    for before, after in zip(start, theirs.weights, strict=True):
        assert float((after - before).abs().max()) > 1
    torch.testing.assert_close(ours.metric().cpu(), theirs.metric(), rtol=1e-9, atol=0)


@pytest.mark.gpu
def test_a_network_of_usual_size_learns_the_same_on_a_gpu():
    learners = []
    for device in ("cpu", "cuda"):
        generators = [torch.Generator().manual_seed(s) for s in range(SEEDS)]
        weights = initial_weights([100, 64, 50], generators, dtype=torch.float64)
        weights = [w.to(device) for w in weights]
        learners.append(Learner(weights, make_feedback("random", weights, generators)))
    steps = learners[0].settings.steps
    for block in range(3):
        inputs = poisson(steps, SEEDS, 100, probability=1e-3, seed=block)
        targets = poisson(steps, 1, 50, probability=1e-3, seed=100 + block)
        expected, found = (
            x.run(inputs.to(w := x.weights[0].device), targets.to(w)) for x in learners
        )
        for a, b in zip(found.spikes, expected.spikes, strict=True):
            assert b.any()
            torch.testing.assert_close(a.cpu(), b, rtol=0, atol=0)
        for v, w in zip(*(x.weights for x in learners), strict=True):
            torch.testing.assert_close(w.cpu(), v, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pointer", ["*fp32", "*fp64"])
@pytest.mark.parametrize("name", ["lif", "trace", "errors", "credit", "activity"])
def test_kernels_compile_without_a_gpu(name: str, pointer: str, monkeypatch: pytest.MonkeyPatch):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    kernel = triton_engine._kernel(name, False)
    constants: dict[str, Any] = {"UNITS": UNITS, "HOLD": 50, "EXPONENT": 4, "TIMES_ERROR": True}
    types = {"spikes": "*u8", "waits": "*i32"}
    for argument in kernel.arg_names:
        if argument.isupper():
            constants.setdefault(argument, 0.01)
            types[argument] = "constexpr"
        elif argument.startswith("n_"):
            types[argument] = "i32"
    constants = {n: x for n, x in constants.items() if n in kernel.arg_names}
    types = {n: types.get(n, pointer) for n in kernel.arg_names}
    made = triton.compile(
        ASTSource(fn=kernel, signature=types, constexprs=constants),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": 1, "enable_fp_fusion": False},
    )
    assert "fma." not in made.asm["ptx"]
    assert "0d3F847AE140000000" not in made.asm["ptx"]  # 0.01 rounded to float32
    assert made.metadata.shared == 0  # units do not meet


# ---- what cannot work ----------------------------------------------------------------------------


def test_tensors_of_the_cpu_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    made = learner(TritonEngine())
    with pytest.raises(SnnbenchError, match="run on a GPU, and got tensors on cpu"):
        made.run(poisson(STEPS, 1, 8, probability=0.1), poisson(STEPS, 1, 5, probability=0.1))


def test_without_triton_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton_engine, "_kernel", triton_engine._kernel.__wrapped__)
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setitem(sys.modules, "triton.language", None)
    with pytest.raises(SnnbenchError, match="needs triton, which is not installed"):
        learner(TritonEngine()).run(
            poisson(STEPS, 1, 8, probability=0.1), poisson(STEPS, 1, 5, probability=0.1)
        )
