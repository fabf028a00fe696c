"""The kernels of a block on a GPU, for all seeds at once: one launch for a layer and what it does.

Layers of a block run one after the other, so what arrives in a layer is known before it begins, and

    drive (time, seed, post) = spikes that arrive (time, seed, pre) times W^T

is one product of matrices for each seed. What is left goes from step to step unit by unit, see
`snnbench.models.online.triton_kernels`. Numbers are those of the CPU but for the order in which inputs of a
step are summed: multiplications and additions are not fused.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from snnbench.errors import SnnbenchError
from snnbench.models.online.constants import Heterosynaptic, Neuron
from snnbench.models.online.engine import decay, euler
from snnbench.models.online.rules import Filter
from snnbench.models.scan_triton import interpreted, triton_language

UNITS = 32
"""Units of a program: a warp of threads, since what takes time is that steps wait for each other."""


class TritonEngine:
    """Triton's kernels; see `snnbench.models.online.engine.Engine`, whose shapes these are.

    Raises
    ------
    SnnbenchError
        From each method: Triton is not installed, or tensors are not on a GPU.
    """

    def lif(
        self, below: Tensor, weights: Tensor, state: tuple[Tensor, Tensor, Tensor], out: Tensor,
        membranes: Tensor, neuron: Neuron,
    ) -> None:  # fmt: skip
        drive = (below.to(weights.dtype).transpose(0, 1) @ weights.mT).transpose(0, 1).contiguous()
        _launch(
            "lif", drive, drive, *state, membranes, out,
            EULER=neuron.euler_mem, DECAY=neuron.decay_syn, REST=neuron.rest_mv,
            THRESHOLD=neuron.threshold_mv, HOLD=neuron.refractory_steps,
        )  # fmt: skip

    def trace(
        self, spikes: Tensor, state: Tensor, out: Tensor, filter: Filter, dt_s: float, cutoff: float
    ) -> None:
        _launch(
            "trace", spikes, spikes, state[0], state[1], out,
            DECAY=decay(filter.rise_s, dt_s), EULER=euler(filter.decay_s, dt_s), CUTOFF=cutoff,
        )  # fmt: skip

    def errors(
        self, impulses: Tensor, state: Tensor, out: Tensor, filter: Filter, dt_s: float
    ) -> None:
        impulses = impulses.contiguous()
        _launch(
            "errors", impulses, impulses, state[0], state[1], out,
            RISE=euler(filter.rise_s, dt_s), FALL=euler(filter.decay_s, dt_s),
        )  # fmt: skip

    def credit(
        self, third: Tensor, factor: Tensor, out: Tensor, filter: Filter, dt_s: float, cutoff: float
    ) -> None:
        _launch(
            "credit", third, third, factor, out, n_history=len(factor) - len(third),
            FALL=euler(filter.decay_s, dt_s), DECAY=decay(filter.rise_s, dt_s), CUTOFF=cutoff,
        )  # fmt: skip

    def activity(
        self, spikes: Tensor, z: Tensor, third: Tensor, term: Heterosynaptic, dt_s: float
    ) -> Tensor:
        total = torch.empty_like(z)
        _launch(
            "activity", spikes, spikes, z, third, total,
            DECAY=decay(term.tau_s, dt_s), EXPONENT=term.exponent, TIMES_ERROR=term.times_error,
        )  # fmt: skip
        return total


def _launch(name: str, steps: Tensor, *tensors: Tensor, **numbers: Any) -> None:
    """Run a kernel over the steps of (time, seed, unit), one program for each chunk of units."""
    if not (steps.is_cuda or interpreted()):
        raise SnnbenchError(
            f"Triton's kernels run on a GPU, and got tensors on {steps.device}; on the CPU only "
            "Triton's interpreter runs them, for tests: TRITON_INTERPRET=1"
        )
    # kernels trust these
    assert all(t.is_contiguous() and t.device == steps.device for t in tensors)
    n_units = steps[0].numel()
    with torch.cuda.device_of(steps):
        _kernel(name, interpreted())[(-(-n_units // UNITS),)](
            *tensors, n_steps=len(steps), n_units=n_units, **numbers, UNITS=UNITS,
            num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip


@cache
def _kernel(name: str, interpreted: bool) -> Any:
    # Triton decides when a kernel is decorated, that is here, whether it is compiled or interpreted
    triton_language()
    import triton

    from snnbench.models.online import triton_kernels

    return triton.jit(getattr(triton_kernels, name), do_not_specialize=["n_steps", "n_history"])
