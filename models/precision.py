"""In which numbers a layer's dense products are computed.

The products of spikes and weights that PyTorch computes, outside the scan's kernels, may be taken in bfloat16
as under `torch.autocast`: both factors and the result are rounded to 8 significant bits, what is summed in
between is not, and the result is float32 again. Spikes, and their counts up to 256, are exact in 8 bits;
weights are not. In the backward pass the same holds of both products.

It is said at each product, and not by a context around the network, since nothing else may see bfloat16: the
scan, where rounding would add up over the time steps, normalisations, losses, and the weights themselves,
which would not follow steps smaller than their 8 bits.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Precision = Literal["float32", "bfloat16"]


def product(inputs: Tensor, weight: Tensor, precision: Precision = "float32") -> Tensor:
    """W x for every x along the last axis of `inputs`, in the weight's type.

    Parameters
    ----------
    inputs
        Shape (..., input).
    weight
        W, shape (unit, input), or for inputs of shape (replica, row, input) one for each replica, (replica,
        unit, input). A gradient comes back to it in its own type.
    precision
        See the module.
    """
    if precision == "float32":
        return inputs @ weight.mT
    return (inputs.to(torch.bfloat16) @ weight.to(torch.bfloat16).mT).to(weight.dtype)
