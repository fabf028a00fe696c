"""A loop over time in plain PyTorch, as the SpyTorch tutorials write it, and two faster ways to write it.

The tutorials (Neftci, Mostafa & Zenke 2019) multiply all input spikes with the weights at once, then step
through time by `h1[:, t]`. Each such indexing hands autograd a gradient of the whole tensor's size, so the
backward pass is quadratic in the number of steps. `unbind` cuts the tensor once and repairs that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peers.contender import SURROGATE_SLOPE, Case, Contender, Data, Options, draw_weights
from peers.torch_step import torch_contender

UNROLLED_STEPS = 25
"""Steps that are compiled into one graph: compiling time grows with them, calls per pass shrink."""


class SuperSpike(torch.autograd.Function):
    """Spikes whose derivative is 1 / (slope |x| + 1)^2 (Zenke & Ganguli 2018)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """1 where x > 0."""
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Gradient by x."""
        (x,) = ctx.saved_tensors
        return grad / (SURROGATE_SLOPE * x.abs() + 1) ** 2


class LoopNetwork:
    """The network's weights, (input, unit) and so on as the tutorials have them, and its constants."""

    def __init__(self, case: Case, device: str) -> None:
        weights = {k: torch.tensor(w.T.copy()).to(device) for k, w in draw_weights(case).items()}
        self.w_in = weights["input"].requires_grad_()
        self.w_rec = weights["recurrent"].requires_grad_()
        self.w_out = weights["output"].requires_grad_()
        self.alpha, self.beta = case.alpha, case.beta

    @property
    def parameters(self) -> list[Tensor]:
        """All weights."""
        return [self.w_in, self.w_rec, self.w_out]

    def verbatim(self, spikes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and hidden spikes (batch, time, unit) from spikes (batch, time, input)."""
        n_batch, n_steps, _ = spikes.shape
        h1 = torch.einsum("bti,ij->btj", spikes, self.w_in)
        syn = mem = out = h1.new_zeros(n_batch, h1.shape[2])
        recorded = []
        for t in range(n_steps):
            out = SuperSpike.apply(mem - 1.0)
            recorded.append(out)
            drive = h1[:, t] + torch.einsum("bi,ij->bj", out, self.w_rec)
            mem, syn = self.beta * mem + syn - out.detach(), self.alpha * syn + drive
        hidden = torch.stack(recorded, dim=1)

        h2 = torch.einsum("bti,ij->btj", hidden, self.w_out)
        flt = mem_out = h2.new_zeros(n_batch, h2.shape[2])
        membranes = []
        for t in range(n_steps):
            membranes.append(mem_out)
            mem_out, flt = self.beta * mem_out + flt, self.alpha * flt + h2[:, t]
        return torch.stack(membranes, dim=1).max(dim=1).values, hidden

    def unbound(self, spikes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and hidden spikes (time, batch, unit) from spikes (time, batch, input)."""
        state = self.at_rest(spikes.shape[1])
        logits, hidden, _ = self.piece(spikes @ self.w_in, *state)
        return logits, hidden

    def in_pieces(self, spikes: Tensor, piece: Any, n_steps: int) -> tuple[Tensor, Tensor]:
        """As `unbound`, by a compiled `piece` for `n_steps` steps at a time."""
        state = self.at_rest(spikes.shape[1])
        drives = (spikes @ self.w_in).split(n_steps)
        maxima, hidden = [], []
        for drive in drives:
            largest, out, state = piece(drive, *state)
            maxima.append(largest)
            hidden.append(out)
        return torch.stack(maxima).max(dim=0).values, torch.cat(hidden)

    def at_rest(self, n_batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Membrane and current of the hidden layer, then of the readout."""
        hidden = self.w_rec.new_zeros(n_batch, self.w_rec.shape[1])
        readout = self.w_out.new_zeros(n_batch, self.w_out.shape[1])
        return hidden, hidden, readout, readout

    def piece(
        self, drives: Tensor, mem: Tensor, syn: Tensor, mem_out: Tensor, flt: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Largest readout membranes, hidden spikes and the last state for drives (time, batch, unit)."""
        recorded = []
        for drive in drives.unbind(0):
            out = SuperSpike.apply(mem - 1.0)
            recorded.append(out)
            drive = torch.addmm(drive, out, self.w_rec)
            mem, syn = self.beta * mem + syn - out.detach(), self.alpha * syn + drive
        hidden = torch.stack(recorded)
        membranes = []
        for drive in (hidden @ self.w_out).unbind(0):
            membranes.append(mem_out)
            mem_out, flt = self.beta * mem_out + flt, self.alpha * flt + drive
        return torch.stack(membranes).max(dim=0).values, hidden, (mem, syn, mem_out, flt)


def verbatim(case: Case, data: Data, options: Options) -> Contender:
    """The tutorial's loop."""
    network = LoopNetwork(case, options.device)
    spikes = torch.from_numpy(data.dense(case)).transpose(0, 1).contiguous()
    return _contender(network, network.verbatim, spikes, data, options)


def unbound(case: Case, data: Data, options: Options) -> Contender:
    """The loop with `unbind`."""
    network = LoopNetwork(case, options.device)
    return _contender(network, network.unbound, torch.from_numpy(data.dense(case)), data, options)


def compiled(case: Case, data: Data, options: Options) -> Contender:
    """The loop with `unbind`, compiled by torch.compile in pieces of `UNROLLED_STEPS` steps."""
    network = LoopNetwork(case, options.device)
    spikes = torch.from_numpy(data.dense(case))
    n_steps = min(UNROLLED_STEPS, case.steps)
    piece = torch.compile(network.piece, dynamic=False)
    return _contender(
        network,
        network.unbound,
        spikes,
        data,
        options,
        lambda inputs: network.in_pieces(inputs, piece, n_steps),
    )


def _contender(
    network: LoopNetwork, run: Any, spikes: Tensor, data: Data, options: Options, faster: Any = None
) -> Contender:
    return torch_contender(
        run,
        network.parameters,
        spikes.to(options.device),
        torch.from_numpy(data.labels).to(options.device),
        input_weight=network.w_in,
        compiled=faster,
    )
