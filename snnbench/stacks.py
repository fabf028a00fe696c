"""How many seeds of a model one process trains at once, and which.

On a GPU a step of a small network is bound by the host, and ten of them at once take little longer than one
(docs/engine.md). So on GPUs seeds are stacked where the engine can: as many as fit, split evenly over the
GPUs. On a CPU a stack is no faster than its seeds one after the other, and there is one only if asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from snnbench.bench import NO_STACKS_IN_CLASS_B
from snnbench.errors import UsageError
from snnbench.spec import RunSpec

if TYPE_CHECKING:
    import torch

    from snnbench.memory import MemoryEstimate
    from snnbench.models.engines import Engine

_SHARE_OF_MEMORY = 0.75
"""Of what is free on a GPU: the estimates are formulas, and a stack that does not fit costs all its seeds."""

T = TypeVar("T")


def seeds_in_a_process(
    asked: int | None,
    spec: RunSpec,
    estimate: MemoryEstimate,
    device: torch.device,
    engine: Engine,
    *,
    processes: int,
) -> int:
    """The most seeds that a process trains at once.

    Parameters
    ----------
    asked
        What the user wants; None is as many as fit on a GPU with the engine `triton`, else 1.
    spec
        One of the seeds.
    estimate
        What training it takes in memory.
    device, engine
        Where and by which engine they are trained.
    processes
        How many processes share the device.

    Raises
    ------
    UsageError
        Several are asked for, and this model or engine has no stacks.
    """
    if asked == 1:
        return 1
    reason = why_not(spec, engine)
    if asked is not None:
        if reason:
            raise UsageError(
                f"--stack {asked}: seeds of {spec.model.name} are trained one by one: {reason};"
                " leave --stack out"
            )
        return asked
    if reason or device.type != "cuda" or engine != "triton":
        return 1
    from snnbench.memory import free_memory

    return how_many_fit(estimate.total, free_memory(device) // processes)


def how_many_fit(one: int, free: int) -> int:
    """Seeds of so many bytes each that are put into the free memory, with some of it to spare; at least 1."""
    return max(1, int(_SHARE_OF_MEMORY * free) // one)


def why_not(spec: RunSpec, engine: Engine) -> str | None:
    """Why seeds of this run are not trained at once by this engine; None where they can be."""
    import torch

    from snnbench.checkpoint import build_for
    from snnbench.models.network_stack import why_not_stacked

    if spec.task.protocol == "B":
        return NO_STACKS_IN_CLASS_B
    return why_not_stacked(build_for(spec, torch.Generator()), engine)


def split_evenly(items: Sequence[T], *, most: int, processes: int) -> list[tuple[T, ...]]:
    """Stacks of at most so many items, in order, as many for each process and all of nearly one size."""
    if not items:
        return []
    rounds = math.ceil(len(items) / (most * processes))
    n_stacks = min(len(items), rounds * processes)
    size, longer = divmod(len(items), n_stacks)
    ends = [k * size + min(k, longer) for k in range(n_stacks + 1)]
    return [tuple(items[a:b]) for a, b in pairwise(ends)]
