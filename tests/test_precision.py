"""Dense products in bfloat16: what is rounded, what is not, and that networks learn with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from snnbench.checkpoint import build_for, load_network
from snnbench.data_prep.loader import SpikeLoader
from snnbench.evaluate import predict
from snnbench.metrics import count_correct
from snnbench.models.engines import Engine
from snnbench.models.network import SpikingNetwork
from snnbench.models.precision import Precision, product
from snnbench.spec import RunSpec
from snnbench.train import fit
from tests.toy_spikes import toy_spec, toy_split

CPU = torch.device("cpu")
TRAIN, VALID = toy_split(90, seed=1), toy_split(41, seed=2)
KEPT, LOST = 2.0**-7, 2.0**-9
"""Steps beside 1 that eight significant bits have, and have not."""


def row(*values: float) -> Tensor:
    return torch.tensor([values])


@pytest.mark.parametrize(
    ("spikes", "weight", "exact", "rounded"),
    [
        (row(1.0), row(1 + KEPT), 1 + KEPT, 1 + KEPT),
        (row(1.0), row(1 + LOST), 1 + LOST, 1.0),  # a weight is rounded
        (row(255.0), row(1.0), 255.0, 255.0),  # a count is not
        (row(256.0, 1.0), row(1.0, 1.0), 257.0, 256.0),  # the result is
        (row(256.0, 1.0, 1.0), row(1.0, 1.0, 1.0), 258.0, 258.0),  # what is summed is not
    ],
)
def test_factors_and_the_result_have_eight_bits(
    spikes: Tensor, weight: Tensor, exact: float, rounded: float
) -> None:
    assert product(spikes, weight).tolist() == [[exact]]
    found = product(spikes, weight, "bfloat16")
    assert (found.tolist(), found.dtype) == ([[rounded]], torch.float32)


@given(seed=st.integers(0, 10_000), replicas=st.sampled_from([0, 1, 3]))
def test_it_is_near_the_exact_product_and_so_are_its_gradients(seed: int, replicas: int) -> None:
    g = torch.Generator().manual_seed(seed)
    axis = (replicas,) if replicas else ()
    spikes = torch.poisson(torch.full((*axis, 7, 30), 0.3), generator=g).requires_grad_()
    weight = torch.randn(*axis, 5, 30, generator=g).requires_grad_()
    onto = torch.randn(*axis, 7, 5, generator=g)
    results: dict[Precision, tuple[Tensor, ...]] = {}
    kinds: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in kinds:
        out = product(spikes, weight, precision)
        results[precision] = (out, *torch.autograd.grad(out, (spikes, weight), onto))
    # two factors and the result are each off by at most 2^-8 of themselves
    sizes = (
        spikes @ weight.abs().mT,
        onto.abs() @ weight.abs(),
        onto.abs().mT @ spikes,
    )
    for exact, found, size in zip(*results.values(), sizes, strict=True):
        assert found.dtype == torch.float32
        assert ((found - exact).abs() <= 3.1 * 2**-8 * size + 1e-5).all()


def network_and_batch(spec: RunSpec, engine: Engine) -> tuple[SpikingNetwork, Any]:
    network = build_for(spec, torch.Generator().manual_seed(0))
    assert isinstance(network, SpikingNetwork)
    network.engine = engine
    [batch] = SpikeLoader(TRAIN, spec, CPU).event_batches(90, torch.Generator().manual_seed(1))
    return network, batch


def outcome(spec: RunSpec, engine: Engine) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and gradients of a batch."""
    network, batch = network_and_batch(spec, engine)
    logits = network(batch).logits
    torch.nn.functional.cross_entropy(logits, batch.labels).backward()
    gradients = {}
    for name, p in network.named_parameters():
        assert p.dtype == torch.float32
        assert p.grad is not None
        gradients[name] = p.grad
    return logits.detach(), gradients


NORMS: list[dict[str, Any]] = [{}, {"model__norm": "batch"}, {"model__norm": "layer"}]


@pytest.mark.parametrize("fields", NORMS)
def test_logits_and_gradients_are_near_those_of_float32(fields: dict[str, Any]) -> None:
    whole, rounded = (
        outcome(
            toy_spec("rec-lif", model__hidden=[16, 16], train__precision=p, **fields), "reference"
        )
        for p in ("float32", "bfloat16")
    )
    assert rounded[0].dtype == torch.float32
    # some spikes turn on the rounding of a weight; networks that have nothing in common differ by more than 1
    assert 0 < (whole[0] - rounded[0]).norm() < 0.25 * whole[0].norm()
    for name, grad in whole[1].items():
        assert (grad - rounded[1][name]).norm() < 0.5 * grad.norm(), name


@pytest.mark.parametrize("fields", NORMS)
def test_kernels_of_the_cpu_have_no_dense_product_but_before_a_normalisation(
    fields: dict[str, Any],
) -> None:
    whole, rounded = (
        outcome(toy_spec("rec-lif", model__hidden=[16, 16], train__precision=p, **fields), "auto")
        for p in ("float32", "bfloat16")
    )
    assert torch.equal(whole[0], rounded[0]) == (not fields)


def test_only_factors_and_products_are_rounded() -> None:
    """A network whose weights and drives have few bits does to the bit what it does in float32."""
    outputs = []
    for precision in ("float32", "bfloat16"):
        spec = toy_spec("rec-lif", train__precision=precision)
        network, batch = network_and_batch(spec, "reference")
        with torch.no_grad():
            # whole sums below 256 have eight bits; recurrent weights keep all of theirs
            for name, weight in network.named_parameters():
                if not name.endswith("recurrent_weight"):
                    weight.copy_(weight.sign())
        outputs.append((network(batch).logits, network.hidden_spikes(batch)[0]))
    assert torch.equal(*(logits for logits, _ in outputs))
    assert torch.equal(*(spikes for _, spikes in outputs))
    assert outputs[0][1].sum() > 100


def test_a_run_trains_and_is_tested_in_its_precision(tmp_path: Path) -> None:
    engine: Engine = "reference"
    specs = [toy_spec("ff-lif", train__precision=p) for p in ("float32", "bfloat16")]
    assert specs[0].digest == toy_spec("ff-lif").digest != specs[1].digest
    results = [
        fit(spec, TRAIN, VALID, folder=tmp_path / str(i), device=CPU, engine=engine)
        for i, spec in enumerate(specs)
    ]
    counts = [result.validation for result in results]
    assert all(c is not None and c.accuracy > 0.5 for c in counts)
    network, spec = load_network(tmp_path / "1" / "model.safetensors")
    assert isinstance(network, SpikingNetwork)
    network.engine = engine
    assert (network.precision, spec) == ("bfloat16", specs[1])
    assert all(t.dtype == torch.float32 for t in network.state_dict().values())
    found = predict(network, VALID, spec, CPU).predictions
    assert count_correct(found, VALID.labels) == counts[1]
    [batch] = SpikeLoader(VALID, spec, CPU).event_batches(41)
    logits = network(batch).logits
    network.precision = "float32"
    assert not torch.equal(network(batch).logits, logits)
