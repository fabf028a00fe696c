"""What there is to say of a data file or a recipe, as facts and as text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnbench.cli.common import answer, table

if TYPE_CHECKING:
    from snnbench.data_prep.recipe import Recipe
    from snnbench.data_prep.store import Header, SpikeDataset

_NAMES_SHOWN = 20


def describe(dataset: SpikeDataset) -> dict[str, Any]:
    """What `show` tells about a file."""
    header, identity = dataset.header, dataset.identity
    return {
        "file": str(dataset.path),
        "name": header.name,
        "title": header.title,
        "synthetic": header.synthetic,
        "n_units": header.n_units,
        "duration_s": header.duration_s,
        "classes": list(header.classes),
        "splits": {
            split: {
                "samples": dataset.n_samples(split),
                "spikes": dataset.n_spikes(split),
                "groups": dataset.group_names(split),
            }
            for split in dataset.splits
        },
        **{k: v for k, v in identity.model_dump().items() if k.endswith("sha256")},
        "fingerprint": identity.fingerprint,
        "recipe": json.loads(header.recipe),
        "licence": header.licence,
        "citation": header.citation,
        "made_by": header.made_by,
    }


def recipe_facts(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says, and whether the data set is converted here."""
    from snnbench.paths import dataset_path

    path = dataset_path(recipe.name)
    files = recipe.download.files if recipe.download else ()
    sizes = [wanted.packed[0].size_bytes for wanted in files]
    return {
        "name": recipe.name,
        "title": recipe.title,
        "summary": recipe.summary,
        "synthetic": recipe.synthetic,
        "classes": list(recipe.classes),
        "n_classes": len(recipe.classes) or None,
        "n_units": recipe.n_units,
        "duration_s": recipe.duration_s,
        "n_samples": sum(recipe.expected_samples.values()) or None,
        "samples": dict(recipe.expected_samples),
        "source": recipe.source.about,
        "url": recipe.source.url,
        "download_bytes": None if None in sizes or not sizes else sum(filter(None, sizes)),
        "split": recipe.split.model_dump(mode="json", exclude_defaults=True),
        "licence": recipe.licence,
        "citation": recipe.citation,
        "path": str(path) if path.is_file() else None,
    }


def show_recipe(recipe: Recipe, as_json: bool) -> None:
    """The card of a data set, where it has one, and what its recipe says."""
    from importlib import resources

    from rich.console import Group
    from rich.markdown import Markdown

    card = resources.files("snnbench.data_prep").joinpath("cards", f"{recipe.name}.md")
    text = card.read_text("utf-8") if card.is_file() else f"# {recipe.title}\n\n{recipe.summary}"
    facts = recipe_facts(recipe)
    shown = {
        "classes": shortened(facts["classes"]) or "as the source has them",
        "samples": ", ".join(f"{n} {split}" for split, n in facts["samples"].items()),
        "units": f"{facts['n_units']}, usual length {facts['duration_s']} s",
        "source": f"{facts['source']}\n{facts['url']}".strip(),
        "download": size_text(facts["download_bytes"]),
        "split": ", ".join(f"{k} = {shortened(v)}" for k, v in facts["split"].items()),
        "licence": facts["licence"],
        "citation": facts["citation"],
        "converted": facts["path"] or "not yet",
    }
    rows = [[name, value] for name, value in shown.items() if value]
    drawn = Markdown(text) if sys.stdout.isatty() else text
    answer(as_json, {**facts, "card": text}, Group(drawn, "", table(None, ["", ""], rows)))


def shortened(names: Any) -> str:
    """Names in a row; of many only the first."""
    if not isinstance(names, list):
        return str(names)
    more = f" ... ({len(names)})" if len(names) > _NAMES_SHOWN else ""
    return " ".join(str(name) for name in names[:_NAMES_SHOWN]) + more


def size_text(n_bytes: int | None) -> str:
    """A size for people, "" where it is not known."""
    if n_bytes is None:
        return ""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def show_file(path: Path, as_json: bool) -> None:
    """Counts, splits, groups and hashes of a data file."""
    from rich.console import Group

    from snnbench.data_prep.sources import NO_GROUPS
    from snnbench.data_prep.store import SpikeDataset

    with SpikeDataset.open(path) as dataset:
        facts = describe(dataset)
        synthetic = kind_of_synthetic(dataset.header)
    columns = ["split", "samples", "spikes", "per sample", "speakers"]
    rows = [
        [
            split,
            s["samples"],
            s["spikes"],
            round(s["spikes"] / max(1, s["samples"])),
            shortened(s["groups"]),
        ]
        for split, s in facts["splits"].items()
    ]
    if all(s["groups"] == [NO_GROUPS] for s in facts["splits"].values()):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    made = f"\n{synthetic}, made by a program" if synthetic else ""
    head = (
        f"{facts['title']} ({facts['name']}){made}\n"
        f"{path}, {facts['n_units']} units, {len(facts['classes'])} classes, {facts['made_by']}\n"
    )
    hashes = "\n".join(
        f"{key.removesuffix('_sha256'):12}{facts[key]}"
        for key in (
            "fingerprint",
            "recipe_sha256",
            "source_sha256",
            "split_sha256",
            "labels_sha256",
        )
    )
    splits = table(None, columns, rows)
    answer(as_json, facts, Group(head, splits, f"\n{hashes}\nlicence     {facts['licence']}"))


def kind_of_synthetic(header: Header) -> str:
    """What nobody should take for recordings: "synthetic speech", "synthetic data", or nothing."""
    if not header.synthetic:
        return ""
    return "synthetic speech" if json.loads(header.recipe).get("cochlea") else "synthetic data"
