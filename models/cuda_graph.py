"""A whole training step recorded as one CUDA graph: forward, loss, backward and update with a single launch.

A step of a small network is some hundred kernels of a few microseconds, and Python takes longer to launch
them than the GPU to run them. A recorded step is launched as one.

What is recorded runs again and again on the same memory. So a step may not ask the GPU for numbers
(`.item()`, shapes that depend on data), and what Python says is said once, at recording: an optimiser has to
be made with `capturable=True`, and a learning rate that changes has to be a tensor.
PyTorch documentation, "CUDA semantics", section "CUDA Graphs", whole-network capture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Step = Callable[..., tuple[Tensor, ...]]

_OTHERS_BEFORE_WARNING = 10
_log = logging.getLogger(__name__)


class GraphedStep:
    """A training step that is recorded after a few calls, and replayed from then on.

    Every call trains once: the first ones, in which libraries choose their kernels and the optimiser makes
    its state, run as ever, and so do batches on a CPU and batches of another shape than the first one's. So
    batches should be dense, or all have the same number of events: as a rule every batch of events has
    another, and next to nothing is replayed. Where that is so, a warning is logged, once.

    Parameters
    ----------
    step
        step(*batch) -> tensors, as the loss. It does everything: `zero_grad(set_to_none=True)`, forward,
        backward, update. After a replay the gradients are no longer to be found in the parameters' `.grad`.
    generators
        What the step draws random numbers from, on the GPU.
    warm_up
        Calls before recording, at least one: the optimiser's state may not be made while recording.
    """

    def __init__(
        self, step: Step, *, generators: Sequence[torch.Generator] = (), warm_up: int = 3
    ) -> None:
        self._step = step
        self._generators = generators
        self._calls_left = max(warm_up, 1)
        self._shapes: list[torch.Size] | None = None
        self._alike = self._others = 0
        self._warned = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: list[Tensor] = []
        self._results: tuple[Tensor, ...] = ()

    def __call__(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """Train on a batch of tensors; the results are the caller's to keep."""
        shapes = [t.shape for t in batch]
        self._shapes = self._shapes or shapes
        if shapes == self._shapes:
            self._alike += 1
        else:
            self._count_another()
        if shapes != self._shapes or not all(t.is_cuda for t in batch):
            return self._step(*batch)
        if self._calls_left:
            self._calls_left -= 1
            return self._beside(batch)
        if self._graph is None:
            self._record(batch)
        assert self._graph is not None
        for into, t in zip(self._batch, batch, strict=True):
            into.copy_(t)
        self._graph.replay()
        return tuple(t.clone() for t in self._results)

    def _count_another(self) -> None:
        self._others += 1
        # a short last batch in each epoch is as it should be
        if not self._warned and self._others >= max(_OTHERS_BEFORE_WARNING, self._alike):
            self._warned = True
            _log.warning(
                "%d of %d batches had another shape than the first one's: their steps are not replayed from"
                " a CUDA graph. Take dense batches, or as many events in each",
                self._others,
                self._others + self._alike,
            )

    def _beside(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        # on a stream of its own, as it will be recorded: what allocators and libraries set up, they set up
        # there
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            results = self._step(*batch)
        current.wait_stream(stream)
        return results

    def _record(self, batch: Sequence[Tensor]) -> None:
        self._batch = [t.clone() for t in batch]
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            self._results = self._step(*self._batch)
        self._graph = graph
