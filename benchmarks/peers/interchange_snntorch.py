"""A NIR graph in snnTorch: FOLDER/net.nir and inputs.npy in, spikes.npy out; see interchange.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nir
import numpy as np
import snntorch
import torch
from snntorch.import_nir import import_from_nir
from torch import Tensor, nn


class Late(nn.Module):
    """What a module gives, one step later."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.before = module, None

    def forward(self, spikes: Tensor) -> Tensor:
        now = self.module(spikes)
        late = torch.zeros_like(now) if self.before is None else self.before
        self.before = now
        return late


def with_reset(neuron: Any, mechanism: str) -> nn.Module:
    """The same neuron, reset in the step after a spike."""
    constants = {"beta": neuron.beta, "threshold": neuron.threshold}
    if isinstance(neuron, snntorch.Synaptic):
        constants["alpha"] = neuron.alpha
    return type(neuron)(**constants, reset_mechanism=mechanism, reset_delay=True, init_hidden=True)


def change(model: nn.Module, reset: str, *, late: bool) -> None:
    """Give all neurons below a module another reset and, with `late`, recurrent weights a delay."""
    for name, child in list(model.named_children()):
        if isinstance(child, snntorch.Leaky | snntorch.Synaptic):
            setattr(model, name, with_reset(child, reset))
        elif name == "w_rec" and late:
            setattr(model, name, Late(child))
        else:
            change(child, reset, late=late)


def resets(graph: nir.NIRGraph) -> set[str]:
    """What the metadata of all neurons in a graph say."""
    found: set[str] = set()
    for node in graph.nodes.values():
        if isinstance(node, nir.NIRGraph):
            found |= resets(node)
        elif "reset" in node.metadata:
            found.add(node.metadata["reset"])
    return found


def main() -> None:
    """Read, change, run step by step, write."""
    folder, way = Path(sys.argv[1]), sys.argv[2]
    graph = nir.read(folder / "net.nir")
    [reset] = resets(graph)
    model = import_from_nir(graph)
    if way != "as read":
        change(model, reset, late=way == "late")
    spikes, state = [], None
    with torch.no_grad():
        for x in torch.from_numpy(np.load(folder / "inputs.npy")):
            out, state = model(x, state)
            spikes.append(out)
    np.save(folder / "spikes.npy", torch.stack(spikes).numpy())


if __name__ == "__main__":
    main()
