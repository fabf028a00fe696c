"""Real-time recurrent learning: gradients carried forward in time, beside the scan's backward pass.

Beside the state s of a layer goes its influence, how s depends on every weight so far:

    P[n] = d s[n] / d (W, V)
    d D_i[n] / d (W, V)     = (what unit i hears in step n, in its own row) + sum_j V_ij d S_j[n] / d (W, V)
    d S_j[n] / d (W, V)     = surrogate'(distance) d distance / d s_j  P_j[n]
    P_i[n + 1]              = (d step / d s_i) P_i[n] + (d step / d D_i) d D_i[n] / d (W, V)

A loss of spikes and membranes of step n has its gradient at step n, and nothing of earlier steps is kept.
The price is P: parts of the state x batch x unit^2 x (input + unit) numbers, and unit^3 x (input + unit)
products a step. So it is for small layers and long times, and it tells whether a cheaper online rule, which
drops terms of P, is near the gradient.

Units meet through V only, so d step / d s is one small matrix for each unit. Autograd takes it from the
neuron's equations over a single step; any kind will do.

Williams & Zipser (1989), "A learning algorithm for continually running fully recurrent neural networks",
Neural Computation 1(2).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from snnbench.errors import SnnbenchError
from snnbench.models.neuron import make_reset
from snnbench.models.scan_types import Cell, at_rest


class StepLoss(Protocol):
    """The loss of one step, a number, from what units send and their membranes, both (batch, unit)."""

    def __call__(self, step: int, spikes: Tensor, membranes: Tensor, /) -> Tensor: ...


class Gradients(NamedTuple):
    """Of a loss by the weights of a layer."""

    weight: Tensor
    """Shape (unit, input)."""
    recurrent_weight: Tensor | None
    """Shape (unit, unit); None without recurrence."""


class RtrlResult(NamedTuple):
    """What a run over all steps gives."""

    loss: Tensor
    """Summed over steps."""
    gradients: Gradients
    state: Any
    """After the last step, as of a scan."""


class RealTimeLearner:
    """A layer that knows at every step how its state depends on its weights.

    Parameters
    ----------
    weight, recurrent_weight, cell
        As of `snnbench.models.scan.scan`; the cell's choice of what gradients go through holds here, too.
        Weights may be changed between steps. Gradients are then those of an online learner: each step's
        share is as it was when the step was made.
    n_batch
        Number of samples that run side by side.
    state
        Where to begin, independent of the weights; by default at rest.
    gate
        Factor on every spike a unit sends, shape (batch, unit).

    Raises
    ------
    SnnbenchError
        Sizes do not fit each other, or recurrence of a neuron that never spikes.
    """

    def __init__(
        self,
        weight: Tensor,
        recurrent_weight: Tensor | None,
        cell: Cell,
        n_batch: int,
        *,
        state: Any = None,
        gate: Tensor | None = None,
    ) -> None:
        n_units, self.n_inputs = weight.shape
        like = weight.detach().new_zeros(n_batch, n_units)
        if recurrent_weight is not None:
            _check_shape("recurrent_weight", recurrent_weight, (n_units, n_units))
            if cell.neuron.distance is None:
                raise SnnbenchError(
                    f"rtrl: {cell.neuron.kind} never spikes; it has nothing to send by weights"
                )
        if gate is not None:
            _check_shape("gate", gate, tuple(like.shape))
        state = at_rest(cell.neuron, like) if state is None else state
        for name, part in state._asdict().items():
            _check_shape(f"state.{name}", part, tuple(like.shape))
        self.weight, self.recurrent_weight, self.cell = weight, recurrent_weight, cell
        self.gate = None if gate is None else gate.detach()
        n_sources = self.n_inputs + (n_units if recurrent_weight is not None else 0)
        self.influence = like.new_zeros(len(state), n_batch, n_units, n_units, n_sources)
        """P, shape (part of the state, batch, unit, unit of the weight, source of the weight). Sources are
        inputs, then units of the layer."""
        self._arrive(state)

    @torch.no_grad()
    def credit(self, to_spikes: Tensor | None, to_membranes: Tensor | None) -> Gradients:
        """Gradients by the weights, from those by this step's spikes and membranes, both (batch, unit)."""
        parts = torch.zeros_like(self._slopes)
        if to_spikes is not None:
            sent = to_spikes if self.gate is None else to_spikes * self.gate
            parts += sent * self._slopes
        if to_membranes is not None:
            parts[self.state._fields.index("membrane")] += to_membranes
        both = torch.einsum("kbi,kbius->us", parts, self.influence)
        by_input, by_unit = both[:, : self.n_inputs], both[:, self.n_inputs :]
        return Gradients(by_input, None if self.recurrent_weight is None else by_unit)

    def advance(self, inputs: Tensor) -> None:
        """Go on by a step in which spikes of shape (batch, input) arrive."""
        cell, like = self.cell, self.membranes
        _check_shape("inputs", inputs, (like.shape[0], self.n_inputs))
        sources = inputs.detach().to(like.dtype)
        drive = sources @ self.weight.detach().t()
        if self.recurrent_weight is not None:
            drive = torch.addmm(drive, self.spikes, self.recurrent_weight.detach().t())
            sources = torch.cat([sources, self.spikes], dim=1)
        with torch.enable_grad():
            before = self._leaf_state()
            drive = drive.requires_grad_()
            spikes = _spikes(cell, before)
            reset_by = spikes if cell.gradient_through_reset else spikes.detach()
            parameters = _detached(cell.parameters)
            after = cell.neuron.step(
                drive, spikes, before, parameters, make_reset(cell.reset, reset_by)
            )
            # a unit's next state depends on its own state and drive only, so the gradient of a sum over
            # units holds the derivative of each
            local = [_gradients(part, [*before, drive]) for part in after]
        self._carry(local, sources)
        self._arrive(after)

    @torch.no_grad()
    def _carry(self, local: list[list[Tensor]], sources: Tensor) -> None:
        """P to the next step, from the derivatives of each next part by each part and by the drive."""
        n_parts, n_units = len(local), self.influence.shape[2]
        drive = torch.zeros_like(self.influence[0])
        if self.recurrent_weight is not None and self.cell.gradient_through_recurrence:
            slopes = self._slopes if self.gate is None else self._slopes * self.gate
            by_sender = torch.einsum("kbj,kbjus->bjus", slopes, self.influence)
            drive = (self.recurrent_weight.detach() @ by_sender.flatten(2)).view_as(drive)
        own_row = torch.arange(n_units, device=drive.device)
        drive[:, own_row, own_row] += sources[:, None, :]
        carried = []
        for of_next in local:
            total = of_next[n_parts][..., None, None] * drive
            for k in range(n_parts):
                total += of_next[k][..., None, None] * self.influence[k]
            carried.append(total)
        self.influence = torch.stack(carried)

    def _arrive(self, state: Any) -> None:
        """Take over a state, and see what is sent from it."""
        self.state = type(state)(*(part.detach() for part in state))
        self.membranes: Tensor = self.state.membrane
        with torch.enable_grad():
            leaf = self._leaf_state()
            spikes = _spikes(self.cell, leaf)
            # derivative of each unit's spike by each part of its state, (part, batch, unit)
            self._slopes = torch.stack(_gradients(spikes, list(leaf)))
        sent = spikes.detach()
        self.spikes = sent if self.gate is None else sent * self.gate

    def _leaf_state(self) -> Any:
        return type(self.state)(*(part.clone().requires_grad_() for part in self.state))


