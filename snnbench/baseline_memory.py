"""What networks without spiking neurons hold in memory: numbers for each sample.

With n inputs and h units of a layer, in each of the steps in which it is computed (`LayerSize.runs`),

                    kept from the forward pass                      on the way back through the layer
    LSTM            its values h, 5 h beside them                   9 h + 4 max(n - h, 0)
      both ways     in each direction h, 8 h beside them            the same in each direction
    convolution     its values h; another h before a normalisation  4 h + n
    dropout         the values after it, and a convolution's draws

beside the input as a dense tensor; a readout of counts holds next to nothing. Of an LSTM these are figures
measured of oneDNN, which computes it on a CPU, and the 4 h of a convolution are gradients before and after
its nonlinearity and oneDNN's copies of them. A GPU's libraries were not measured.
"""

from __future__ import annotations

from snnbench.baseline_spec import BaselineSpec, CnnSpec, CountsSpec, LstmSpec
from snnbench.sizes import LayerSize


def kept_numbers(model: BaselineSpec, sizes: list[LayerSize], n_steps: int) -> dict[str, int]:
    """Numbers that a sample keeps from the forward to the backward pass, by layer and for the input.

    Parameters
    ----------
    model, sizes
        The model and its `snnbench.sizes.layer_sizes`.
    n_steps
        Time bins.
    """
    inputs = sizes[0].n_inputs
    if isinstance(model, CountsSpec):
        return {"input": inputs}  # the counts
    layers = {size.name: size.runs(n_steps) * _kept(model, size) for size in sizes[:-1]}
    return {"input": n_steps * inputs, **layers}


def _kept(model: LstmSpec | CnnSpec, size: LayerSize) -> int:
    drops = model.dropout > 0
    if isinstance(model, LstmSpec):
        return size.n_units * ((9 if model.bidirectional else 6) + drops)
    return size.n_units * (1 + (model.norm == "batch") + 2 * drops)


def passing_numbers(model: BaselineSpec, sizes: list[LayerSize], n_steps: int) -> int:
    """Numbers of a sample while the backward pass is at the layer with most; parameters as before."""
    if isinstance(model, LstmSpec):
        directions = 1 + model.bidirectional
        return n_steps * max(
            9 * size.n_units + 4 * max(directions * size.n_inputs - size.n_units, 0)
            for size in sizes[:-1]
        )
    if isinstance(model, CnnSpec):
        return max(
            4 * now * size.n_units + before * size.n_inputs
            for size, now, before in _with_runs(sizes, n_steps)
        )
    return sizes[0].n_inputs


def evaluated_numbers(n_channels: int, sizes: list[LayerSize], n_steps: int) -> int:
    """Numbers of a sample in evaluation: the dense input, and at the layer with most what comes in, and what
    goes out before and after a nonlinearity.
    """
    return n_steps * n_channels + max(
        2 * now * size.n_units + before * size.n_inputs
        for size, now, before in _with_runs(sizes, n_steps)
    )


def _with_runs(sizes: list[LayerSize], n_steps: int) -> list[tuple[LayerSize, int, int]]:
    """Layers with how often they are computed, and how often what is below them; only once for counts."""
    runs = [size.runs(n_steps) for size in sizes]
    below = [n_steps if len(sizes) > 1 else 1, *runs[:-1]]
    return list(zip(sizes, runs, below, strict=True))
