"""Where the time of training goes: a stopwatch for each part of a training step.

The parts never overlap: while an inner one runs, the outer one stands still, so that the times add up to
the whole. The forward pass is told apart by layer with hooks on the network's modules, the backward pass
with hooks on what the modules gave: the gradient of what a layer passes on is complete when everything
above has been gone through. The weights to the next layer are at work in the layer that sends. Where the
backward pass computes stretches of time anew, that belongs to `backward, readout`, its first part. No hook
changes a number, so a profiled run ends with the same bits as any other.

These are wall-clock times of single regions, not `torch.profiler`: that one records every operator, which
slows steps of a few milliseconds down, and what it finds has to be summed up by region again. On a GPU
each boundary waits for the device; the parts are then true, but the whole is slower than without.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import torch

    from snnbench.models.network_base import Network

T = TypeVar("T")

FORWARD, BACKWARD = "forward", "backward"
READOUT = "readout"
STEP = "optimiser"
"""The region that every training step goes through once."""


class Part(NamedTuple):
    """One row of a profile."""

    name: str
    seconds: float
    """Without the parts within it."""
    calls: int


class NoProfile:
    """Measures nothing and costs nothing: what training is given by default."""

    def region(self, name: str) -> AbstractContextManager[None]:
        """Time spent in the block belongs to `name`, except for regions within it."""
        return nullcontext()

    def each(self, name: str, items: Iterable[T]) -> Iterable[T]:
        """The items; the time to make each belongs to `name`."""
        return items

    def watch(self, network: Network, device: torch.device) -> None:
        """Tell the layers of this network, which computes on `device`, apart."""


class Profile(NoProfile):
    """Times and calls of the parts of one training run, in this process."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._calls: dict[str, int] = {}
        self._open: list[str] = []
        self._since = 0.0
        self._waits_for: torch.device | None = None
        self.engine: str | None = None
        """Implementation of the scan that was measured."""

    @contextmanager
    def region(self, name: str) -> Iterator[None]:
        """Time spent in the block belongs to `name`, except for regions within it."""
        self._enter(name)
        try:
            yield
        finally:
            self._leave()

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The items; the time to make each belongs to `name`."""
        iterator = iter(items)
        while True:
            self._enter(name)
            try:
                item = next(iterator)
            except StopIteration:
                self._calls[name] -= 1  # the look for another one is no item
                return
            finally:
                self._leave()
            yield item

    def watch(self, network: Network, device: torch.device) -> None:
        """Tell the layers of this network, which computes on `device`, apart."""
        self._waits_for = device if device.type == "cuda" else None
        self.engine = network.engine
        for name, module in network.parts:
            module.register_forward_pre_hook(_before(self, name))
            module.register_forward_hook(_after(self, name))

    @property
    def steps(self) -> int:
        """Training steps that were measured."""
        return self._calls.get(STEP, 0)

    @property
    def seconds(self) -> float:
        """Of all parts: what the outermost region took."""
        return sum(self._seconds.values())

    @property
    def parts(self) -> list[Part]:
        """All parts in the order in which they first ran, what belongs to none last."""
        named = [Part(n, s, self._calls[n]) for n, s in self._seconds.items()]
        return sorted(named, key=lambda part: part.name == "other")

    def facts(self) -> dict[str, Any]:
        """The profile for JSON: shares of the whole, and times per training step."""
        steps, whole = max(self.steps, 1), self.seconds or 1.0
        return {
            "engine": self.engine,
            "steps": self.steps,
            "seconds": self.seconds,
            "parts": [
                {
                    "part": part.name,
                    "share": part.seconds / whole,
                    "ms_per_step": 1e3 * part.seconds / steps,
                    "calls": part.calls,
                    "seconds": part.seconds,
                }
                for part in self.parts
            ],
        }

    def _enter(self, name: str) -> None:
        self._lap()
        self._open.append(name)
        self._seconds.setdefault(name, 0.0)
        self._calls[name] = self._calls.get(name, 0) + 1

    def _leave(self) -> None:
        self._lap()
        self._open.pop()

    def _lap(self) -> None:
        """Give the time since the last boundary to the innermost region."""
        if self._waits_for is not None:
            import torch

            torch.cuda.synchronize(self._waits_for)
        now = time.perf_counter()
        if self._open:
            self._seconds[self._open[-1]] += now - self._since
        self._since = now

    def _goes_on_as(self, name: str) -> None:
        """The innermost region ends, and `name` begins in its place."""
        self._leave()
        self._enter(name)

    def layer_begins(self, layer: str) -> None:
        """Forward pass: `layer` computes from here on. In validation layers are not told apart."""
        if self._open[-1:] == [FORWARD]:
            self._enter(f"{FORWARD}, {layer}")

    def layer_ends(self, layer: str, output: Any) -> None:
        """Forward pass: `layer` gave its result. Once its gradient is known, backward has come to it."""
        if self._open[-1:] != [f"{FORWARD}, {layer}"]:
            return
        self._leave()
        passed_on = output
        # a baseline's layers give tensors
        if not hasattr(output, "register_hook"):
            passed_on = output.partial if layer == READOUT else output.passed_on
        if passed_on.requires_grad:
            passed_on.register_hook(lambda _: self._goes_on_as(f"{BACKWARD}, {layer}"))


def _before(profile: Profile, layer: str) -> Any:
    return lambda _module, _inputs: profile.layer_begins(layer)


def _after(profile: Profile, layer: str) -> Any:
    return lambda _module, _inputs, output: profile.layer_ends(layer, output)
