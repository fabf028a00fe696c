"""How hidden units hear of the output's errors (Zenke & Ganguli 2018, section 3.5).

What travels is the output's raw impulses s_k, +1 for a spike that is missing and -1 for one too many, in the
step where they occur: e_i = filter of sum_k F_ik s_k, with the filter in the hidden unit and no derivative of
the output on the way. A strategy is the matrices F, one for each hidden layer, of shape (seed, hidden, out).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from snnbench.errors import unknown_name

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Feedback(Protocol):
    """A strategy: `matrices` before every block, `learnt` after every update."""

    learns_hidden: bool
    """False where hidden weights are to stay as they are."""

    def matrices(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """F for each hidden layer, from the layers' current weights (seed, post, pre)."""

    def learnt(self, changes: Sequence[Tensor]) -> None:
        """Told of each update: changes of all layers' weights (seed, post, pre)."""


class Symmetric:
    """The transposed weights of the layers above, as they are at the time: what a gradient would use."""

    learns_hidden = True

    def matrices(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Products of transposed weights from the output downwards."""
        return transported([w.mT for w in weights[1:]])

    def learnt(self, changes: Sequence[Tensor]) -> None:
        """Nothing to keep."""


class Fixed:
    """Matrices that never change: random, direct, uniform, and none at all."""

    def __init__(self, matrices: Sequence[Tensor], *, learns_hidden: bool = True) -> None:
        self._matrices = list(matrices)
        self.learns_hidden = learns_hidden

    def matrices(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Always the same."""
        return self._matrices

    def learnt(self, changes: Sequence[Tensor]) -> None:
        """Nothing to learn."""


class Learned:
    """Feedback weights of their own that take the forward weights' changes, transposed, and forget a little.

    So they come near the transposes without ever being copied (Kolen & Pollack 1994; Akrout et al. 2019). In
    those papers both forget, and so become equal; here forward weights do not, and what they began with stays
    a difference.
    """

    learns_hidden = True

    def __init__(self, steps: Sequence[Tensor], decay: float = 0.001) -> None:
        self._steps = [b.clone() for b in steps]
        self._decay = decay

    def matrices(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Products from the output downwards."""
        return transported(self._steps)

    def learnt(self, changes: Sequence[Tensor]) -> None:
        """Forget a little, then take the same changes, transposed."""
        for b, change in zip(self._steps, changes[1:], strict=True):
            b.mul_(1 - self._decay).add_(change.mT)


def transported(steps: Sequence[Tensor]) -> list[Tensor]:
    """Layer to layer (seed, below, above) to output to layer: products from the output downwards."""
    matrices: list[Tensor] = []
    for step in reversed(steps):
        matrices.insert(0, step @ matrices[0] if matrices else step)
    return matrices


def make_feedback(
    kind: str, weights: Sequence[Tensor], generators: Sequence[torch.Generator], *, sign: int = 0
) -> Feedback:
    """The strategy of a name, for a network with these weights.

    Parameters
    ----------
    kind
        One of `FEEDBACK`. `symmetric-linear` is symmetric here; what is linear is the hidden units' factor,
        which `Learner` sees to. `random` goes from layer to layer, `direct` from the output to every layer
        (with one hidden layer they are the same); both draw from N(0, 1).
    weights
        (seed, post, pre) of each layer.
    generators
        One for each seed, of the CPU, drawn from where the strategy is random.
    sign
        1 or -1 makes all random feedback positive or negative, 0 leaves it mixed.

    Raises
    ------
    UsageError
        Unknown kind; near names are suggested.
    """
    if kind not in FEEDBACK:
        raise unknown_name("feedback", kind, FEEDBACK)
    if kind in ("symmetric", "symmetric-linear"):
        return Symmetric()
    out = weights[-1].shape[1]
    to_output = [w.new_empty(w.shape[0], w.shape[1], out) for w in weights[:-1]]
    if kind == "frozen":
        return Fixed([f.zero_() for f in to_output], learns_hidden=False)
    if kind == "uniform":
        return Fixed([f.fill_(1) for f in to_output])
    if kind == "direct":
        return Fixed([_normal(f, generators, sign) for f in to_output])
    by_step = [_normal(w.mT, generators, sign) for w in weights[1:]]
    return Learned(by_step) if kind == "learned" else Fixed(transported(by_step))


FEEDBACK = (
    "symmetric",
    "symmetric-linear",
    "random",
    "direct",
    "uniform",
    "learned",
    "frozen",
)
"""Names that `make_feedback` knows."""


def _normal(like: Tensor, generators: Sequence[torch.Generator], sign: int) -> Tensor:
    import torch

    drawn = [
        torch.randn(like.shape[1:], generator=g, dtype=torch.float64).to(like) for g in generators
    ]
    matrix = torch.stack(drawn)
    return matrix.abs() * sign if sign else matrix
