"""Whether snnTorch, given our networks as NIR graphs, has the same spikes.

    python benchmarks/interchange.py --peers-python PYTHON [--checkpoint FILE] [--engine ENGINE] [--json]

PYTHON has snntorch, nir and nirtorch (benchmarks/peers/requirements.txt). Networks with random weights, or
the one of a checkpoint, are exported for snntorch's step of 1e-4 s and read there by its `import_from_nir`,
each network in three ways:

    as read    nothing changed: snntorch resets at once, and to zero, whatever the graph's metadata say
    reset      its neurons made anew with the reset that the metadata name, one step after the spike
    late       likewise, and what recurrent weights send arrives one step later; of recurrent networks with a
               synaptic current only

A spike moves our membranes one step later than snntorch's: by one step without a synaptic current and two
with it, in every layer. Spikes are compared after so many steps' shift, those of the last hidden layer.
Printed is how many spikes both have, of all that one of them has. Ours come from the engine `reference` by
default: its matrix products are PyTorch's as in snntorch, where `cpp` adds in another order.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

N_STEPS, N_BATCH, N_UNITS = 100, 64, 128
WORKER = Path(__file__).parent / "peers" / "interchange_snntorch.py"
NETWORKS: dict[str, dict[str, Any]] = {
    "LIF without current": {"neuron.kind": "lif-delta"},
    "LIF without current, recurrent": {"neuron.kind": "lif-delta", "recurrent": True},
    "LIF": {},
    "LIF, three layers": {"hidden": [N_UNITS] * 3},
    "LIF, recurrent": {"recurrent": True},
    "LIF, reset to zero": {"neuron.reset": "zero"},
}
GAINS = {"input_gain": 8.0, "recurrent_gain": 2.0}
WAYS = ("as read", "reset", "late")


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers-python", required=True)
    parser.add_argument("--checkpoint", type=Path, help="compare this network, too")
    parser.add_argument("--engine", default="reference", help="of ours")
    parser.add_argument("--json", action="store_true", help="the same figures for machines")
    options = parser.parse_args()
    rows = compare(options.peers_python, options.checkpoint, options.engine)
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{'network':32}{'spikes':>9}  shift" + "".join(f"{way:>18}" for way in WAYS))
    for row in rows:
        shares = "".join(f"{share(row, way):>18}" for way in WAYS)
        print(f"{row['network']:32}{row['spikes']:>9}  {row['shift']:>5}  {shares}")


def share(row: dict[str, Any], way: str) -> str:
    """Spikes that both have, of those that one of them has."""
    return "{both}/{either}".format(**row[way]) if way in row else "–"


def compare(python: str, checkpoint: Path | None, engine: Any) -> list[dict[str, Any]]:
    """A row of figures for every network."""
    import torch

    from snnbench.checkpoint import build_for, load_network
    from snnbench.spec import make_run_spec

    networks = {}
    for name, keys in NETWORKS.items():
        settings = {"hidden": [N_UNITS], "recurrent": False, **GAINS, **keys}
        overrides = {f"model.{k}": v for k, v in settings.items()} | {"train.units_per_channel": 1}
        spec = make_run_spec("hd", "rec-lif", seed=0, data_fingerprint="", overrides=overrides)
        networks[name] = build_for(spec, torch.Generator().manual_seed(0)), spec
    if checkpoint is not None:
        networks[checkpoint.stem] = load_network(checkpoint)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (network, spec) in networks.items():
            network.engine = engine
            rows.append({"network": name, **agreement(network, spec, python, Path(folder))})
    return rows


def agreement(network: Any, spec: Any, python: str, folder: Path) -> dict[str, Any]:
    """Spikes of the last hidden layer, ours and theirs."""
    import torch

    from snnbench.interchange import graph_of, write_graph

    generator = torch.Generator().manual_seed(1)
    rates = torch.full((N_STEPS, N_BATCH, spec.n_channels), 0.05 * spec.train.units_per_channel)
    inputs = torch.poisson(rates, generator=generator)
    with torch.inference_mode():
        ours = network.hidden_spikes(inputs)[-1].numpy() > 0
    write_graph(folder / "net.nir", graph_of(network, spec, step_s=1e-4, readout=False))
    np.save(folder / "inputs.npy", inputs.numpy())
    per_layer = 1 if spec.model.neuron.kind == "lif-delta" else 2
    shift = per_layer * len(spec.model.hidden)
    row: dict[str, Any] = {"spikes": int(ours.sum()), "places": ours.size, "shift": shift}
    delayed = per_layer == 2 and any(spec.model.are_recurrent)
    for way in WAYS if delayed else WAYS[:2]:
        arguments = [str(WORKER), str(folder), way]
        subprocess.run([python, *arguments], check=True, stdout=subprocess.DEVNULL)
        theirs = np.load(folder / "spikes.npy") > 0
        a, b = ours[shift:], theirs[:-shift]
        row[way] = {"both": int((a & b).sum()), "either": int((a | b).sum())}
    return row


if __name__ == "__main__":
    main()
