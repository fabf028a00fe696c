"""N-MNIST's files: events by hand, tonic's reader on real ones, both layouts of folders."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from pydantic import ValidationError

from snnbench.data_prep import convert as conversion
from snnbench.data_prep.download import fetch
from snnbench.data_prep.nmnist import event_files, read_events
from snnbench.data_prep.recipe import Recipe, SensorSpec, load_recipe
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError
from tests.loopback import serving
from tests.tiny_images import image_recipe

SENSOR = SensorSpec(width=34, height=34)
Event = tuple[int, int, int, int]
"""x, y, polarity, time in us."""


def event_bytes(events: list[Event]) -> bytes:
    """The published format."""
    return b"".join(
        bytes([x, y]) + (polarity << 23 | time_us).to_bytes(3, "big")
        for x, y, polarity, time_us in events
    )


def write_events(path: Path, events: list[Event]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(event_bytes(events))
    return path


def write_folder(folder: Path, n_train: int = 30, n_test: int = 20) -> Path:
    """The published layout, with recordings of one event that tells their number."""
    for split, n in (("Train", n_train), ("Test", n_test)):
        for number in range(1, n + 1):
            path = folder / split / str(number % 10) / f"{number:05d}.bin"
            write_events(path, [(number % 34, 0, int(split == "Train"), number)])
    return folder


def test_events_worked_out_by_hand(tmp_path: Path) -> None:
    # bytes as they are published: x, y, then polarity and 23 bits of us
    path = tmp_path / "00001.bin"
    path.write_bytes(
        bytes([0, 0, 0, 0, 0])  # dark, top left, at once
        + bytes([33, 0, 0x80, 0x03, 0xE8])  # bright, top right, 1000 us
        + bytes([1, 33, 0x04, 0x93, 0xE0])  # dark, second in the last row, 300000 us
    )
    times, units, _ = read_events(path, SENSOR)
    assert units.tolist() == [0, 1156 + 33, 33 * 34 + 1]
    np.testing.assert_array_equal(times, np.array([0, 1e-3, 0.3], np.float32))
    assert (times.dtype, units.dtype) == (np.float32, np.uint16)


EVENTS = st.tuples(
    st.integers(0, 33), st.integers(0, 33), st.integers(0, 1), st.integers(0, 2**23 - 1)
)


@given(events=st.lists(EVENTS, min_size=1, max_size=50))
def test_nothing_is_lost_or_moved(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event]
) -> None:
    events = sorted(events, key=lambda event: event[3])
    path = write_events(tmp_path_factory.mktemp("events") / "1.bin", events)
    times, units, _ = read_events(path, SENSOR)
    polarity, place = np.divmod(units.astype(int), 34 * 34)
    y, x = np.divmod(place, 34)
    found = np.stack([x, y, polarity], axis=1)
    np.testing.assert_array_equal(found, np.array(events)[:, :3])
    np.testing.assert_array_equal(times, (np.array(events)[:, 3] / 1e6).astype(np.float32))


def assert_as_tonic(path: Path) -> int:
    """Ours and tonic's events of a file are the same; returns how many."""
    reader = pytest.importorskip("tonic.io", reason="needs the optional package tonic")
    fields = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])
    theirs = reader.read_mnist_file(str(path), dtype=fields)
    times, units, _ = read_events(path, SENSOR)
    np.testing.assert_array_equal(units, (theirs["p"] * 34 + theirs["y"]) * 34 + theirs["x"])
    np.testing.assert_array_equal(times, (theirs["t"] / 1e6).astype(np.float32))
    return len(theirs)


def test_overflows_of_the_clock_are_added_up(tmp_path: Path) -> None:
    events = [(3, 4, 1, 8000), (0, 240, 0, 0), (5, 6, 0, 10), (0, 240, 0, 20), (7, 8, 1, 30)]
    path = write_events(tmp_path / "1.bin", events)
    times, units, _ = read_events(path, SENSOR)
    np.testing.assert_allclose(times, [8000e-6, 8202e-6, 16414e-6], rtol=1e-7)
    assert units.tolist() == [1156 + 4 * 34 + 3, 6 * 34 + 5, 1156 + 8 * 34 + 7]
    assert assert_as_tonic(path) == 3


