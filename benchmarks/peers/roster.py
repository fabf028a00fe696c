"""Who is timed, with the fastest use of each library that we found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple


class Entry(NamedTuple):
    """A contender: where it is built and what a reader should know of it."""

    kind: Literal["ours", "loop", "peer"]
    module: str
    """In this package."""
    function: str
    """Builds a `Contender` from a case, its data and options."""
    packages: tuple[str, ...]
    """What it needs, by the names under which pip installs it; the first is the library itself."""
    note: str
    """How the library is used and where its network differs."""
    options: Mapping[str, Any] = {}
    """Fields of `Options` that make it this contender."""
    device: Literal["cpu", "cuda", "both"] = "cpu"


_OURS = ("ours", "snnbench_network", "recurrent_lif", ("snnbench", "torch"))
_LOOP = ("loop", "loop_network")

ROSTER: dict[str, Entry] = {
    "ours": Entry(*_OURS, "the engine that snnbench takes by itself", device="both"),
    "ours, CUDA graph": Entry(*_OURS, "the whole step captured", {"graphed": True}, device="cuda"),
    "ours, numba": Entry(*_OURS, "without a C++ compiler", {"engine": "numba"}),
    "ours, reference": Entry(*_OURS, "eager PyTorch", {"engine": "reference"}),
    "loop": Entry(*_LOOP, "verbatim", ("torch",), "as the SpyTorch tutorials write it: h1[:, t]"),
    "loop, unbind": Entry(
        *_LOOP, "unbound", ("torch",), "time first and unbind instead of indexing", device="both"
    ),
    "loop, compiled": Entry(
        *_LOOP, "compiled", ("torch",), "the unbind loop, torch.compile of 25 steps at a time"
    ),
    "loop, CUDA graph": Entry(
        *_LOOP,
        "unbound",
        ("torch",),
        "the unbind loop, the whole step captured",
        {"graphed": True},
        device="cuda",
    ),
    "JAX scan": Entry(
        "peer", "jax_network", "scan", ("jax", "optax"), "the same equations, lax.scan in one jit"
    ),
    "spyx": Entry(
        "peer",
        "spyx_network",
        "rcubalif",
        ("spyx", "flax", "jax", "optax"),
        "RCuBaLIF, input product before the scan, one jit; no current in the readout",
    ),
    "rockpool": Entry(
        "peer",
        "rockpool_network",
        "lif_jax",
        ("rockpool", "jax", "optax"),
        "LIFJax, jitted; surrogate is a step",
    ),
    "norse": Entry(
        "peer",
        "norse_network",
        "lif_recurrent",
        ("norse", "torch"),
        "LIFRecurrent; reset to zero",
    ),
    "sinabs": Entry(
        "peer",
        "sinabs_network",
        "lif_recurrent",
        ("sinabs", "torch"),
        "LIFRecurrent; surrogate is an exponential; no current in the readout",
    ),
    "snntorch": Entry(
        "peer",
        "snntorch_network",
        "rsynaptic",
        ("snntorch", "torch"),
        "RSynaptic in a loop over unbind; no current in the readout",
    ),
    "spikingjelly": Entry(
        "peer",
        "spikingjelly_network",
        "cubalif",
        ("spikingjelly", "torch"),
        "CUBALIFNode in a recurrent container, stepped over unbind",
        device="both",
    ),
    "spikingjelly, CUDA graph": Entry(
        "peer",
        "spikingjelly_network",
        "cubalif",
        ("spikingjelly", "torch"),
        "the same, the whole step captured",
        {"graphed": True},
        device="cuda",
    ),
}


def on_device(device: str) -> list[str]:
    """Names of the contenders that run there."""
    return [name for name, entry in ROSTER.items() if entry.device in (device, "both")]
