"""Networks computed together are as if each were computed alone: logits, spikes and gradients."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from snnbench.checkpoint import build_for
from snnbench.data_prep.batch import EventBatch
from snnbench.data_prep.loader import SpikeLoader
from snnbench.errors import SnnbenchError
from snnbench.models.engines import Engine
from snnbench.models.network_base import Network, NetworkOutput
from snnbench.models.network_stack import forward_together, why_not_stacked
from snnbench.seeding import deterministic, make_generator
from snnbench.spec import RunSpec, make_run_spec
from tests.toy_spikes import small, toy_split

SPLIT = toy_split(24, seed=1)
SEEDS = (0, 1, 2)
CPU = torch.device("cpu")
ZOO = ["ff-lif-2", "rec-lif", "het-rec-lif", "se-adlif", "delay-lif", "conv-adlif"]

needs_triton = pytest.mark.usefixtures("interpreter")


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA, or pip install")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def zoo_spec(model: str, **overrides: Any) -> RunSpec:
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return make_run_spec(
        "digits-synthetic",
        model,
        seed=0,
        data_fingerprint="toy",
        overrides={**small(model), "model.dropout": 0.2, **dotted},
    )


def networks_of(spec: RunSpec, engine: Engine, device: torch.device) -> list[Network]:
    networks = [build_for(spec, make_generator(seed, "init")).to(device) for seed in SEEDS]
    for network in networks:
        network.engine = engine
    return networks


def batches_of(spec: RunSpec, device: torch.device, sizes: tuple[int, ...]) -> list[EventBatch]:
    loader = SpikeLoader(SPLIT, spec, device)
    firsts = (0, 6, 12)
    return [loader.event_batch(torch.arange(f, f + n)) for f, n in zip(firsts, sizes, strict=True)]


def passes(
    spec: RunSpec, *, together: bool, engine: Engine, sizes: tuple[int, ...], device: torch.device
) -> tuple[list[NetworkOutput], list[torch.Tensor]]:
    """Outputs, and gradients of all weights."""
    with deterministic():
        networks = networks_of(spec, engine, device)
        batches = batches_of(spec, device, sizes)
        noise = [make_generator(seed, "dropout", device) for seed in SEEDS]
        if together:
            outputs = forward_together(networks, batches, noise)
        else:
            outputs = [n(b, g) for n, b, g in zip(networks, batches, noise, strict=True)]
        losses = [
            torch.nn.functional.cross_entropy(o.logits, b.labels)
            + 1e-3 * sum(c.square().mean() for c in o.spike_counts)
            for o, b in zip(outputs, batches, strict=True)
        ]
        torch.autograd.backward(losses)
    return outputs, [p.grad for n in networks for p in n.parameters() if p.grad is not None]


def assert_as_if_alone(
    spec: RunSpec,
    engine: Engine = "reference",
    *,
    sizes: tuple[int, ...] = (6, 6, 6),
    device: torch.device = CPU,
    tolerance: float = 0.0,
) -> None:
    given: dict[str, Any] = {"engine": engine, "sizes": sizes, "device": device}
    found, gradients = passes(spec, together=True, **given)
    expected, right = passes(spec, together=False, **given)
    assert sum(float(c.detach().sum()) for o in expected for c in o.spike_counts) > 0
    assert not torch.equal(expected[0].logits, expected[1].logits)
    for a, b in zip(found, expected, strict=True):
        for counts, those in zip(a.spike_counts, b.spike_counts, strict=True):
            assert torch.equal(counts, those)
        torch.testing.assert_close(a.logits, b.logits, rtol=tolerance, atol=tolerance)
    assert len(gradients) == len(right) > 0
    for g, h in zip(gradients, right, strict=True):
        torch.testing.assert_close(g, h, rtol=tolerance, atol=tolerance * float(h.abs().max()))


@pytest.mark.parametrize("model", ZOO)
def test_a_stack_of_a_zoo_model_is_bit_equal_to_single_networks(model: str):
    assert_as_if_alone(zoo_spec(model))


@pytest.mark.parametrize(
    "changed",
    [
        {"model__readout": {"kind": "spike-count"}},
        {"model__readout": {"kind": "first-spike"}},
        {"model__readout__reduce": "softmax-sum", "model__readout__norm": "batch"},
        {"model__readout__reduce": "last", "train__precision": "bfloat16"},
    ],
    ids=str,
)
def test_every_readout_stacks(changed: dict[str, Any]):
    assert_as_if_alone(zoo_spec("ff-lif-2", **changed))


@pytest.mark.parametrize("sizes", [(6, 4, 6), (6, 5, 4)])
def test_batches_of_other_sizes_are_computed_apart(sizes: tuple[int, ...]):
    assert_as_if_alone(zoo_spec("rec-lif"), sizes=sizes)


@needs_triton
@pytest.mark.parametrize("model", ["ff-lif-2", "rec-lif", "het-rec-lif"])
def test_a_stack_by_triton_agrees_with_single_networks(model: str):
    spec = zoo_spec(model, train__dt_s=0.01)
    assert_as_if_alone(spec, "triton", tolerance=1e-5)


class Counting(TorchDispatchMode):
    """How often operators are called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))


@needs_triton
def test_the_scans_of_a_stack_are_as_many_as_those_of_one_network():
    spec = zoo_spec("rec-lif", train__dt_s=0.01)
    given: dict[str, Any] = {"engine": "triton", "sizes": (2, 2, 2), "device": CPU}
    with Counting() as stack:
        passes(spec, together=True, **given)
    with Counting() as single:
        passes(spec, together=False, **given)
    # one hidden layer and the readout, there and back
    for name in ("snnbench.scan_cuda.default", "snnbench.scan_cuda_backward.default"):
        assert (stack.calls[name], single.calls[name]) == (2, 3 * 2)
    assert stack.calls.total() < single.calls.total()


@pytest.mark.gpu
@pytest.mark.parametrize("model", ZOO)
def test_a_stack_on_a_gpu_agrees_with_single_networks(model: str):
    assert_as_if_alone(zoo_spec(model), "triton", device=torch.device("cuda"), tolerance=1e-4)


def test_what_cannot_be_stacked_is_told():
    lstm = networks_of(zoo_spec("lstm"), "reference", CPU)
    spec = zoo_spec("ff-lif")
    assert why_not_stacked(networks_of(spec, "reference", CPU)[0], "triton") is None
    for networks, says in (
        (lstm, "do not spike"),
        (networks_of(spec, "cpp", CPU), "engine cpp computes one"),
        (networks_of(zoo_spec("ff-lif", train__recompute_steps=5), "reference", CPU), "recompute"),
    ):
        with pytest.raises(SnnbenchError, match=says):
            forward_together(networks, batches_of(spec, CPU, (4, 4, 4)), [None] * 3)
