"""`snnbench models`: what is in the zoo."""

from __future__ import annotations

from importlib import resources
from itertools import pairwise
from typing import Any

import click

from snnbench.cli.common import answer, json_option, set_option, table
from snnbench.errors import UsageError


@click.group("models")
def models_command() -> None:
    """What is in the zoo.

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
    """One model: card, settings for a task, search space.

    \b
    Example: snnbench models show rec-lif --task hd
    """
    from snnbench.spec import load_model, make_run_spec, parse_overrides

    entry = load_model(name)
    spec = make_run_spec(
        task, name, seed=0, data_fingerprint="", overrides=parse_overrides(assignments)
    )
    n_parameters = count_parameters(
        spec.n_channels, spec.model.hidden, spec.task.n_classes, recurrent=spec.model.recurrent
    )
    facts = {
        "name": name,
        "summary": entry.summary,
        "source": entry.source,
        "task": task,
        "n_inputs": spec.n_channels,
        "n_steps": spec.n_steps,
        "n_parameters": n_parameters,
        "model": spec.model.model_dump(mode="json"),
        "train": spec.train.model_dump(mode="json"),
        "search": entry.search,
    }
    lines = [
        model_card(name).rstrip(),
        "",
        f"On {task}: {spec.n_channels} inputs, {spec.n_steps} steps of {spec.train.dt_s * 1e3:g} ms,"
        f" {n_parameters} parameters",
        *_flat("model", facts["model"]),
        *_flat("train", facts["train"]),
    ]
    answer(as_json, facts, "\n".join(lines))


def model_card(name: str) -> str:
    """The model's card, Markdown."""
    card = resources.files("snnbench.models").joinpath("cards", f"{name}.md")
    if not card.is_file():
        raise UsageError(f"model {name} has no card")
    return card.read_text("utf-8")


def count_parameters(
    n_inputs: int, hidden: tuple[int, ...], n_outputs: int, *, recurrent: bool
) -> int:
    """Weights of a network, counted from its sizes so that torch need not be imported."""
    sizes = (n_inputs, *hidden, n_outputs)
    feedforward = sum(a * b for a, b in pairwise(sizes))
    return feedforward + (sum(n * n for n in hidden) if recurrent else 0)


def _flat(prefix: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [line for k, v in value.items() for line in _flat(f"{prefix}.{k}", v)]
    return [f"  {prefix} = {value}"]
