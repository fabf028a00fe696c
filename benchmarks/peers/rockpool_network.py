"""Rockpool: a `LIFJax` layer in one jitted step. Its `LIFTorch` is a loop and takes several times as long.

The new current reaches the membrane in the same step; the surrogate is a step. `LIFJax` maps one sample's
scan over the batch and draws noise for every step, also where its amplitude is 0. The readout is a scan of
our own, for Rockpool's `ExpSynJax` would have to be trained with its time constants.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from rockpool.nn.modules import LIFJax

from peers.contender import TAU_MEM_S, TAU_SYN_S, Case, Contender, Data, Options, draw_weights
from peers.jax_step import jax_contender, leaky_readout


def lif_jax(case: Case, data: Data, options: Options) -> Contender:
    """Input weights in one product before the layer."""
    weights = {name: jnp.asarray(w.T) for name, w in draw_weights(case).items()}
    neurons = LIFJax(
        (case.hidden,),
        tau_mem=jnp.array(TAU_MEM_S),
        tau_syn=jnp.array(TAU_SYN_S),
        bias=jnp.array(0.0),
        threshold=jnp.array(1.0),
        has_rec=True,
        w_rec=weights["recurrent"],
        max_spikes_per_dt=1.0,
        dt=case.dt_s,
        rng_key=jax.random.PRNGKey(0),
    )

    def network(weights: Any, spikes: Any) -> Any:
        layer = neurons.set_attributes({"w_rec": weights["recurrent"]})
        hidden, _, _ = layer(spikes @ weights["input"])
        drives = (hidden @ weights["output"]).swapaxes(0, 1)
        return leaky_readout(drives, case.alpha, case.beta), hidden

    dense = data.dense(case).swapaxes(0, 1)
    return jax_contender(network, weights, dense, data, input_weight="input")