def rtrl(
    inputs: Iterable[Tensor],
    weight: Tensor,
    recurrent_weight: Tensor | None,
    cell: Cell,
    loss: StepLoss,
    *,
    state: Any = None,
    gate: Tensor | None = None,
) -> RtrlResult:
    """The gradient of a loss that is summed over steps, in one pass forward.

    Parameters
    ----------
    inputs
        One tensor of shape (batch, input) a step: a tensor of shape (time, batch, input), or anything that
        gives them one by one.
    loss
        Of a step. No gradient goes to what it holds itself.

    Others are those of `RealTimeLearner`.

    Raises
    ------
    SnnbenchError
        As `RealTimeLearner`, or without a single step.
    """
    learner: RealTimeLearner | None = None
    total = weight.detach().new_zeros(())
    sums: Gradients | None = None
    for n, inputs_n in enumerate(inputs):
        if learner is None:
            learner = RealTimeLearner(
                weight, recurrent_weight, cell, len(inputs_n), state=state, gate=gate
            )
        value, found = _credit_of(learner, n, loss)
        total = total + value
        sums = found if sums is None else _sum(sums, found)
        learner.advance(inputs_n)
    if learner is None or sums is None:
        raise SnnbenchError("rtrl: no time steps are nothing to run on")
    return RtrlResult(total, sums, learner.state)


def _credit_of(learner: RealTimeLearner, n: int, loss: StepLoss) -> tuple[Tensor, Gradients]:
    with torch.enable_grad():
        spikes = learner.spikes.clone().requires_grad_()
        membranes = learner.membranes.clone().requires_grad_()
        value = loss(n, spikes, membranes)
        to_spikes, to_membranes = _gradients(value, [spikes, membranes])
    return value.detach(), learner.credit(to_spikes, to_membranes)


def _sum(first: Gradients, second: Gradients) -> Gradients:
    recurrent = None
    if first.recurrent_weight is not None and second.recurrent_weight is not None:
        recurrent = first.recurrent_weight + second.recurrent_weight
    return Gradients(first.weight + second.weight, recurrent)


def _spikes(cell: Cell, state: Any) -> Tensor:
    if cell.neuron.distance is None or cell.surrogate is None:
        return torch.zeros_like(state.membrane)
    return cell.surrogate(cell.neuron.distance(state, _detached(cell.parameters)))


def _detached(parameters: Any) -> Any:
    return type(parameters)(*(p.detach() if isinstance(p, Tensor) else p for p in parameters))


def _gradients(of: Tensor, by: list[Tensor]) -> list[Tensor]:
    """Of a tensor's sum; zeros where it does not depend."""
    if not of.requires_grad:
        return [torch.zeros_like(t) for t in by]
    return list(torch.autograd.grad(of.sum(), by, retain_graph=True, materialize_grads=True))


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise SnnbenchError(f"rtrl: {name} has shape {tuple(tensor.shape)}; {shape} is needed")
