"""`snnbench export`: what is here, in the forms of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snnbench.cli.common import answer, json_option, note
from snnbench.errors import SnnbenchError, UsageError

if TYPE_CHECKING:
    from snnbench.models.network_base import Network
    from snnbench.spec import RunSpec


@click.group("export")
def export_command() -> None:
    """Networks, runs and data sets in the forms of other tools.

    \b
    Example: snnbench export nir ~/runs/hd-rec-lif-seed0-1a2b3c4d5e --out rec-lif.nir
    """


@export_command.command("nir")
@click.argument("source", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option(
    "--integration",
    type=click.Choice(["euler", "exponential"]),
    default="euler",
    show_default=True,
    help="How the reader integrates: snntorch and norse by forward Euler.",
)
@click.option(
    "--step-s",
    type=click.FloatRange(min=0, min_open=True),
    help="The reader's time step in s; default: the run's bin width. snntorch takes 1e-4, whatever it is.",
)
@click.option("--no-readout", is_flag=True, help="End with the last hidden layer's spikes.")
@json_option
def nir(
    source: Path,
    out: Path,
    integration: Any,
    step_s: float | None,
    no_readout: bool,
    as_json: bool,
) -> None:
    """Write the network of RUN, a run folder or a checkpoint (.safetensors), as a NIR graph.

    LIF neurons with and without synaptic current, recurrent or not, and their readouts; docs/interchange.md
    tells what the graph means.

    \b
    Example: snnbench export nir ~/runs/hd-rec-lif-seed0-1a2b3c4d5e --out rec-lif.nir
    """
    from snnbench.interchange import graph_of, write_graph

    network, spec = opened_network(source)
    graph = graph_of(network, spec, integration=integration, step_s=step_s, readout=not no_readout)
    write_graph(out, graph)
    step_s = step_s or spec.train.dt_s
    nodes = {name: type(node).__name__ for name, node in graph.nodes.items()}
    facts = {"out": str(out), "integration": integration, "step_s": step_s, "nodes": nodes}
    chain = " -> ".join(f"{name} ({kind})" for name, kind in nodes.items())
    answer(as_json, facts, f"{out}: {chain}\nfor {integration} steps of {step_s:g} s")


def opened_network(source: Path) -> tuple[Network, RunSpec]:
    """The network of a run folder or a checkpoint, on the CPU."""
    import torch

    from snnbench.checkpoint import load_network
    from snnbench.redraw import open_run

    if source.is_file():
        return load_network(source)
    run = open_run(source, torch.device("cpu"))
    if run.remark:
        note(f"{source.name}: {run.remark}")
    return run.network, run.spec


@export_command.command("card")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write into.")
@click.option(
    "--licence", help='Of a run\'s weights, for example "CC BY 4.0"; a data set tells its own.'
)
@click.option("--force", is_flag=True, help="Replace a README.md that is there.")
@json_option
def card(source: Path, out: Path, licence: str | None, force: bool, as_json: bool) -> None:
    """Write a model or dataset card as Hugging Face Hub reads it (README.md with front matter).

    SOURCE is the folder of a finished run, whose weights and record go beside the card, or a data file.

    \b
    Example: snnbench export card ~/runs/hd-rec-lif-seed0-1a2b3c4d5e --out card --licence "CC BY 4.0"
    """
    if source.is_dir():
        files = _write_model_card(source, out, licence, force=force)
    elif licence is not None:
        raise UsageError(f"--licence is of a run's weights, and {source} is no run folder")
    else:
        from snnbench.cards import dataset_card, write_card
        from snnbench.data_prep.store import SpikeDataset

        with SpikeDataset.open(source) as dataset:
            files = [write_card(out, dataset_card(dataset), force=force)]
    paths = [str(path) for path in files]
    answer(as_json, {"files": paths}, "\n".join(paths))


def _write_model_card(run: Path, out: Path, licence: str | None, *, force: bool) -> list[Path]:
    from snnbench.bench import RECORD_FILE
    from snnbench.cards import model_card, write_card
    from snnbench.paths import file_sha256, write_bytes
    from snnbench.record import read_record
    from snnbench.train import MODEL_FILE

    record = read_record(run / RECORD_FILE)
    text = model_card(record, licence)
    weights = run / MODEL_FILE
    if (digest := file_sha256(weights)) != record.checkpoint_sha256:
        raise SnnbenchError(
            f"{weights}: sha256 {digest} is not the record's, {record.checkpoint_sha256}"
        )
    card = write_card(out, text, force=force)
    copies = [out / MODEL_FILE, out / RECORD_FILE]
    for copy in copies:
        write_bytes(copy, (run / copy.name).read_bytes())
    return [card, *copies]
