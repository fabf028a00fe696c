"""Pictures of a run folder: finished, unfinished, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
import torch

from snnbench.checkpoint import load_network
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError
from snnbench.redraw import draw_run, open_run
from snnbench.train import MODEL_FILE, best_so_far
from tests.test_bench import CPU, run
from tests.tiny_data import make_samples, write_dataset

CHANGES = {
    "model.recurrent": True,
    "model.neuron.tau_mem_s": {"low": 0.01, "high": 0.1, "learned": True},
    "model.neuron.threshold": {"low": 0.5, "high": 1.5},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "hd.h5")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run whose units have constants of their own."""
    return run(data, tmp_path_factory.mktemp("runs"), changes=CHANGES)[1]


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy to do damage to."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_run_is_drawn_again_as_training_drew_it_and_with_matrices(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    trained = open_run(finished, CPU)
    with SpikeDataset.open(data) as dataset:
        paths = draw_run(trained, dataset, tmp_path)
    names = {path.stem for path in paths}
    assert names == {
        *("weights", "rates", "rasters", "activity", "constants"),
        *("matrix-input-to-hidden1", "matrix-within-hidden1", "matrix-hidden1-to-readout"),
    }
    assert sorted(paths) == sorted(tmp_path.iterdir())
    drawn_by_training = {p.name for p in (finished / "pictures").iterdir()}
    for path in paths:
        if path.name in drawn_by_training:
            assert path.read_bytes() == (finished / "pictures" / path.name).read_bytes()
    assert {"activity.svg", "constants.svg", "rasters.svg"} <= drawn_by_training
    assert not {name for name in drawn_by_training if "matrix" in name}


def test_another_sample_changes_the_raster_alone_and_no_test_data_are_read(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    without_test = Path(shutil.copy(data, tmp_path / "hd.h5"))
    with h5py.File(without_test, "r+") as file:
        del file["test"]
    with SpikeDataset.open(without_test) as dataset:
        draw_run(open_run(finished, CPU), dataset, tmp_path / "out", sample=19)
    for name in ("rates.svg", "activity.svg", "weights.svg"):
        assert (tmp_path / "out" / name).read_bytes() == (finished / "pictures" / name).read_bytes()
    assert "Validation sample 19" in (tmp_path / "out" / "rasters.svg").read_text(encoding="utf-8")


def test_an_unfinished_run_is_drawn_with_its_best_epoch_so_far(
    data: Path, folder: Path, tmp_path: Path
) -> None:
    (folder / "record.json").unlink()
    (folder / MODEL_FILE).unlink()  # the state has all
    trained = open_run(folder, CPU)
    best = best_so_far(folder)
    assert (trained.epoch, best.epochs_done) == (best.epoch, 2)
    with SpikeDataset.open(data) as dataset:
        draw_run(trained, dataset, tmp_path / "out")
    told = f"unfinished run, epoch {best.epoch} is the best of 2"
    assert told in (tmp_path / "out" / "constants.svg").read_text(encoding="utf-8")


def test_the_best_so_far_of_a_finished_run_is_its_model(finished: Path) -> None:
    network, spec = load_network(finished / MODEL_FILE)
    best = best_so_far(finished)
    assert best.spec == spec
    assert best.weights.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(best.weights[name], tensor, rtol=0, atol=0)


def spoil_weights(folder: Path) -> None:
    with (folder / MODEL_FILE).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")


def only_weights(folder: Path) -> None:
    (folder / "record.json").unlink()
    (folder / "resume.safetensors").unlink()


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (empty, r"run: not a run folder, there is no record\.json and no resume\.safetensors"),
        (shutil.rmtree, "run: not a run folder"),
        (lambda f: (f / MODEL_FILE).unlink(), r"model\.safetensors: missing"),
        (spoil_weights, r"model\.safetensors: sha256 .* is not the record's"),
        (only_weights, r"unfinished, without its training state \(resume\.safetensors\)"),
    ],
)
def test_what_is_no_run_with_weights_is_refused(
    folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder)
    with pytest.raises(SnnbenchError, match=message) as caught:
        open_run(folder, CPU)
    assert caught.value.exit_code == 1


def test_other_data_and_samples_that_are_not_there_are_refused(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    trained = open_run(finished, CPU)
    splits = {s: make_samples(s, 3, i) for i, s in enumerate(("train", "valid", "test"))}
    other = write_dataset(tmp_path / "other.h5", splits)
    with SpikeDataset.open(data) as right, SpikeDataset.open(other) as wrong:
        for dataset, sample, message in (
            (wrong, 0, r"other\.h5: fingerprint .* is not that of the run's data"),
            (right, 20, r"--sample 20: .* has 20 samples, 0 to 19"),
            (right, -1, r"--sample -1: .* has 20 samples, 0 to 19"),
        ):
            with pytest.raises(SnnbenchError, match=message) as caught:
                draw_run(trained, dataset, tmp_path / "out", sample=sample)
            assert caught.value.exit_code == 1
    assert not (tmp_path / "out").exists()
