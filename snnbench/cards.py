"""Cards of the kind the Hugging Face Hub reads: a README.md whose front matter is YAML.

A model's card is made of its run's record, and of what `snnbench.explain` says of its specification; a data
set's card of the file's header and counts, and of the card of the recipe it names. Nothing else is in them.
The front matter is written here, since it is a handful of keys; `huggingface_hub` reads it in the tests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnbench.errors import SnnbenchError
from snnbench.explain import explain
from snnbench.metrics import Counts
from snnbench.model_spec import ModelSpec
from snnbench.record import RunRecord

if TYPE_CHECKING:
    from snnbench.data_prep.store import SpikeDataset

Rows = Sequence[Sequence[Any]]

# the Hub's identifiers of licences, by how recipes and entries here begin to name them
_LICENCES = {
    "GPL-3.0": "gpl-3.0",
    "CC BY 4.0": "cc-by-4.0",
    "CC BY-SA 4.0": "cc-by-sa-4.0",
    "CC BY-SA 3.0": "cc-by-sa-3.0",
    "CC0-1.0": "cc0-1.0",
    "MIT": "mit",
    "Apache-2.0": "apache-2.0",
}
# likewise of sizes: below so many samples
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}


# ---- a run


def model_card(record: RunRecord, licence: str | None) -> str:
    """The card of a finished run's network, Markdown.

    Parameters
    ----------
    record
        Of the run.
    licence
        Under which the weights are given away; None says nothing.

    Raises
    ------
    SnnbenchError
        The run is not finished, so that there is no result.
    """
    if record.test is None or record.operations is None:
        raise SnnbenchError(
            f"{record.run_id}: the run is {record.status}; a card needs a finished one"
        )
    spec, task = record.spec, record.spec.task
    splits = {"test": record.test}
    if record.validation is not None:  # class C holds nothing out
        splits["validation"] = record.validation
    kinds: list[str] = [spec.model.kind]
    if isinstance(spec.model, ModelSpec):
        kinds = ["spiking-neural-network", spec.model.neuron.kind]
    synthetic = " (synthetic data)" if task.synthetic else ""
    front = {
        **_licence(licence),
        "library_name": "snnbench",
        "tags": ["snnbench", task.name, *kinds],
        "datasets": [record.data.name],
        "metrics": [task.metric],
        "model-index": [
            {
                "name": record.run_id,
                "results": [_result(record, split, counts) for split, counts in splits.items()],
            }
        ],
    }
    explained = explain(spec)
    results = [
        ["test, read once", *_counts(record.test)],
        *([f"test, {name}", *_counts(c)] for name, c in record.test_by_group.items()),
    ]
    if record.validation is not None:
        results.append(["validation, which chose the epoch", *_counts(record.validation)])
    spikes = {f"spikes, {name}": f"{n:,.0f}" for name, n in record.operations.spikes.items()}
    per_sample = {
        **spikes,
        "accumulates, one for every spike and weight": f"{record.operations.effective_acs:,.0f}",
        "multiply-accumulates of dense layers": f"{record.operations.dense_macs:,.0f}",
    }
    by = record.environment
    trained = {
        "epochs": f"{record.epochs_run}, of which number {record.chosen_epoch} was kept",
        "seed": spec.seed,
        "tuning trials before": record.tuning_trials,
        "seconds per epoch": f"{record.seconds_per_epoch:.3g} on {by.processor}, {by.device}"
        + (f", the share of one of {record.stack.seeds} seeds at once" if record.stack else ""),
        "snnbench": by.snnbench + (f", commit {by.commit}" if by.commit else ""),
        "uncommitted changes": {None: "unknown", True: "yes", False: "no"}[by.dirty],
        "started": record.started_at,
    }
    data = {
        "task": f"{task.name}, version {task.version}, protocol class {record.protocol}",
        "samples": ", ".join(f"{n} {split}" for split, n in record.data.n_samples.items()),
        "fingerprint": f"`{record.data.fingerprint}`",
        "bins": f"{spec.n_steps} of {spec.train.dt_s:g} s, {spec.n_channels} channels",
    }
    layers = [[n["layer"], n["inputs"], n["units"], n["parameters"]] for n in explained["layers"]]
    return _card(
        front,
        f"# {spec.model.name} on {task.title}{synthetic}",
        f"One network, trained with one seed: {record.n_parameters:,} parameters, test accuracy"
        f" {record.test.accuracy:.2%}. A result over seeds is a matter of leaderboards.",
        "## Results",
        _table(["split", "accuracy", "correct", "of"], results),
        "## Per test sample",
        _table(["what", "number"], list(per_sample.items())),
        "## Data",
        _table(["what", "value"], list(data.items())),
        "## Network",
        _table(["layer", "inputs", "units", "parameters"], layers),
        "\n".join(f"    {line}".rstrip() for line in _equations(explained)),
        "## Training",
        _table(["what", "value"], list(trained.items())),
        "## Use",
        "`model.safetensors` holds the weights, with the whole specification in its header:",
        "```python\nfrom pathlib import Path\nfrom snnbench.checkpoint import load_network\n\n"
        'network, spec = load_network(Path("model.safetensors"))\n```',
        "`record.json` is the run's record, from which this card was made.",
    )


def _result(record: RunRecord, split: str, counts: Counts) -> dict[str, Any]:
    task = record.spec.task
    return {
        "task": {"type": "other", "name": task.title},
        "dataset": {"type": record.data.name, "name": record.data.name, "split": split},
        "metrics": [
            {
                "type": task.metric,
                "name": f"{split} accuracy",
                "value": counts.accuracy,
                "args": {"correct": counts.correct, "total": counts.total},
            }
        ],
    }


def _counts(counts: Counts) -> list[str]:
    return [f"{counts.accuracy:.2%}", str(counts.correct), str(counts.total)]


def _equations(explained: Mapping[str, Any]) -> list[str]:
    if "neuron" in explained:
        hidden = [*explained["neuron"]["equations"], explained["neuron"]["spike"]]
    else:
        hidden = explained["hidden"]
    return [*hidden, "", "readout:", *explained["readout"]["equations"]]


# ---- a data set


def dataset_card(dataset: SpikeDataset) -> str:
    """The card of a SpikeDataset file, Markdown."""
    header, identity = dataset.header, dataset.identity
    n_samples = sum(dataset.n_samples(split) for split in dataset.splits)
    size = next((name for below, name in _SIZES.items() if n_samples < below), "1M<n<10M")
    front = {
        **_licence(header.licence),
        "pretty_name": header.title,
        "size_categories": [size],
        "tags": ["snnbench", "spikes", *(["synthetic"] if header.synthetic else [])],
    }
    splits = [
        [
            split,
            dataset.n_samples(split),
            dataset.n_spikes(split),
            len(dataset.group_names(split)),
        ]
        for split in dataset.splits
    ]
    facts = {
        "name": header.name,
        "synthetic": "yes" if header.synthetic else "no",
        "units": header.n_units,
        "duration": f"{header.duration_s:g} s",
        "classes": f"{len(header.classes)}: {', '.join(header.classes)}",
        "made by": header.made_by,
        "fingerprint": f"`{identity.fingerprint}`",
        **{
            f"sha256 of {name.removesuffix('_sha256')}": f"`{value}`"
            for name, value in identity.model_dump().items()
            if name.endswith("_sha256")
        },
    }
    parts = [
        f"# {header.title}",
        f"Spike times and units in one HDF5 file, `{dataset.path.name}`, format snnbench-spikes/1.",
        _table(["split", "samples", "spikes", "groups"], splits),
        _table(["what", "value"], list(facts.items())),
        "```python\nfrom snnbench.data_prep.store import SpikeDataset\n\n"
        f'with SpikeDataset.open("{dataset.path.name}") as dataset:\n'
        '    spikes = dataset.read("train", 0, 10)\n```',
        f"## Licence and source\n\n{header.licence}. {header.citation}.",
    ]
    if recipe := _recipe_card(header.name):
        parts += [
            f"## The recipe {header.name}",
            "From the recipe's own card; where it differs, the figures above are the file's.",
            recipe,
        ]
    return _card(front, *parts)


def _recipe_card(name: str) -> str | None:
    """The card of a recipe that ships, without its title and a level deeper."""
    file = resources.files("snnbench.data_prep").joinpath("cards", f"{name}.md")
    if not re.fullmatch(r"[\w.-]+", name) or not file.is_file():
        return None
    text = file.read_text("utf-8").split("\n", 1)[1].strip()
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)


# ---- both


def write_card(folder: Path, text: str, *, force: bool) -> Path:
    """Write a card as README.md into a folder.

    Raises
    ------
    SnnbenchError
        There is one, and no `force`.
    """
    from snnbench.paths import write_text

    path = folder / "README.md"
    if path.exists() and not force:
        raise SnnbenchError(f"{path}: is there already; --force replaces it")
    write_text(path, text)
    return path


def _licence(text: str | None) -> dict[str, str]:
    """Keys of a licence: the Hub's identifier, or the text itself where it knows none."""
    if text is None:
        return {}
    for name, identifier in _LICENCES.items():
        if text.startswith(name):
            return {"license": identifier}
    return {"license": "other", "license_name": text}


def _card(front: Mapping[str, Any], *parts: str) -> str:
    return "\n".join(["---", *_yaml(front), "---", "", *("\n\n".join(parts).split("\n")), ""])


def _yaml(value: Mapping[str, Any] | Sequence[Any]) -> list[str]:
    """Lines of YAML in blocks; scalars are JSON, which YAML reads alike."""
    pairs = isinstance(value, Mapping)
    lines = []
    for item in value.items() if isinstance(value, Mapping) else ((None, v) for v in value):
        key, inner = item
        start = f"{key}:" if pairs else "-"
        if not isinstance(inner, Mapping | list | tuple):
            lines.append(f"{start} {json.dumps(inner, ensure_ascii=False)}")
        elif pairs:
            lines += [start, *(f"  {line}" for line in _yaml(inner))]
        else:
            first, *others = _yaml(inner)
            lines += [f"{start} {first}", *(f"  {line}" for line in others)]
    return lines


def _table(columns: Sequence[str], rows: Rows) -> str:
    def line(cells: Sequence[Any]) -> str:
        escaped = (str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
        return f"| {' | '.join(escaped)} |"

    return "\n".join([line(columns), line(["---"] * len(columns)), *map(line, rows)])
