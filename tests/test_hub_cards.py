"""Cards load with huggingface_hub, offline, and say what record and file say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from snnbench.cards import dataset_card, model_card, write_card
from snnbench.data_prep.recipe import recipe_names
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError
from snnbench.record import write_record
from tests.commands import snnbench, strict_json
from tests.factories import make_record
from tests.tiny_data import write_dataset


def loaded(kind: Any, tmp_path: Path, text: str) -> Any:
    """A card as huggingface_hub reads it from a file, without leave to ignore errors."""
    return kind.load(write_card(tmp_path / "card", text, force=True))


def test_a_model_card_says_what_the_record_says(tmp_path: Path) -> None:
    record = make_record(model="rec-lif", seed=3, accuracy=0.75, model_keys={"recurrent": True})
    assert record.test is not None
    card = loaded(ModelCard, tmp_path, model_card(record, "CC BY 4.0"))
    data = card.data
    assert (data.license, data.library_name) == ("cc-by-4.0", "snnbench")
    assert data.datasets == [record.data.name]
    assert data.metrics == ["accuracy"]
    assert {"snnbench", "spiking-neural-network", "hd", "lif"} == set(data.tags)
    assert data.model_name == record.run_id
    by_split = {r.dataset_split: r for r in data.eval_results}
    assert set(by_split) == {"test", "validation"}
    assert by_split["test"].metric_value == record.test.accuracy == 0.75
    assert by_split["test"].metric_args == {"correct": 300, "total": 400}
    assert by_split["validation"].metric_value == 163 / 200
    text = card.text
    for said in ("75.00%", "speaker-08", "V S[n]", record.data.fingerprint, "seed | 3", "c0ffee"):
        assert said in text, said


def test_the_model_index_is_one(tmp_path: Path) -> None:
    card = loaded(ModelCard, tmp_path, model_card(make_record(), None))
    index = card.data.to_dict()["model-index"]
    name, results = model_index_to_eval_results(index)
    assert name == make_record().run_id
    assert len(results) == 2
    assert "license" not in card.data.to_dict()


def test_a_model_without_spikes(tmp_path: Path) -> None:
    keys = {"kind": "lstm", "hidden": [8]}
    record = make_record(model="lstm", spikes=None, model_keys=keys)
    card = loaded(ModelCard, tmp_path, model_card(record, None))
    assert "spiking-neural-network" not in card.data.tags
    assert "lstm" in card.data.tags


def test_a_run_that_held_nobody_out_has_a_card_without_validation(tmp_path: Path) -> None:
    record = make_record().model_copy(update={"validation": None, "protocol": "C"})
    text = model_card(record, None)
    card = loaded(ModelCard, tmp_path, text)
    [result] = card.data.eval_results
    assert result.dataset_split == "test"
    assert "protocol class C" in text
    assert "which chose the epoch" not in text


def test_a_diverged_run_has_no_card() -> None:
    with pytest.raises(SnnbenchError, match="is diverged"):
        model_card(make_record(status="diverged"), None)


@pytest.mark.parametrize("name", recipe_names())
def test_a_dataset_card_says_what_the_file_says(tmp_path: Path, name: str) -> None:
    path = write_dataset(tmp_path / "data.h5", name=name, title=f"A title: {name} | “quoted”")
    with SpikeDataset.open(path) as dataset:
        card = loaded(DatasetCard, tmp_path, dataset_card(dataset))
        n_samples = sum(dataset.n_samples(split) for split in dataset.splits)
        fingerprint = dataset.fingerprint
    assert card.data.pretty_name == f"A title: {name} | “quoted”"
    assert card.data.size_categories == ["n<1K"]
    assert n_samples < 1000
    assert fingerprint in card.text
    assert f"## The recipe {name}" in card.text
    assert card.text.count("\n# ") <= 1  # one title


@pytest.mark.parametrize(
    ("licence", "found"),
    [
        ("CC BY-SA 4.0", ("cc-by-sa-4.0", None)),
        ("CC0-1.0 (random numbers)", ("cc0-1.0", None)),
        ("GPL-3.0-or-later", ("gpl-3.0", None)),
        ("your own", ("other", "your own")),
        ("a: b # c", ("other", "a: b # c")),
    ],
)
def test_licences(tmp_path: Path, licence: str, found: tuple[str, str | None]) -> None:
    path = write_dataset(tmp_path / "data.h5", licence=licence, name="mine")
    with SpikeDataset.open(path) as dataset:
        card = loaded(DatasetCard, tmp_path, dataset_card(dataset))
    assert (card.data.license, card.data.get("license_name")) == found
    assert "## The recipe" not in card.text


def test_on_the_command_line(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data.h5")
    arguments = ("export", "card", path, "--out", tmp_path / "card")
    first = snnbench(*arguments, "--json")
    assert first.code == 0, first.err
    [written] = strict_json(first.out)["files"]
    assert DatasetCard.load(written).data.pretty_name == "Random spikes"
    again = snnbench(*arguments)
    assert again.code == 1
    assert "--force" in again.err
    assert snnbench(*arguments, "--force").code == 0
    assert snnbench(*arguments, "--force", "--licence", "MIT").code == 2


def test_weights_that_are_not_the_records_get_no_card(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_record(run / "record.json", make_record())
    (run / "model.safetensors").write_bytes(b"others")
    refused = snnbench("export", "card", run, "--out", tmp_path / "card")
    assert refused.code == 1
    assert "is not the record's" in refused.err
    assert not (tmp_path / "card").exists()
    shutil.rmtree(run)
    assert snnbench("export", "card", run, "--out", tmp_path / "card").code == 1
