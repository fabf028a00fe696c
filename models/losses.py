"""Losses of logits, (batch, class), against labels, (batch,)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from snnbench.spec import TrainSpec


def make_loss(spec: TrainSpec) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss that a spec names, a mean over the batch."""
    if spec.loss == "tempotron":
        return tempotron
    smoothing = spec.label_smoothing
    return lambda logits, labels: nn.functional.cross_entropy(
        logits, labels, label_smoothing=smoothing
    )


def tempotron(logits: Tensor, labels: Tensor, threshold: float = 1.0) -> Tensor:
    """Sum over classes of what is wrong: threshold - logit of the label, logit - threshold of another class.

    With the largest membrane as logit this is the tempotron's cost for one neuron per class (Gütig &
    Sompolinsky 2006, eq. 3), whose gradient goes to the step of the largest membrane.
    """
    wanted = nn.functional.one_hot(labels, logits.shape[1]).bool()
    wrong = torch.where(wanted, threshold - logits, logits - threshold)
    return wrong.relu().sum(dim=1).mean()