def test_real_events_are_tonics(shared_data: Path) -> None:
    folder = shared_data / "nmnist-small" / "train"
    counts = [assert_as_tonic(folder / f"{number}.bs2") for number in range(1, 1001, 5)]
    assert len(counts) == 200
    assert min(counts) > 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (event_bytes([(0, 0, 0, 5)])[:4], "4 bytes are no whole number of events of 5 bytes"),
        (
            event_bytes([(0, 0, 0, 5), (34, 2, 1, 6)]),
            "event 1 at x 34, y 2 is outside the sensor of 34 x 34",
        ),
        (
            event_bytes([(0, 240, 0, 0), (0, 0, 0, 5), (3, 99, 1, 6)]),
            "event 2 at x 3, y 99 is outside",
        ),
        (
            event_bytes([(0, 0, 0, 50), (0, 0, 0, 60), (0, 0, 0, 49)]),
            "event 2 at 49 us is earlier than the one before it, at 60 us",
        ),
    ],
)
def test_a_bad_file_is_named_with_its_event(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "00007.bin"
    path.write_bytes(content)
    with pytest.raises(SnnbenchError) as caught:
        read_events(path, SENSOR)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SnnbenchError, match=r"0\.bin: cannot read: No such file"):
        read_events(tmp_path / "0.bin", SENSOR)


# --- folders


def test_the_published_layout_is_listed_by_number(tmp_path: Path) -> None:
    recipe = load_recipe("nmnist")
    recordings, classes = event_files(write_folder(tmp_path), recipe)
    assert classes == tuple("0123456789")
    assert [r.source_id for r in recordings] == [
        f"{split}/{number:05d}"
        for split, n in (("train", 30), ("test", 20))
        for number in range(1, n + 1)
    ]
    assert [r.label for r in recordings[:12]] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert {r.split for r in recordings[:30]} == {"train"}
    assert {r.split for r in recordings[30:]} == {"test"}


@pytest.mark.parametrize("beside", [False, True])
def test_lists_of_a_smaller_copy_are_read(tmp_path: Path, beside: bool) -> None:
    for split, first, name in (("train", 1, "train1K.txt"), ("test", 60_001, "test100.txt")):
        for number in (first + 1, first):
            folder = tmp_path if beside else tmp_path / split
            write_events(folder / f"{number}.bs2", [(0, 0, 0, 1)])
        lines = f"#sample #class\n{first + 1}\t3\n{first}\t7\n"
        (tmp_path / name).write_text(lines)
    recordings, _ = event_files(tmp_path, load_recipe("nmnist"))
    assert [(r.source_id, r.label, r.split) for r in recordings] == [
        ("train/00001", 7, "train"),
        ("train/00002", 3, "train"),
        ("test/60001", 7, "test"),
        ("test/60002", 3, "test"),
    ]


