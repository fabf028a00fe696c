"""`snnbench import`: what others made, in the forms used here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from snnbench.cli.common import answer, json_option, note


@click.group("import")
def import_command() -> None:
    """Networks of other tools, as checkpoints.

    \b
    Example: snnbench import nir net.nir --task hd --step-s 1e-3 --out net.safetensors
    """


@import_command.command("nir")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Checkpoint to write (.safetensors).",
)
@click.option("--task", help="Task it is for; needed where snnbench did not write FILE.")
@click.option(
    "--step-s",
    type=click.FloatRange(min=0, min_open=True),
    help="Time step in s that its constants are meant for, likewise; becomes the bin width.",
)
@click.option(
    "--integration",
    type=click.Choice(["euler", "exponential"]),
    help="How its writer integrates; default: what FILE says, else euler.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Also classify the validation split of this data file.",
)
@json_option
def nir(
    file: Path,
    out: Path,
    task: str | None,
    step_s: float | None,
    integration: Any,
    data: Path | None,
    as_json: bool,
) -> None:
    """Read the network of a NIR graph and write it as a checkpoint.

    \b
    Example: snnbench import nir net.nir --task hd --step-s 1e-3 --out net.safetensors
    """
    from snnbench.checkpoint import save_network
    from snnbench.interchange import network_of, read_graph

    imported = network_of(read_graph(file), file, task=task, step_s=step_s, integration=integration)
    spec = imported.spec
    save_network(out, imported.network, spec)
    for assumption in imported.assumed:
        note(f"{file} does not say, and was taken as: {assumption}")
    facts: dict[str, Any] = {
        "out": str(out),
        "task": spec.task.name,
        "model": spec.model.model_dump(mode="json"),
        "dt_s": spec.train.dt_s,
        "parameters": imported.network.n_parameters,
        "assumed": imported.assumed,
    }
    text = (
        f"{out}: {spec.model.name} for task {spec.task.name}, {imported.network.n_parameters} parameters,"
        f" bins of {spec.train.dt_s:g} s"
    )
    if data is not None:
        counts = _validation(imported.network, spec, data)
        facts["validation"] = counts.model_dump()
        text += f"\nvalidation {counts.accuracy:.2%} ({counts.correct} of {counts.total})"
    answer(as_json, facts, text)


def _validation(network: Any, spec: Any, data: Path) -> Any:
    import torch

    from snnbench.bench import check_data
    from snnbench.data_prep.store import SpikeDataset
    from snnbench.evaluate import predict
    from snnbench.metrics import count_correct

    with SpikeDataset.open(data) as dataset:
        check_data(dataset, spec.task)
        split = dataset.split("valid")
        predictions = predict(network, split, spec, torch.device("cpu")).predictions
        return count_correct(predictions, split.labels)
