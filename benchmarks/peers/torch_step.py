"""One training step of a network in PyTorch, the same for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peers.contender import LEARNING_RATE, Contender

Network = Callable[[Any], tuple[Tensor, Tensor]]
"""From inputs to logits (batch, class) and hidden spikes, or their rates, in any order of axes."""

Train = Callable[[Any, Tensor], None]
"""A training step on inputs and labels."""

WARM_UP_STEPS = 3


def torch_contender(
    network: Network,
    parameters: list[Tensor],
    inputs: Any,
    labels: Tensor,
    *,
    input_weight: Tensor,
    compiled: Network | None = None,
    graphed: bool = False,
) -> Contender:
    """A contender from a network in PyTorch.

    Parameters
    ----------
    network
        What is trained.
    parameters
        Its weights.
    inputs, labels
        The batch.
    input_weight
        The parameter by which the rate is set.
    compiled
        The network as it is timed, where that differs from `network`.
    graphed
        Whether to capture a step in a CUDA graph and to replay that. A step on events, which is ours, is
        captured as our users would do it.
    """
    optimiser = torch.optim.Adam(
        parameters, lr=LEARNING_RATE, fused=True, capturable=graphed and labels.is_cuda
    )
    first = input_weight.detach().clone()
    run = compiled or network

    def train(inputs: Any, labels: Tensor) -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(run(inputs)[0], labels).backward()
        optimiser.step()

    train_or_replay = train
    if graphed:
        dense = isinstance(inputs, Tensor)
        train_or_replay = _captured(train) if dense else _recorded(train, inputs)

    def step() -> None:
        train_or_replay(inputs, labels)
        if labels.is_cuda:
            torch.cuda.synchronize()

    @torch.no_grad()
    def rate() -> float:
        return network(inputs)[1].mean().item()

    @torch.no_grad()
    def scale_inputs(factor: float) -> None:
        input_weight.copy_(factor * first)

    return Contender(step, rate, scale_inputs)


def _recorded(train: Train, first: Any) -> Train:
    """`train` on batches of events like the first, as our own `GraphedStep` records and replays it."""
    # not in the environments of other libraries
    from snnbench.models.cuda_graph import GraphedStep

    def step(indptr: Tensor, channels: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        train(first._replace(indptr=indptr, channels=channels), labels)
        return ()

    graphed = GraphedStep(step, warm_up=WARM_UP_STEPS)

    def replay(events: Any, labels: Tensor) -> None:
        graphed(events.indptr, events.channels, labels)

    return replay


def _captured(train: Train) -> Train:
    """`train` captured in a CUDA graph at its first call, on this batch, and replayed from then on.

    As PyTorch's notes on CUDA graphs ask: some steps on a stream of their own first, and gradients that are
    made during the capture, so that they live in the graph's own memory.
    """
    graphs: list[torch.cuda.CUDAGraph] = []

    def replay(inputs: Tensor, labels: Tensor) -> None:
        if not graphs:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_STEPS):
                    train(inputs, labels)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                train(inputs, labels)
            graphs.append(graph)
        graphs[0].replay()

    return replay


def leaky_readout(drives: Tensor, alpha: float, beta: float) -> Tensor:
    """Largest membranes (batch, unit) of leaky integrators with drives (time, batch, unit)."""
    current = membrane = torch.zeros_like(drives[0])
    membranes = []
    for drive in drives.unbind(0):
        membranes.append(membrane)
        membrane, current = beta * membrane + current, alpha * current + drive
    return torch.stack(membranes).max(dim=0).values


def parameters_of(weights: dict[str, NDArray[np.float32]]) -> dict[str, nn.Parameter]:
    """Weights as parameters of a module."""
    return {name: nn.Parameter(torch.from_numpy(weight)) for name, weight in weights.items()}
