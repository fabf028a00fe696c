"""One training step of a network in JAX, jitted as a whole: gradient and Adam's update in one call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from peers.contender import LEARNING_RATE, SURROGATE_SLOPE, Contender, Data

Network = Callable[[Any, Any], tuple[Any, Any]]
"""From weights and inputs to logits (batch, class) and hidden spikes in any order of axes."""


def jax_contender(
    network: Network,
    weights: dict[str, Any],
    inputs: NDArray[np.float32],
    data: Data,
    *,
    input_weight: str,
) -> Contender:
    """A contender from a pure function; `input_weight` is the key by which the rate is set."""
    adam = optax.adam(LEARNING_RATE)
    batch = jnp.asarray(inputs), jnp.asarray(data.labels)
    first = np.array(weights[input_weight])

    def loss(weights: Any, inputs: Any, labels: Any) -> Any:
        logits, _ = network(weights, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def update(weights: Any, state: Any, inputs: Any, labels: Any) -> Any:
        changes, state = adam.update(jax.grad(loss)(weights, inputs, labels), state)
        return optax.apply_updates(weights, changes), state

    # old weights lend their memory to the new ones
    trained = [weights, adam.init(weights)]
    started = time.perf_counter()
    compiled = jax.jit(update, donate_argnums=(0, 1)).lower(*trained, *batch).compile()
    compile_s = time.perf_counter() - started
    mean_rate = jax.jit(lambda weights, inputs: network(weights, inputs)[1].mean())

    def step() -> None:
        trained[:] = jax.block_until_ready(compiled(*trained, *batch))

    def rate() -> float:
        return float(mean_rate(trained[0], batch[0]))

    def scale_inputs(factor: float) -> None:
        trained[0] = {**trained[0], input_weight: jnp.asarray(factor * first)}

    return Contender(step, rate, scale_inputs, compile_s)


@jax.custom_jvp
def superspike(x: Any) -> Any:
    """Spikes whose derivative is 1 / (slope |x| + 1)^2 (Zenke & Ganguli 2018)."""
    return (x > 0).astype(x.dtype)


@superspike.defjvp
def _superspike_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return superspike(x), dx / (SURROGATE_SLOPE * abs(x) + 1) ** 2


def leaky_readout(drives: Any, alpha: float, beta: float) -> Any:
    """Largest membranes (batch, unit) of leaky integrators with drives (time, batch, unit)."""

    def step(state: Any, drive: Any) -> Any:
        membrane, current = state
        return (beta * membrane + current, alpha * current + drive), membrane

    rest = jnp.zeros_like(drives[0])
    return jax.lax.scan(step, (rest, rest), drives)[1].max(axis=0)
