"""`snnbench models`: what is in the zoo, and pictures of what became of it in a run."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snnbench.cli.common import answer, json_option, note, set_option, table
from snnbench.cli.run import data_option, device_option
from snnbench.errors import UsageError

if TYPE_CHECKING:
    from snnbench.spec import RunSpec


@click.group("models")
def models_command() -> None:
    """What is in the zoo; pictures of trained networks.

    \b
    Example: snnbench models show rec-lif
    """


@models_command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """All models of the zoo.

    \b
    Example: snnbench models list
    """
    from snnbench.spec import load_model, model_names

    entries = [load_model(name) for name in model_names()]
    rows = [{"name": e.name, "summary": e.summary, "source": e.source} for e in entries]
    text = table(None, ["name", "what", "source"], [list(r.values()) for r in rows])
    answer(as_json, rows, text)


@models_command.command("show")
@click.argument("name")
@click.option("--task", default="hd", show_default=True, help="Sizes and settings for this task.")
@set_option
@json_option
def show(name: str, task: str, assignments: tuple[str, ...], as_json: bool) -> None:
    """One model: card, layers, equations with its numbers, loss, memory, settings for a task.

    NAME is one of the zoo, or a TOML file of your own (docs/add-a-model.md).

    \b
    Example: snnbench models show rec-lif --task hd
    """
    from snnbench.explain import explain
    from snnbench.spec import load_model, make_run_spec, parse_overrides

    entry = load_model(name)
    spec = make_run_spec(
        task, name, seed=0, data_fingerprint="", overrides=parse_overrides(assignments)
    )
    explained = explain(spec)
    facts = {
        "name": entry.name,
        "summary": entry.summary,
        "source": entry.source,
        "task": task,
        "n_inputs": spec.n_channels,
        "n_steps": spec.n_steps,
        "n_parameters": sum(layer["parameters"] for layer in explained["layers"]),
        **explained,
        "model": spec.model.model_dump(mode="json"),
        "train": spec.train.model_dump(mode="json"),
        "search": entry.search,
    }
    answer(as_json, facts, explained_text(model_card(name), spec, facts))


@models_command.command("plot")
@click.argument("run", type=click.Path(path_type=Path))
@data_option
@click.option(
    "--sample", default=0, show_default=True, help="Validation sample whose spikes are drawn."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the pictures; default: pictures in RUN.",
)
@device_option
@json_option
def plot(
    run: Path, data: Path | None, sample: int, out: Path | None, device: str, as_json: bool
) -> None:
    """Draw the network in the run folder RUN, before and after training, as SVG and PNG.

    Spikes, rates and activity of validation samples; weights, also as matrices; and what it has of constants
    and delays. The run may be unfinished: then its best epoch so far is drawn.

    \b
    Example: snnbench models plot ~/runs/hd-rec-lif-seed0-1a2b3c4d5e --data hd.h5 --sample 3
    """
    from snnbench.data_prep.store import SpikeDataset
    from snnbench.paths import dataset_path
    from snnbench.redraw import draw_run, open_run
    from snnbench.seeding import resolve_device

    trained = open_run(run, resolve_device(device))
    with SpikeDataset.open(data or dataset_path(trained.spec.task.dataset)) as dataset:
        paths = draw_run(trained, dataset, out or run / "pictures", sample=sample)
    files = [str(path) for path in paths]
    facts = {"run": str(run), "epoch": trained.epoch, "sample": sample, "files": files}
    figures = list(dict.fromkeys(path.stem for path in paths))
    note(f"{len(figures)} figures, each as SVG and PNG: {', '.join(figures)}")
    answer(as_json, facts, "\n".join(files))


def explained_text(card: str, spec: RunSpec, facts: dict[str, Any]) -> Any:
    """A model for reading: what `explain` found, under headings."""
    from rich.console import Group
    from rich.text import Text

    def lines(*texts: str) -> Text:
        return Text("\n".join(texts))  # brackets are brackets here, and no markup

    columns = ["layer", "inputs", "units", "weights", "recurrent", "parameters"]
    return Group(
        lines(
            card.rstrip(),
            "",
            f"On {facts['task']}: {facts['n_inputs']} inputs, {facts['n_steps']} steps of"
            f" {spec.train.dt_s * 1e3:g} ms, {facts['n_parameters']} parameters",
            "",
        ),
        table(None, columns, [list(layer.values()) for layer in facts["layers"]]),
        lines(
            *_hidden(facts),
            *_readout(facts["readout"]),
            *_section("Loss", [*facts["loss"][:1], *(f"+ {term}" for term in facts["loss"][1:])]),
            *_section(*_costs(spec, facts)),
            *_section(
                "Settings", [*_flat("model", facts["model"]), *_flat("train", facts["train"])]
            ),
        ),
    )


def _hidden(facts: dict[str, Any]) -> list[str]:
    """Of neurons and their backward pass, or of a baseline's layers."""
    if "hidden" in facts:
        return _section("From the input to the readout", facts["hidden"])
    neuron, per_unit = facts["neuron"], facts["neuron"]["per_unit"]
    return [
        *_section("Hidden units", [*neuron["equations"], neuron["spike"], neuron["reset"]]),
        *_indented(_time_constants(neuron)),
        *_indented([f"{name}: of each unit, {text}" for name, text in per_unit.items()]),
        *_section("Backward pass", [facts["surrogate"]["formula"]]),
    ]


