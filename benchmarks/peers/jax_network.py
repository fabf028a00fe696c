"""The equations of `contender.py` in plain JAX: one `lax.scan` over time.

Unrolling the scan, the weights as part of its carry, or hidden layer and readout in one scan do not make it
faster on a CPU.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from peers.contender import Case, Contender, Data, Options, draw_weights
from peers.jax_step import jax_contender, leaky_readout, superspike


def scan(case: Case, data: Data, options: Options) -> Contender:
    """Input weights in one product before the scan, the readout's after it."""
    alpha, beta = case.alpha, case.beta

    def network(weights: Any, spikes: Any) -> Any:
        def step(state: Any, drive: Any) -> Any:
            mem, syn = state
            spikes = superspike(mem - 1.0)
            reset = jax.lax.stop_gradient(spikes)
            drive = drive + spikes @ weights["recurrent"]
            return (beta * mem + syn - reset, alpha * syn + drive), spikes

        drives = spikes @ weights["input"]
        rest = jnp.zeros_like(drives[0])
        _, hidden = jax.lax.scan(step, (rest, rest), drives)
        return leaky_readout(hidden @ weights["output"], alpha, beta), hidden

    weights = {name: jnp.asarray(w.T) for name, w in draw_weights(case).items()}
    return jax_contender(network, weights, data.dense(case), data, input_weight="input")
