"""What we export others can read."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from snnbench.data_prep.export import export_published
from snnbench.data_prep.store import SpikeDataset
from tests.tiny_data import make_samples, write_dataset


def test_an_export_has_the_published_layout(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data.h5", name="shd")
    with SpikeDataset.open(path) as dataset:
        files = export_published(dataset, tmp_path / "out")
        test = dataset.read("test")
    assert [f.name for f in files] == ["shd_train.h5", "shd_valid.h5", "shd_test.h5"]
    with h5py.File(files[2]) as file:
        assert file["spikes/times"].shape == file["labels"].shape == (20,)
        assert file["spikes/times"][0].dtype == np.float16
        assert file["spikes/units"][0].dtype == np.uint16
        assert file["extra/keys"][3] == b"class 3"
        np.testing.assert_array_equal(file["labels"][()], test.labels)
        assert file["extra/speaker"][()].tolist() == [3] * 20
        for i in range(20):
            times, units = test.sample(i)
            np.testing.assert_array_equal(file["spikes/times"][i], times.astype(np.float16))
            np.testing.assert_array_equal(file["spikes/units"][i], units)


def test_speakers_without_numbers_are_counted(tmp_path: Path) -> None:
    path = write_dataset(
        tmp_path / "data.h5", {"test": make_samples("a", 2, 2)}, groups=("ann", "bob", "cyd")
    )
    with SpikeDataset.open(path) as dataset:
        [file] = export_published(dataset, tmp_path)
    with h5py.File(file) as exported:
        assert exported["extra/speaker"][()].tolist() == [2, 2]


def test_tonic_reads_an_export(tmp_path: Path) -> None:
    tonic = pytest.importorskip("tonic", reason="needs the optional package tonic")
    path = write_dataset(tmp_path / "data.h5", name="shd")
    # tonic takes the folder's data for downloaded where the archive's name is there too
    folder = tmp_path / "SHD"
    folder.mkdir()
    (folder / "shd_test.h5.zip").touch()
    with SpikeDataset.open(path) as dataset:
        export_published(dataset, folder)
        test = dataset.read("test")
    shd = tonic.datasets.SHD(save_to=str(tmp_path), train=False)
    assert len(shd) == len(test)
    assert shd.classes[0] == b"class 0"
    np.testing.assert_array_equal(shd.speaker, test.groups)
    for i in range(len(test)):
        events, label = shd[i]
        times, units = test.sample(i)
        microseconds = (times.astype(np.float16).astype(np.float64) * 1e6).astype(int)
        np.testing.assert_array_equal(events["t"], microseconds)
        np.testing.assert_array_equal(events["x"], units)
        assert label == test.labels[i]
