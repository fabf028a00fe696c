"""Spyx: `RCuBaLIF` and an `LI` readout, each run by `spyx.nn.run`, a `lax.scan`, in one jitted step.

The reset comes before the leak, the new current reaches the membrane in the same step, and decays are
parameters that learn along, as Spyx has it. Weights are applied to all steps at once; a
`spyx.nn.Sequential` of all layers, which applies them in each step, takes longer.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import spyx
from flax import nnx

from peers.contender import (
    N_CLASSES,
    N_INPUTS,
    SURROGATE_SLOPE,
    Case,
    Contender,
    Data,
    Options,
    draw_weights,
)
from peers.jax_step import jax_contender


class Network(nnx.Module):
    """One hidden layer and a readout."""

    def __init__(self, case: Case) -> None:
        rngs = nnx.Rngs(0)
        first = {name: jnp.asarray(w.T) for name, w in draw_weights(case).items()}
        self.input = nnx.Linear(N_INPUTS, case.hidden, use_bias=False, rngs=rngs)
        self.input.kernel[...] = first["input"]
        self.hidden = spyx.nn.RCuBaLIF(
            (case.hidden,),
            alpha=case.alpha,
            beta=case.beta,
            activation=spyx.axn.superspike(SURROGATE_SLOPE),
            rngs=rngs,
        )
        self.hidden.recurrent_w[...] = first["recurrent"]
        self.output = nnx.Linear(case.hidden, N_CLASSES, use_bias=False, rngs=rngs)
        self.output.kernel[...] = first["output"]
        self.readout = spyx.nn.LI((N_CLASSES,), beta=case.beta, rngs=rngs)

    def __call__(self, spikes: Any) -> tuple[Any, Any]:
        """Logits and hidden spikes from spikes (time, batch, input)."""
        hidden, _ = spyx.nn.run(self.hidden, self.input(spikes))
        membranes, _ = spyx.nn.run(self.readout, self.output(hidden))
        return membranes.max(axis=0), hidden


def rcubalif(case: Case, data: Data, options: Options) -> Contender:
    """The network as a function of its weights by name."""
    graph, state = nnx.split(Network(case))
    paths, structure = jax.tree.flatten_with_path(state)
    weights = {jax.tree_util.keystr(path): leaf for path, leaf in paths}

    def network(weights: Any, spikes: Any) -> Any:
        leaves = [weights[jax.tree_util.keystr(path)] for path, _ in paths]
        return nnx.merge(graph, jax.tree.unflatten(structure, leaves))(spikes)

    name = next(name for name in weights if "'input'" in name)
    return jax_contender(network, weights, data.dense(case), data, input_weight=name)
