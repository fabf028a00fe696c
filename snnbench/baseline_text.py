"""A network without spiking neurons in words and equations, for `snnbench.explain`."""

from __future__ import annotations

from math import prod
from typing import Any

from snnbench.baseline_spec import BaselineSpec, CnnSpec, LstmSpec


def explain_baseline(model: BaselineSpec, n_channels: int) -> dict[str, Any]:
    """Keys: `hidden`, equations of what is between input and readout, from below; `readout`, with its
    equations and what of them is a logit. X[n] are the input's counts in step n.
    """
    if isinstance(model, LstmSpec):
        return {"hidden": _lstm(model), "readout": _lstm_readout(model)}
    if isinstance(model, CnnSpec):
        features = "mean over time of every feature map at every place"
        return {"hidden": _convolutions(model), "readout": _once(features)}
    bins = model.channel_bins or n_channels
    which = f"{model.time_bins} x {bins} parts of time and channels"
    counts = f"c = sums of X over {which}"
    return {"hidden": [counts], "readout": _once("log(1 + c)" if model.log else "c")}


def _lstm(model: LstmSpec) -> list[str]:
    gates = [f"{g}[n] = sigmoid(W_{g} X[n] + V_{g} H[n-1] + b_{g})" for g in "ifo"]
    cell = "C[n] = f[n] C[n-1] + i[n] tanh(W_g X[n] + V_g H[n-1] + b_g)"
    equations = [*gates, cell, "H[n] = o[n] tanh(C[n])"]
    if len(model.hidden) > 1:
        equations.append("X of further layers is H of the one below")
    if model.bidirectional:
        equations.append("and as many units backwards in time, H[n-1] being H[n+1]; H is of both")
    return equations


def _lstm_readout(model: LstmSpec) -> dict[str, Any]:
    if model.reduce == "max":
        return {"equations": ["Y[n] = A H[n] + a"], "logit": "max of Y[n] over all steps n"}
    return _once(
        {"last": "H after the last step", "mean": "mean of H[n] over all steps n"}[model.reduce]
    )


def _once(features: str) -> dict[str, Any]:
    return {"equations": [f"x = {features}", "y = A x + a"], "logit": "y"}


def _convolutions(model: CnnSpec) -> list[str]:
    axes = ("time", "channels")[: len(model.kernel)]
    size = " x ".join(map(str, model.kernel))
    steps = " x ".join(map(str, model.stride))
    inside = "K * H" if model.norm == "none" else f"{model.norm}_norm(K * H)"
    bias = " + b" if model.norm == "none" else ""
    every = f", in steps of {steps}" if prod(model.stride) > 1 else ""
    return [
        f"H <- relu({inside}{bias}), K * H over {size} places of {' and '.join(axes)}{every}",
        f"{len(model.channels)} times, from H = X, with {', '.join(map(str, model.channels))} feature maps",
    ]
