"""A recorded training step against the same step, launched kernel by kernel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from snnbench.models.cuda_graph import GraphedStep


class Training:
    """A small network with dropout, and its training step."""

    def __init__(self, device: str) -> None:
        torch_generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(3, 5, generator=torch_generator).to(device).requires_grad_()
        self.optimiser = torch.optim.Adam([self.weight], lr=0.1, capturable=device == "cuda")
        self.generator = torch.Generator(device).manual_seed(1)

    def step(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        self.optimiser.zero_grad(set_to_none=True)
        drop = torch.rand(inputs.shape, generator=self.generator, device=inputs.device) < 0.2
        logits = inputs.masked_fill(drop, 0.0) @ self.weight.t()
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        self.optimiser.step()
        return loss.detach(), logits.detach().argmax(dim=1)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_recorded_step_trains_as_an_ordinary_one_does(device: str):
    generator = torch.Generator().manual_seed(2)
    sizes = [8, 8, 8, 8, 8, 3, 8, 8, 3]  # with a short last batch in each of two epochs
    batches = [
        (
            torch.randn(n, 5, generator=generator).to(device),
            torch.randint(3, (n,), generator=generator).to(device),
        )
        for n in sizes
    ]
    ordinary, recorded = Training(device), Training(device)
    graphed = GraphedStep(recorded.step, generators=[recorded.generator], warm_up=2)
    expected = [ordinary.step(*batch) for batch in batches]
    found = [graphed(*batch) for batch in batches]
    # results are kept, not overwritten by later steps
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right)
    torch.testing.assert_close(recorded.weight, ordinary.weight)


@pytest.mark.gpu
def test_after_the_warm_up_python_is_not_run_again():
    training = Training("cuda")
    calls = 0

    def counted(*batch: Tensor) -> tuple[Tensor, ...]:
        nonlocal calls
        calls += 1
        return training.step(*batch)

    graphed = GraphedStep(counted, generators=[training.generator], warm_up=2)
    batch = torch.randn(8, 5, device="cuda"), torch.zeros(8, dtype=torch.int64, device="cuda")
    losses = [float(graphed(*batch)[0]) for _ in range(10)]
    assert calls == 3  # two to warm up, one to record
    assert losses[-1] < losses[0]
