"""What we export others can read: tonic, the SpyTorch tutorial's way of reading, NumPy alone."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnbench.cli import cli
from snnbench.data_prep import export
from snnbench.data_prep.export import LAYOUTS, export_npz
from snnbench.data_prep.store import Header, Sample, SpikeDataset, create
from snnbench.errors import SnnbenchError, UsageError
from tests.test_cli import snnbench, strict_json
from tests.tiny_data import make_header, make_sample, make_samples, write_dataset


def exported(layout: str, data: Path, out: Path, **options: Any) -> list[Path]:
    with SpikeDataset.open(data) as dataset:
        return LAYOUTS[layout](dataset, out, **options)


def spikes_of(data: Path, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    with SpikeDataset.open(data) as dataset:
        reader = dataset.split(split)
        part = reader.read(0, len(reader))
    return [part.sample(i) for i in range(len(part))]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one or two samples."""
    monkeypatch.setattr(export, "_BLOCK", 100)


# --- the published layout


@pytest.mark.usefixtures("small_blocks")
def test_an_export_has_the_published_layout(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data.h5", name="shd")
    files = exported("shd", data, tmp_path / "out")
    assert [f.name for f in files] == ["shd_train.h5", "shd_valid.h5", "shd_test.h5"]
    spikes = spikes_of(data, "test")
    with h5py.File(files[2]) as file, SpikeDataset.open(data) as dataset:
        assert file["spikes/times"].shape == file["labels"].shape == (20,)
        assert file["spikes/times"][0].dtype == np.float16
        assert file["spikes/units"][0].dtype == np.uint16
        assert file["extra/keys"][3] == b"class 3"
        np.testing.assert_array_equal(file["labels"][()], dataset.split("test").labels)
        assert file["extra/speaker"][()].tolist() == [3] * 20
        assert file.attrs["fingerprint"] == dataset.fingerprint
        assert (file.attrs["split"], file.attrs["licence"]) == ("test", "CC0-1.0")
        for i, (times, units) in enumerate(spikes):
            np.testing.assert_array_equal(file["spikes/times"][i], times.astype(np.float16))
            np.testing.assert_array_equal(file["spikes/units"][i], units)


@pytest.mark.parametrize("lengths", [[5, 5, 5], [0, 0], [1], [3, 0, 7]])
def test_samples_of_any_length(tmp_path: Path, lengths: list[int]) -> None:
    """Equal lengths among them: h5py takes those for a table."""
    samples = [
        make_sample(
            f"s{i}",
            times=np.linspace(0, 1, n, dtype=np.float32),
            units=np.arange(n, dtype=np.uint16),
        )
        for i, n in enumerate(lengths)
    ]
    data = write_dataset(tmp_path / "data.h5", {"test": samples})
    [h5] = exported("shd", data, tmp_path)
    [npz] = exported("npz", data, tmp_path)
    with h5py.File(h5) as file, np.load(npz) as arrays:
        assert [len(t) for t in file["spikes/times"][()]] == lengths
        assert [u.tolist() for u in file["spikes/units"][()]] == [list(range(n)) for n in lengths]
        assert np.diff(arrays["offsets"]).tolist() == lengths


def test_speakers_without_numbers_are_counted(tmp_path: Path) -> None:
    data = write_dataset(
        tmp_path / "data.h5", {"test": make_samples("a", 2, 2)}, groups=("ann", "bob", "cyd")
    )
    [path] = exported("shd", data, tmp_path)
    with h5py.File(path) as file:
        assert file["extra/speaker"][()].tolist() == [2, 2]


@pytest.mark.parametrize("train", [True, False])
def test_tonic_reads_an_export(tmp_path: Path, train: bool) -> None:
    tonic = pytest.importorskip("tonic", reason="needs the optional package tonic")
    split = "train" if train else "test"
    data = write_dataset(tmp_path / "data.h5")
    exported("shd", data, tmp_path / "SHD", name="shd")
    shd = tonic.datasets.SHD(save_to=str(tmp_path), train=train)
    with SpikeDataset.open(data) as dataset:
        labels = dataset.split(split).labels.tolist()
        np.testing.assert_array_equal(shd.speaker, dataset.split(split).groups)
    assert len(shd) == len(labels)
    assert shd.classes[0] == b"class 0"
    for i, (times, units) in enumerate(spikes_of(data, split)):
        events, label = shd[i]
        microseconds = (times.astype(np.float16).astype(np.float64) * 1e6).astype(int)
        np.testing.assert_array_equal(events["t"], microseconds)
        np.testing.assert_array_equal(events["x"], units)
        assert label == labels[i]


def test_tonic_reads_an_export_of_speech_commands(tmp_path: Path) -> None:
    tonic = pytest.importorskip("tonic", reason="needs the optional package tonic")
    data = write_dataset(tmp_path / "data.h5", name="ssc")
    exported("shd", data, tmp_path / "SSC")
    sizes = [
        len(tonic.datasets.SSC(save_to=str(tmp_path), split=split))
        for split in ("train", "valid", "test")
    ]
    assert sizes == [40, 20, 20]


def test_the_archive_beside_is_a_real_and_empty_one(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data.h5", name="shd")
    downloaded = tmp_path / "shd_train.h5.zip"
    downloaded.write_bytes(b"somebody's download")
    exported("shd", data, tmp_path)
    with zipfile.ZipFile(tmp_path / "shd_test.h5.zip") as archive:
        assert archive.namelist() == []
        assert archive.comment == b"shd_test.h5 lies beside, unpacked"
    assert downloaded.read_bytes() == b"somebody's download"
    exported("shd", data, tmp_path / "hd", name="hd")
    assert not list((tmp_path / "hd").glob("*.zip"))


def test_the_way_of_the_spytorch_tutorial_reads_an_export(tmp_path: Path) -> None:
    """Batches as sparse tensors: bins by np.digitize, index triples, one entry per spike."""
    data = write_dataset(tmp_path / "data.h5")
    train = exported("shd", data, tmp_path, name="shd")[0]
    n_steps, n_units, max_time_s, batch_size = 100, 700, 1.4, 16
    spikes = spikes_of(data, "train")
    with h5py.File(train, "r") as file:
        times, units = file["spikes"]["times"], file["spikes"]["units"]
        labels = np.array(file["labels"], dtype=int)
        edges = np.linspace(0, max_time_s, num=n_steps)
        for chosen in np.split(np.arange(32), 2):
            where: list[list[int]] = [[], [], []]
            for row, sample in enumerate(chosen):
                bins = np.digitize(times[sample], edges)
                where[0].extend(row for _ in bins)
                where[1].extend(bins)
                where[2].extend(units[sample])
            index = torch.LongTensor(where)
            batch = torch.sparse_coo_tensor(
                index,
                torch.ones(index.shape[1]),
                (batch_size, n_steps, n_units),
                check_invariants=True,
            ).to_dense()
            y = torch.tensor(labels[chosen])
            for row, sample in enumerate(chosen):
                mine, my_units = spikes[sample]
                counts = np.bincount(my_units, minlength=n_units)
                np.testing.assert_array_equal(batch[row].sum(0), counts)
                # bin k of np.digitize is the one that ends at edge k; a float16 may round over it
                first = int(batch[row].sum(1).nonzero()[0])
                assert abs(first - (int(mine[0] / edges[1]) + 1)) <= 1
            assert y.tolist() == labels[chosen].tolist()


# --- flat arrays


def read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.mark.usefixtures("small_blocks")
def test_flat_arrays_hold_everything(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data.h5", classes=tuple(f"zwölf {i}" for i in range(20)))
    files = exported("npz", data, tmp_path / "out")
    assert [f.name for f in files] == ["hd_train.npz", "hd_valid.npz", "hd_test.npz"]
    for path, split in zip(files, ("train", "valid", "test"), strict=True):
        arrays = read_npz(path)
        spikes = spikes_of(data, split)
        cuts = arrays["offsets"][1:-1]
        for name, column in (("times", 0), ("units", 1)):
            for mine, sample in zip(np.split(arrays[name], cuts), spikes, strict=True):
                np.testing.assert_array_equal(mine, sample[column])
                assert mine.dtype == sample[column].dtype
        with SpikeDataset.open(data) as dataset:
            reader, header = dataset.split(split), dataset.header
            part = reader.read(0, len(reader))
            assert str(arrays["fingerprint"]) == dataset.fingerprint
        np.testing.assert_array_equal(arrays["labels"], part.labels)
        np.testing.assert_array_equal(arrays["groups"], part.groups)
        assert arrays["source_id"].tolist() == part.source_ids
        assert arrays["classes"].tolist() == list(header.classes)
        assert arrays["group_names"].tolist() == list(header.groups)
        for name in ("name", "title", "licence", "citation", "recipe", "made_by", "synthetic"):
            assert arrays[name].item() == getattr(header, name)
        assert arrays["n_units"] == 700
        assert arrays["duration_s"] == 1.4
        assert arrays["split"] == split


drawn_samples = st.lists(
    st.lists(st.tuples(st.floats(0, 2, width=32), st.integers(0, 699)), max_size=9),
    min_size=1,
    max_size=5,
)


@settings(max_examples=30)
@given(drawn_samples)
def test_from_flat_arrays_the_same_data_set_is_made_again(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[list[tuple[float, int]]]
) -> None:
    folder = tmp_path_factory.mktemp("round")
    samples = [
        make_sample(
            f"s{i}",
            times=np.sort(np.array([t for t, _ in spikes], np.float32)),
            units=np.array([u for _, u in spikes], np.uint16),
        )
        for i, spikes in enumerate(drawn)
    ]
    data = write_dataset(folder / "data.h5", {"test": samples})
    [path] = exported("npz", data, folder)
    arrays = read_npz(path)
    header: Header = make_header()
    with create(folder / "again.h5", header) as writer:
        for i, (start, stop) in enumerate(
            zip(arrays["offsets"], arrays["offsets"][1:], strict=False)
        ):
            sample = Sample(
                arrays["times"][start:stop],
                arrays["units"][start:stop],
                int(arrays["labels"][i]),
                int(arrays["groups"][i]),
                str(arrays["source_id"][i]),
                "",
            )
            writer.append("test", [sample])
    with SpikeDataset.open(folder / "again.h5") as again:
        assert again.fingerprint == str(arrays["fingerprint"])


def test_equal_data_give_equal_files(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data.h5")
    first = exported("npz", data, tmp_path / "a")
    second = exported("npz", data, tmp_path / "b")
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]
    with zipfile.ZipFile(first[0]) as archive:
        assert {member.date_time[0] for member in archive.infolist()} == {1980}


def test_a_large_split_is_never_in_memory_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_BLOCK", 20_000)
    n, per_sample = 200, 5000
    times = np.linspace(0, 1, per_sample, dtype=np.float32)
    units = np.arange(per_sample, dtype=np.uint16) % 700
    samples = [make_sample(f"s{i}", times=times, units=units) for i in range(n)]
    data = write_dataset(tmp_path / "data.h5", {"train": samples})
    with SpikeDataset.open(data) as dataset:
        tracemalloc.start()
        [path] = export_npz(dataset, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert path.stat().st_size > n * per_sample * 6
    assert peak < path.stat().st_size / 3


# --- files that are there, names, the command


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_are_replaced_only_by_force(tmp_path: Path, layout: str) -> None:
    data = write_dataset(tmp_path / "data.h5")
    out = tmp_path / "out"
    test = exported(layout, data, out)[-1]
    before = test.read_bytes()
    for path in list(out.iterdir()):
        if path != test:
            path.unlink()
    test.write_bytes(b"mine")
    with pytest.raises(SnnbenchError, match=rf"{test.name}: exists already; --force replaces it"):
        exported(layout, data, out)
    assert [p.name for p in out.iterdir()] == [test.name]
    assert test.read_bytes() == b"mine"
    exported(layout, data, out, force=True)
    assert len(test.read_bytes()) == len(before)


@pytest.mark.parametrize("name", ["", "a/b", "../up", "/"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    data = write_dataset(tmp_path / "data.h5")
    with pytest.raises(UsageError, match="cannot begin the name of a file"):
        exported("npz", data, tmp_path / "out", name=name)
    assert not (tmp_path / "out").exists()


def test_the_command_offers_every_layout() -> None:
    data_group = cli.get_command(click.Context(cli), "data")
    assert isinstance(data_group, click.Group)
    [choice] = [p for p in data_group.commands["export"].params if p.name == "layout"]
    assert isinstance(choice.type, click.Choice)
    assert list(choice.type.choices) == list(LAYOUTS)


def test_the_command(tmp_path: Path) -> None:
    data, out = write_dataset(tmp_path / "data.h5"), tmp_path / "flat"
    arguments = ("data", "export", data, "--layout", "npz", "--out", out)
    answer = snnbench(*arguments, "--name", "mine", "--json")
    assert answer.code == 0
    files = [str(out / f"mine_{split}.npz") for split in ("train", "valid", "test")]
    assert strict_json(answer.out) == {"layout": "npz", "files": files}
    again = snnbench(*arguments, "--name", "mine")
    assert again.code == 1
    assert "mine_train.npz: exists already; --force replaces it" in again.err
    assert snnbench(*arguments, "--name", "mine", "--force").code == 0
    assert snnbench(*arguments, "--name", "../up").code == 2
    assert snnbench(*arguments, "--layout", "zarr").code == 2


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data.h5")
    content = bytearray(data.read_bytes())
    with h5py.File(data) as file:
        chunk = file["train/times"].id.get_chunk_info(0)
    content[chunk.byte_offset + 5] ^= 1
    data.write_bytes(bytes(content))
    for layout in LAYOUTS:
        with pytest.raises(SnnbenchError, match="train/times"):
            exported(layout, data, tmp_path / layout)
        assert list((tmp_path / layout).iterdir()) == []
