"""One seed, many independent random streams; determinism switches; the choice of the device."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from snnbench.errors import UsageError

if TYPE_CHECKING:
    import torch


def make_generator(
    seed: int,
    stream: Literal["init", "order", "dropout", "augment"],
    device: torch.device | str = "cpu",
) -> torch.Generator:
    """A generator of its own for each use of a run's seed, so that one use never shifts another."""
    import torch

    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    # manual_seed takes 64 bits, but a Philox or Mersenne state is documented for signed ones
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Within the block PyTorch takes deterministic algorithms or fails, and one CPU thread.

    The last bits of a matrix product depend on the number of threads: with one, a result does not
    depend on the number of cores. Seeds that run side by side use the other cores, better than more
    threads in one run would. The old settings return afterwards.
    """
    import torch

    # cuBLAS reads this when it makes its first handle; without it, it may choose by chance
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    threads = torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    # filling every new tensor with nan would show reads of memory that nobody wrote; it costs time
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill
        torch.set_num_threads(threads)


def resolve_device(name: str) -> torch.device:
    """The device called auto, cpu or cuda; auto is the GPU where there is one.

    Raises
    ------
    UsageError
        Another name, or cuda where PyTorch finds no GPU: never silently the CPU.
    """
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"unknown device {name!r}; take auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda
        reason = "it finds no GPU" if built else "it was built without CUDA"
        raise UsageError(
            f"device 'cuda': PyTorch {torch.__version__} cannot use one ({reason}); take --device cpu"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
