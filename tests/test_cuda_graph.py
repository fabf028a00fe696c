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


def batches(sizes: list[int], device: str) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (
            torch.randn(n, 5, generator=generator).to(device),
            torch.randint(3, (n,), generator=generator).to(device),
        )
        for n in sizes
    ]


@pytest.mark.gpu
def test_a_recorded_step_trains_as_an_ordinary_one_does():
    ordinary, recorded = Training("cuda"), Training("cuda")
    graphed = GraphedStep(recorded.step, generators=[recorded.generator], warm_up=2)
    # with a short last batch in each of two epochs
    every = batches([8, 8, 8, 8, 8, 3, 8, 8, 3], "cuda")
    expected = [ordinary.step(*batch) for batch in every]
    found = [graphed(*batch) for batch in every]
    # results are kept, not overwritten by later steps
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right)
    torch.testing.assert_close(recorded.weight, ordinary.weight)


def test_on_a_cpu_every_batch_is_trained_on_once_and_nothing_is_recorded():
    # what is recorded, and whether it trains as the step does, only a GPU can show
    seen: list[tuple[Tensor, ...]] = []

    def step(*batch: Tensor) -> tuple[Tensor, ...]:
        seen.append(batch)
        return batch

    every = batches([8, 8, 8, 8, 3, 8, 3], "cpu")
    graphed = GraphedStep(step, warm_up=2)
    found = [graphed(*batch) for batch in every]
    for batch, trained, result in zip(every, seen, found, strict=True):
        assert all(t is u is v for t, u, v in zip(batch, trained, result, strict=True))


@pytest.mark.parametrize(
    ("sizes", "warnings"),
    [
        ([8] * 15 + [3], 0),
        (([8] * 15 + [3]) * 12, 0),  # a short last batch in each epoch
        (list(range(8, 60)), 1),  # as events come
        ([8] * 12 + [5, 6, 7, 4] * 5, 1),
    ],
)
def test_batches_that_cannot_be_replayed_are_told_of_once(
    sizes: list[int], warnings: int, caplog: pytest.LogCaptureFixture
):
    graphed = GraphedStep(lambda *batch: batch)
    for batch in batches(sizes, "cpu"):
        graphed(*batch)
    assert len(caplog.records) == warnings
    if warnings:
        assert "had another shape than the first one's" in caplog.text


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