def test_a_published_folder_becomes_a_file(tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    conversion.convert(image_recipe("nmnist"), write_folder(tmp_path / "source"), out, workers=1)
    with SpikeDataset.open(out) as dataset:
        dataset.check()
        assert [dataset.n_samples(s) for s in dataset.splits] == [20, 10, 20]
        valid = dataset.read("valid")
        assert valid.source_ids == [f"train/{number:05d}" for number in range(21, 31)]
        assert sorted(valid.labels.tolist()) == list(range(10))
        np.testing.assert_array_equal(valid.times, (np.arange(21, 31) / 1e6).astype(np.float32))
        assert '"sensor":{"height":34,"width":34}' in dataset.header.recipe


def spoil_nothing(folder: Path) -> None:
    (folder / "train").mkdir()


def spoil_name(folder: Path) -> None:
    write_events(folder / "Train/3/a7.bin", [])


def spoil_class(folder: Path) -> None:
    write_events(folder / "Train/12/00001.bin", [])


def spoil_number(folder: Path) -> None:
    write_events(folder / "Train/3/00001.bin", [])
    write_events(folder / "Train/4/00001.bin", [])


def spoil_list(folder: Path, text: str = "1 2 3") -> None:
    (folder / "train1K.txt").write_text(f"#sample #class\n\n{text}\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_nothing, r"no recordings here; expected the folders Train and Test"),
        (spoil_name, r"Train/3/a7\.bin: the name does not parse; expected for example 00001\.bin"),
        (spoil_class, r"Train/12: '12' is no class; recipe nmnist has 0 to 9"),
        (spoil_number, r"4/00001\.bin: has the number of .*3/00001\.bin; remove one"),
        (spoil_list, r"train1K\.txt: line 3: '1 2 3' is no file number and class"),
        (lambda f: spoil_list(f, "7 2"), r"line 3: .*train/7\.bs2 is not there"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(tmp_path: Path, spoil, message: str) -> None:
    spoil(tmp_path)
    with pytest.raises(SnnbenchError, match=message):
        event_files(tmp_path, load_recipe("nmnist"))


def test_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(SnnbenchError, match="nowhere: no such source folder"):
        event_files(tmp_path / "nowhere", load_recipe("nmnist"))


def test_numbers_are_those_of_mnist(shared_data: Path) -> None:
    """So that the last 10,000 by number are the last 10,000 of MNIST, and a fair sample."""
    recordings, _ = event_files(shared_data / "nmnist-small", load_recipe("nmnist"))
    assert len(recordings) == 1000
    with gzip.open(shared_data / "mnist" / "train-labels-idx1-ubyte.gz") as file:
        labels = file.read()[8:]
    assert [r.label for r in recordings] == list(labels[:1000])
    assert sorted(set(labels[-10_000:])) == list(range(10))
    assert min(np.bincount(np.frombuffer(labels[-10_000:], np.uint8))) > 900


def test_a_smaller_copy_becomes_a_file_where_a_part_will_do(
    tmp_path: Path, shared_data: Path
) -> None:
    recipe, source = load_recipe("nmnist"), shared_data / "nmnist-small"
    with pytest.raises(SnnbenchError, match="--partial"):
        conversion.convert(recipe, source, tmp_path / "out.h5", workers=1)
    conversion.convert(recipe, source, tmp_path / "out.h5", workers=1, partial=True)
    with SpikeDataset.open(tmp_path / "out.h5") as dataset:
        dataset.check()
        assert {s: dataset.n_samples(s) for s in dataset.splits} == {"train": 834, "valid": 166}
        assert sum(dataset.n_spikes(s) for s in dataset.splits) == 4_133_231
        assert dataset.fingerprint.startswith("e201e9f206c13473")


def test_archives_are_fetched_from_addresses_without_a_name(tmp_path: Path) -> None:
    """What follows # in the recipe names the archive here, and no server sees it."""
    source = write_folder(tmp_path / "source")
    download = load_recipe("nmnist").download
    assert download is not None
    contents, files = {}, []
    for wanted in download.files:
        packed = wanted.packed[0]
        archive = shutil.make_archive(str(tmp_path / wanted.target), "zip", source, wanted.target)
        content = Path(archive).read_bytes()
        address, _, name = packed.name.partition("#/")
        contents[address] = content
        assert name == f"{wanted.target}.zip"
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        changed = packed.model_copy(update={"hash": f"md5:{md5}"})
        files.append(wanted.model_copy(update={"packed": (changed,)}))
    with serving(contents) as server:
        mirrored = download.model_copy(update={"mirrors": (server.url,), "files": tuple(files)})
        recipe = image_recipe("nmnist", download=mirrored)
        folder = fetch(recipe, tmp_path / "fetched", mirrors=[server.url])
        assert {name for name, _ in server.requests} == set(contents)
    assert [r[1:] for r in event_files(folder, recipe).recordings] == [
        r[1:] for r in event_files(source, recipe).recordings
    ]


def test_units_that_do_not_fit_the_sensor_are_refused() -> None:
    recipe = load_recipe("nmnist").model_dump() | {"n_units": 1156}
    with pytest.raises(ValidationError, match=r"n_units: 1156, but .* two polarities has 2312"):
        Recipe.model_validate(recipe)