def _readout(readout: dict[str, Any]) -> list[str]:
    return [
        *_section("Readout", [*readout["equations"], f"logit = {readout['logit']}"]),
        *_indented(_time_constants(readout)),
    ]


def _section(heading: str, content: list[str]) -> list[str]:
    return ["", heading, *_indented(content)]


def _indented(texts: list[str]) -> list[str]:
    return [f"  {text}" for text in texts]


def _time_constants(facts: dict[str, Any]) -> list[str]:
    return [
        f"{tau['name'].removesuffix('_s')} = {tau['seconds'] * 1e3:g} ms, {tau['steps']:.3g} steps:"
        f" times {tau['decay_per_step']:.4f} in a step"
        for tau in facts.get("time_constants", [])
    ]


def _costs(spec: RunSpec, facts: dict[str, Any]) -> tuple[str, list[str]]:
    sample, spikes = facts["per_sample"], facts["per_sample"]["spikes"]
    work = (
        [
            f"{sample['input_spikes']:,.0f} input and {sum(spikes.values()):,.0f} hidden spikes a sample",
            f"{sample['effective_acs']:.3g} accumulates a sample, one for every spike and weight that"
            f" leaves its unit; {sample['dense_macs']:.3g} multiply-accumulates if every weight"
            " worked in every step",
        ]
        if spikes
        else [
            f"{sample['input_spikes']:,.0f} input spikes a sample, and no hidden ones",
            f"{sample['dense_macs']:.3g} multiply-accumulates a sample; the first layer's, if done spike by"
            f" spike, are {sample['effective_acs']:.3g} accumulates, one for every weight it meets",
        ]
    )
    units = "every unit" if spikes else "every input"
    return (
        f"Costs, if {units} fires at {sample['assumed_rate_hz']:g} Hz",
        [
            *work,
            f"memory in training, batches of {spec.train.batch_size}: {facts['memory']['text']}",
        ],
    )


def model_card(name: str) -> str:
    """The model's card, Markdown; of a model in a file the .md file beside it, else its name and summary."""
    from snnbench.spec import load_model

    if name.endswith(".toml"):
        own = Path(name).with_suffix(".md")
        if own.is_file():
            return own.read_text("utf-8")
        entry = load_model(name)
        return f"# {entry.name}\n\n{entry.summary}\n\nSource: {entry.source}\n"
    card = resources.files("snnbench.models").joinpath("cards", f"{name}.md")
    if not card.is_file():
        raise UsageError(f"model {name} has no card")
    return card.read_text("utf-8")


def _flat(prefix: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [line for k, v in value.items() for line in _flat(f"{prefix}.{k}", v)]
    return [f"{prefix} = {value}"]
