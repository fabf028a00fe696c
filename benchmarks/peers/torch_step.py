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
        Whether to capture a step in a CUDA graph and to replay that.
    """
    optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True, capturable=graphed)
    first = input_weight.detach().clone()
    run = compiled or network

    def train() -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(run(inputs)[0], labels).backward()
        optimiser.step()

    train_or_replay = _captured(train) if graphed else train

    def step() -> None:
        train_or_replay()
        if labels.is_cuda:
            torch.cuda.synchronize()

    @torch.no_grad()
    def rate() -> float:
        return network(inputs)[1].mean().item()

    @torch.no_grad()
    def scale_inputs(factor: float) -> None:
        input_weight.copy_(factor * first)

    return Contender(step, rate, scale_inputs)


def _captured(train: Callable[[], None]) -> Callable[[], None]:
    """`train` captured in a CUDA graph at its first call, and replayed from then on.

    As PyTorch's notes on CUDA graphs ask: some steps on a stream of their own first, and gradients that are
    made during the capture, so that they live in the graph's own memory.
    """
    graphs: list[torch.cuda.CUDAGraph] = []

    def replay() -> None:
        if not graphs:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_STEPS):
                    train()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                train()
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
