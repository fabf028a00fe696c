"""Runs from data file to record: right data only, test data read once and never learned from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snnbench.bench import (
    PREDICTIONS_FILE,
    RECORD_FILE,
    check_data,
    default_seeds,
    evaluate_again,
    finished_record,
    run_seed,
)
from snnbench.checkpoint import load_network
from snnbench.data_prep.store import Sample, SpikeDataset
from snnbench.errors import SnnbenchError
from snnbench.metrics import count_correct
from snnbench.paths import file_sha256
from snnbench.record import RunRecord, read_predictions, read_record
from snnbench.spec import DataPins, RunSpec, load_task, make_run_spec
from snnbench.tracking import NullTracker
from snnbench.train import EpochReport
from tests.tiny_data import make_sample, make_samples, write_dataset

CPU = torch.device("cpu")
TASK = load_task("hd")
PICTURES = ("learning-curves", "confusion", "weights", "rates", "rasters", "activity")
QUICK = {
    "model.hidden": [12],
    "model.input_gain": 12.0,  # so that the hidden units fire from the start
    "train.epochs": 2,
    "train.batch_size": 16,
    "train.lr": 0.01,
    "train.schedule": "constant",
    "train.patience": None,
    "train.dt_s": 0.01,
    "model.dropout": 0.0,
    "model.readout": {},
    "train.units_per_channel": 20,
}


def spec_for(dataset: SpikeDataset, seed: int = 0, **changes: Any) -> RunSpec:
    return make_run_spec(
        "hd",
        "ff-lif",
        seed=seed,
        data_fingerprint=dataset.fingerprint,
        overrides={**QUICK, **changes},
    )


def run(data: Path, runs: Path, seed: int = 0, **options: Any) -> tuple[RunRecord, Path]:
    """One run and its folder."""
    changes = options.pop("changes", {})
    with SpikeDataset.open(data) as dataset:
        spec = spec_for(dataset, seed, **changes)
        folder = runs / spec.run_id
        options = {"device": CPU, "tracker": NullTracker(), **options}
        return run_seed(spec, dataset, folder=folder, **options), folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "hd.h5")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Path]:
    """One finished run for the tests that only look at it."""
    return run(data, tmp_path_factory.mktemp("runs"))


# --- which data


def refusal(path: Path, **changes: Any) -> str:
    with SpikeDataset.open(path) as dataset, pytest.raises(SnnbenchError) as caught:
        check_data(dataset, TASK.model_copy(update=changes))
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_tasks_data_is_accepted(data: Path) -> None:
    with SpikeDataset.open(data) as dataset:
        check_data(dataset, TASK.model_copy(update={"pins": DataPins()}))


def test_another_data_set_is_refused(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "a.h5", name="digits-synthetic")
    assert "holds digits-synthetic with 700 units and 20 classes; task hd needs hd" in refusal(path)


@pytest.mark.parametrize("changes", [{"n_units": 701}, {"n_classes": 21}, {"dataset": "hd2"}])
def test_other_sizes_are_refused(data: Path, changes: dict[str, Any]) -> None:
    assert f"with {changes.get('n_units', 700)} and" in refusal(data, **changes) or "hd2" in str(
        changes
    )


@pytest.mark.parametrize("missing", ["train", "valid", "test"])
def test_a_missing_split_is_refused(tmp_path: Path, missing: str) -> None:
    splits = {s: make_samples(s, 2, i) for i, s in enumerate(("train", "valid", "test"))}
    del splits[missing]
    path = write_dataset(tmp_path / "a.h5", splits)
    assert f"has no {missing} split" in refusal(path, pins=DataPins())


@pytest.mark.parametrize("pin", list(DataPins.model_fields))
def test_data_that_is_not_what_the_task_pins_is_refused(data: Path, pin: str) -> None:
    with SpikeDataset.open(data) as dataset:
        identity = dataset.identity.model_dump()
        all_right = DataPins(**{name: identity[name] for name in DataPins.model_fields})
        check_data(dataset, TASK.model_copy(update={"pins": all_right}))
    wrong = all_right.model_copy(update={pin: "0" * 64})
    message = refusal(data, pins=wrong)
    assert f"{pin} is {identity[pin]}, but task hd version 1 pins {'0' * 64}" in message


def swap_labels(splits: dict[str, list[Sample]]) -> None:
    a, b, *rest = splits["test"]
    splits["test"] = [a._replace(label=b.label), b._replace(label=a.label), *rest]


def change_source(splits: dict[str, list[Sample]]) -> None:
    splits["train"][0] = splits["train"][0]._replace(source_sha256="1" * 64)


def move_sample(splits: dict[str, list[Sample]]) -> None:
    splits["test"].append(splits["train"].pop())


def shift_spikes(splits: dict[str, list[Sample]]) -> None:
    first = splits["train"][0]
    splits["train"][0] = first._replace(times=first.times + np.float32(0.01))


@pytest.mark.parametrize(
    ("change", "differ"),
    [
        (swap_labels, {"labels_sha256", "fingerprint"}),
        (change_source, {"source_sha256"}),
        (
            move_sample,
            {"split_sha256", "labels_sha256", "fingerprint", "n_samples", "groups"},
        ),
        (shift_spikes, {"fingerprint"}),
    ],
)
def test_each_hash_covers_its_part(
    tmp_path: Path, change: Callable[[dict[str, list[Sample]]], None], differ: set[str]
) -> None:
    splits = {
        "train": make_samples("train", 4, 0),
        "valid": make_samples("valid", 4, 1),
        "test": make_samples("test", 4, 2),
    }
    identities = []
    for name in ("before", "after"):
        with SpikeDataset.open(write_dataset(tmp_path / f"{name}.h5", splits)) as dataset:
            identities.append(dataset.identity.model_dump())
        change(splits)
    before, after = identities
    assert {key for key in before if before[key] != after[key]} == differ


# --- what a run leaves


def test_the_record_says_what_happened(data: Path, finished: tuple[RunRecord, Path]) -> None:
    record, folder = finished
    assert record == read_record(folder / RECORD_FILE) == finished_record(folder)
    with SpikeDataset.open(data) as dataset:
        assert record.data == dataset.identity
        labels = dataset.read("test").labels
    assert record.status == "finished"
    assert record.run_id == folder.name == record.spec.run_id
    assert record.test_reads == 1
    assert record.epochs_run == 2
    assert record.chosen_epoch in (1, 2)
    assert record.validation is not None
    assert record.validation.total == 20
    predictions = read_predictions(folder / PREDICTIONS_FILE)
    np.testing.assert_array_equal(predictions.labels, labels)
    assert record.test == count_correct(predictions.predictions, predictions.labels)
    assert record.test_by_group == {"03": record.test}
    assert record.predictions_sha256 == file_sha256(folder / PREDICTIONS_FILE)
    assert record.checkpoint_sha256 == file_sha256(folder / "model.safetensors")
    assert record.n_parameters == 35 * 12 + 12 * 20
    assert record.operations is not None
    assert record.operations.spikes["hidden1"] > 5
    assert record.operations.dense_macs == 140 * record.n_parameters
    assert record.environment.device == "cpu"
    assert record.environment.engine in ("cpp", "numba")
    assert record.environment.packages["torch"] == torch.__version__
    assert record.wall_s >= 2 * record.seconds_per_epoch > 0


def test_a_run_folder_holds_all_that_is_promised(finished: tuple[RunRecord, Path]) -> None:
    _, folder = finished
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert found == {
        "history.csv",
        "model.safetensors",
        "predictions.npz",
        "record.json",
        "resume.safetensors",
        *(f"pictures/{name}.{suffix}" for name in PICTURES for suffix in ("svg", "png")),
    }


def test_the_same_run_again_is_the_same(
    data: Path, finished: tuple[RunRecord, Path], tmp_path: Path
) -> None:
    record, folder = finished
    again, other = run(data, tmp_path)
    assert again.predictions_sha256 == record.predictions_sha256
    assert again.checkpoint_sha256 == record.checkpoint_sha256
    assert (again.test, again.operations) == (record.test, record.operations)
    assert weights(other).keys() == weights(folder).keys()


def test_another_seed_is_another_run(
    data: Path, finished: tuple[RunRecord, Path], tmp_path: Path
) -> None:
    record, _ = finished
    other, _ = run(data, tmp_path, seed=1)
    assert other.run_id != record.run_id
    assert other.checkpoint_sha256 != record.checkpoint_sha256


def test_seeds_are_not_chosen() -> None:
    assert list(default_seeds(4)) == [0, 1, 2, 3]


# --- nothing is learned from test data


def weights(folder: Path) -> dict[str, torch.Tensor]:
    network, _ = load_network(folder / "model.safetensors")
    return network.state_dict()


def shuffled_labels(samples: list[Sample]) -> list[Sample]:
    return [s._replace(label=(s.label + 7) % 20) for s in samples]


def silenced(samples: list[Sample]) -> list[Sample]:
    return [s._replace(times=s.times[:0], units=s.units[:0]) for s in samples]


def other_samples(samples: list[Sample]) -> list[Sample]:
    return [make_sample(f"quite-another-{i}", group=3) for i in range(3)]


@pytest.mark.parametrize("poison", [shuffled_labels, silenced, other_samples])
def test_training_cannot_see_test_data(
    finished: tuple[RunRecord, Path],
    tmp_path: Path,
    poison: Callable[[list[Sample]], list[Sample]],
) -> None:
    record, folder = finished
    splits = {
        "train": [*make_samples("train", 20, 0), *make_samples("more", 20, 1)],
        "valid": make_samples("valid", 20, 2),
        "test": poison(make_samples("test", 20, 3)),
    }
    path = write_dataset(tmp_path / "poisoned.h5", splits)
    poisoned, other = run(path, tmp_path / "runs")
    assert poisoned.data.fingerprint != record.data.fingerprint
    assert poisoned.predictions_sha256 != record.predictions_sha256
    assert poisoned.validation == record.validation
    assert poisoned.chosen_epoch == record.chosen_epoch
    clean = weights(folder)
    for name, tensor in weights(other).items():
        assert torch.equal(tensor, clean[name]), name


def test_but_it_does_see_training_and_validation_data(
    finished: tuple[RunRecord, Path], tmp_path: Path
) -> None:
    _, folder = finished
    clean = weights(folder)
    splits = {
        "train": shuffled_labels([*make_samples("train", 20, 0), *make_samples("more", 20, 1)]),
        "valid": make_samples("valid", 20, 2),
        "test": make_samples("test", 20, 3),
    }
    _, other = run(write_dataset(tmp_path / "other.h5", splits), tmp_path / "runs")
    assert any(not torch.equal(t, clean[name]) for name, t in weights(other).items())


# --- evaluating again


def test_a_finished_run_predicts_the_same_again(
    data: Path, finished: tuple[RunRecord, Path]
) -> None:
    record, folder = finished
    with SpikeDataset.open(data) as dataset:
        again, predictions, different = evaluate_again(folder, dataset, CPU)
    assert again == record
    assert different == 0
    stored = read_predictions(folder / PREDICTIONS_FILE)
    np.testing.assert_array_equal(predictions.predictions, stored.predictions)
    np.testing.assert_array_equal(predictions.groups, stored.groups)


def test_other_weights_other_data_and_no_run_are_refused(
    data: Path, finished: tuple[RunRecord, Path], tmp_path: Path
) -> None:
    _, folder = finished
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    other = write_dataset(tmp_path / "other.h5", {"test": make_samples("x", 2, 0)})
    with SpikeDataset.open(data) as right, SpikeDataset.open(other) as wrong:
        for place, dataset, message in (
            (copy, right, r"model\.safetensors: sha256 .* is not the record's"),
            (folder, wrong, r"other\.h5: fingerprint .* is not that of the run's data"),
            (tmp_path, right, "holds no finished run"),
        ):
            with pytest.raises(SnnbenchError, match=message):
                evaluate_again(place, dataset, CPU)


# --- stopped and called again


class Stop(Exception):
    """Ends a run from its progress callback."""


def test_a_stopped_run_goes_on_to_the_same_end(
    data: Path, finished: tuple[RunRecord, Path], tmp_path: Path
) -> None:
    record, _ = finished

    def stop(report: EpochReport) -> None:
        raise Stop

    with pytest.raises(Stop):
        run(data, tmp_path, on_epoch=stop)
    [folder] = tmp_path.iterdir()
    assert finished_record(folder) is None
    with pytest.raises(SnnbenchError, match="holds a run already"):
        run(data, tmp_path)
    epochs: list[int] = []
    again, _ = run(data, tmp_path, resume=True, on_epoch=lambda r: epochs.append(r.epoch))
    assert epochs == [2]
    assert again.predictions_sha256 == record.predictions_sha256
    assert again.checkpoint_sha256 == record.checkpoint_sha256


def test_the_record_names_the_engine_with_which_a_run_went_on(data: Path, tmp_path: Path) -> None:
    def stop(report: EpochReport) -> None:
        raise Stop

    with pytest.raises(Stop):
        run(data, tmp_path, engine="reference", on_epoch=stop)
    record, _ = run(data, tmp_path, resume=True)
    assert record.environment.engine == "reference"


def test_a_diverged_run_has_a_record_without_a_test(data: Path, tmp_path: Path) -> None:
    overflow = {"train.activity.upper_strength": 3e38, "train.activity.upper": 0.0}
    record, folder = run(data, tmp_path, changes=overflow)
    assert record.status == "diverged"
    assert record.test is None
    assert record.test_reads == 0
    assert record.predictions_sha256 is None
    assert record == read_record(folder / RECORD_FILE)
    assert not (folder / PREDICTIONS_FILE).exists()
    # nothing was chosen that could be shown beside the untrained network
    assert not (folder / "pictures").exists()
