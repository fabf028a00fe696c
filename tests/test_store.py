"""SpikeDataset files: what is written is read, every damage is named, nothing half-written stays."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snnbench.data_prep.store import FORMAT, SPLITS, Sample, SpikeDataset, create
from snnbench.errors import SnnbenchError, UsageError
from tests.tiny_data import make_header, make_sample, make_samples, write_dataset

ARRAYS = ("times", "units", "offsets", "labels", "groups", "source_id", "source_sha256")

finite_times = st.floats(0, 100, width=32)
spikes = st.lists(st.tuples(finite_times, st.integers(0, 699)), max_size=12)
samples_of_a_split = st.lists(
    st.tuples(spikes, st.integers(0, 19), st.integers(0, 3)), min_size=1, max_size=5
)
contents = st.dictionaries(st.sampled_from(SPLITS), samples_of_a_split, min_size=1)
private = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def built(content: dict[str, list[Any]]) -> dict[str, Sequence[Sample]]:
    """Samples from what hypothesis draws."""
    return {
        split: [
            Sample(
                times=np.array([t for t, _ in sorted(drawn)], np.float32),
                units=np.array([u for _, u in sorted(drawn)], np.uint16),
                label=label,
                group=group,
                source_id=f"{split} ü {i}",
                source_sha256=f"{split}{i}",
            )
            for i, (drawn, label, group) in enumerate(samples)
        ]
        for split, samples in content.items()
    }


def fingerprint(path: Path) -> str:
    with SpikeDataset.open(path) as dataset:
        return dataset.fingerprint


def check(path: Path) -> None:
    with SpikeDataset.open(path) as dataset:
        _ = dataset.identity
        dataset.check()


def refusal(path: Path) -> str:
    """The message with which `check` refuses a file; it names the file."""
    with pytest.raises(SnnbenchError) as caught:
        check(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def rewrite(path: Path, split: str, name: str, change: Callable[[np.ndarray], Any]) -> None:
    """Replace an array by `change` of it; the checksums fit, the fingerprint does not."""
    with h5py.File(path, "r+") as file:
        values = change(file[split][name][()])
        del file[split][name]
        if values is not None:
            file[split].create_dataset(name, data=values, fletcher32=True, chunks=values.shape)


# --- round trip and fingerprint


@private
@given(contents)
def test_what_is_written_is_read(tmp_path: Path, content: dict[str, list[Any]]) -> None:
    splits = built(content)
    path = write_dataset(tmp_path / "data.h5", splits)
    with SpikeDataset.open(path) as dataset:
        assert dataset.header == make_header()
        assert dataset.splits == [s for s in SPLITS if s in splits]
        for split, samples in splits.items():
            part = dataset.read(split)
            assert len(part) == dataset.n_samples(split) == len(samples)
            assert dataset.n_spikes(split) == sum(len(s.times) for s in samples)
            assert part.source_ids == [s.source_id for s in samples]
            assert dataset.source_hashes(split) == {s.source_id: s.source_sha256 for s in samples}
            for i, sample in enumerate(samples):
                times, units = part.sample(i)
                np.testing.assert_array_equal(times, sample.times)
                np.testing.assert_array_equal(units, sample.units)
                assert (part.labels[i], part.groups[i]) == (sample.label, sample.group)
                one = dataset.read(split, i, i + 1)
                np.testing.assert_array_equal(one.sample(0)[0], sample.times)
                assert one.source_ids == [sample.source_id]


@private
@given(contents, st.integers(1, 4))
def test_the_fingerprint_does_not_see_how_samples_were_appended(
    tmp_path: Path, content: dict[str, list[Any]], block: int
) -> None:
    splits = built(content)
    whole = write_dataset(tmp_path / "whole.h5", splits)
    with create(tmp_path / "blocks.h5", make_header()) as writer:
        for split, samples in reversed(splits.items()):
            for start in range(0, len(samples), block):
                writer.append(split, samples[start : start + block])
    assert fingerprint(whole) == fingerprint(tmp_path / "blocks.h5")


def test_the_fingerprint_does_not_see_compression_chunks_or_byte_order(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data.h5")
    other = tmp_path / "other.h5"
    with h5py.File(path) as source, h5py.File(other, "w") as copy:
        copy.attrs.update(source.attrs)
        for split in source:
            for name, array in source[split].items():
                copy.create_dataset(f"{split}/{name}", data=array[()], chunks=(7,))
    check(other)
    assert fingerprint(other) == fingerprint(path)


def test_the_fingerprint_is_pinned(tmp_path: Path) -> None:
    # a change of this value is a new file format: every record that ran on old files would be orphaned
    samples = [
        Sample(np.array([0.125, 0.5], np.float32), np.array([3, 699], np.uint16), 7, 1, "a", "")
    ]
    path = write_dataset(tmp_path / "data.h5", {"test": samples})
    assert fingerprint(path) == "41993923e9a406e4fceb75e5ce4f2fcd03efe6e8976fbd4ce6ef4f55209d74dc"


CHANGES: dict[str, dict[str, Any]] = {
    "times": {"times": np.array([0.25, 0.75], np.float32)},
    "units": {"units": np.array([1, 3], np.uint16)},
    "labels": {"label": 1},
    "groups": {"group": 1},
    "source_id": {"source_id": "b"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_any_changed_array_changes_the_fingerprint(tmp_path: Path, name: str) -> None:
    base = make_sample(
        "a",
        times=np.array([0.25, 0.5], np.float32),
        units=np.array([1, 2], np.uint16),
        label=0,
        group=0,
    )
    before = write_dataset(tmp_path / "a.h5", {"test": [base]})
    after = write_dataset(tmp_path / "b.h5", {"test": [base._replace(**CHANGES[name])]})
    assert fingerprint(before) != fingerprint(after)


def test_the_fingerprint_sees_where_one_sample_ends_and_in_which_split_it_is(
    tmp_path: Path,
) -> None:
    a, b = make_sample("a"), make_sample("b")
    both = np.concatenate
    moved = [
        a._replace(times=a.times[:-1], units=a.units[:-1]),
        b._replace(
            times=both([np.zeros(1, np.float32), b.times]), units=both([a.units[-1:], b.units])
        ),
    ]
    prints = {
        fingerprint(write_dataset(tmp_path / f"{i}.h5", content))
        for i, content in enumerate(
            ({"train": [a, b]}, {"test": [a, b]}, {"train": [a], "test": [b]}, {"train": moved})
        )
    }
    assert len(prints) == 4
    header = {"classes": tuple(f"klasse {i}" for i in range(20))}
    assert fingerprint(write_dataset(tmp_path / "h.h5", {"train": [a, b]}, **header)) not in prints


# --- damage


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", ARRAYS)
def test_one_flipped_byte_in_an_array_is_found_and_named(
    tmp_path: Path, split: str, name: str
) -> None:
    path = write_dataset(tmp_path / "data.h5")
    with h5py.File(path) as file:
        chunk = file[split][name].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0x10
    path.write_bytes(content)
    assert f"{split}/{name}" in refusal(path)


@pytest.mark.parametrize("damage", ["byte", "bit"])
def test_a_hundred_of_a_hundred_flips_in_stored_values_are_found_and_named(
    tmp_path: Path, damage: str
) -> None:
    rng = np.random.default_rng(1)
    # several chunks of times and units
    times = np.sort(rng.uniform(0, 1, 40_000)).astype(np.float32)
    long = [
        make_sample(f"long-{i}", times=times, units=rng.integers(0, 700, len(times)))
        for i in range(4)
    ]
    test = make_samples("test", 20, 3)
    path = write_dataset(tmp_path / "data.h5", {"train": long, "test": test})
    content = path.read_bytes()
    with h5py.File(path) as file:
        arrays = {f"{split}/{name}": file[split][name] for split in file for name in ARRAYS}
        stored = {
            name: [array.id.get_chunk_info(i) for i in range(array.id.get_num_chunks())]
            for name, array in arrays.items()
        }
    assert len(stored["train/times"]) == len(stored["train/units"]) == 3
    for _ in range(100):
        name = str(rng.choice(list(stored)))
        chunk = stored[name][rng.integers(len(stored[name]))]
        damaged = bytearray(content)
        damaged[chunk.byte_offset + rng.integers(chunk.size)] ^= int(
            1 << rng.integers(8) if damage == "bit" else rng.integers(1, 256)
        )
        path.write_bytes(damaged)
        assert f"{path}: {name} " in refusal(path)


@pytest.mark.parametrize("key", ["name", "title", "recipe", "licence", "citation", "made_by"])
def test_a_flipped_bit_in_the_words_of_the_header_is_found(tmp_path: Path, key: str) -> None:
    words: dict[str, Any] = {key: f"Wörter of the {key}", "recipe": '{"of": "the recipe"}'}
    words["recipe_sha256"] = hashlib.sha256(words["recipe"].encode()).hexdigest()
    path = write_dataset(tmp_path / "data.h5", **words)
    content = path.read_bytes()
    text = words[key].encode()
    assert content.count(text) == 1
    for i in range(len(text)):
        damaged = bytearray(content)
        damaged[content.index(text) + i] ^= 1 << i % 8
        path.write_bytes(damaged)
        assert "header" in refusal(path)


def test_a_file_of_the_first_version_has_no_header_checksum_and_opens(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data.h5")
    before = fingerprint(path)
    with h5py.File(path, "r+") as file:
        del file.attrs["header_sha256"]
    check(path)
    assert fingerprint(path) == before


def test_any_flipped_byte_is_refused_or_without_effect_on_results(tmp_path: Path) -> None:
    path = write_dataset(
        tmp_path / "data.h5",
        {"train": make_samples("train", 2, 0), "test": make_samples("test", 2, 1)},
    )
    content = path.read_bytes()
    with SpikeDataset.open(path) as dataset:
        identity = dataset.identity.model_dump()
    refused = 0
    positions = np.random.default_rng(0).integers(0, len(content), 100).tolist()
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        message, found = str(path), None
        try:
            with SpikeDataset.open(path) as dataset:
                dataset.check()
                found = dataset.identity.model_dump()
        except SnnbenchError as error:
            message, refused = str(error), refused + 1
        assert str(path) in message
        assert found in (identity, None)
    assert refused > len(positions) / 4


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.9, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = write_dataset(tmp_path / "data.h5")
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    assert "truncated" in refusal(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "no such data file" in refusal(tmp_path / "none.h5")
    assert "no such data file" in refusal(tmp_path)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_missing_array_is_named(tmp_path: Path, name: str) -> None:
    path = write_dataset(tmp_path / "data.h5")
    rewrite(path, "valid", name, lambda values: None)
    assert f"valid/{name} is missing" in refusal(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = "snnbench-spikes/2"
    assert "'snnbench-spikes/2', expected 'snnbench-spikes/1'" in refusal(path)
    with h5py.File(path, "w") as file:
        file["spikes/times"] = np.zeros(3)
    assert f"format is None, expected {FORMAT!r}" in refusal(path)


@pytest.mark.parametrize("key", ["classes", "n_units", "citation", "fingerprint"])
def test_a_missing_header_attribute_is_named(tmp_path: Path, key: str) -> None:
    path = write_dataset(tmp_path / "data.h5")
    with h5py.File(path, "r+") as file:
        del file.attrs[key]
    assert key in refusal(path)


def replaced(position: int, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[position] = value
        return values

    return change


WRONG: list[tuple[str, Callable[[np.ndarray], np.ndarray], str]] = [
    ("times", replaced(3, np.nan), "times: nan s in sample train-0"),
    ("times", replaced(0, -0.5), "times: -0.5 s in sample train-0"),
    ("times", replaced(-1, np.inf), "times: inf s in sample more-19"),
    ("times", replaced(1, 1e6), "times: not sorted in sample train-0"),
    ("times", lambda v: v.astype("f8"), "times: has type float64, expected float32"),
    ("times", lambda v: v[:-1], "units: has "),
    ("times", lambda v: v[:, None], "times: is not a flat array"),
    ("units", replaced(0, 700), "unit 700 in sample train-0 is out of range, n_units = 700"),
    ("units", lambda v: v.astype("i4"), "units: has type int32, expected uint16"),
    ("units", lambda v: np.append(v, v[:1]), "units: has "),
    ("labels", replaced(21, 20), "value 20 in sample more-1 is out of range, the largest is 19"),
    ("labels", lambda v: v[:-1], "offsets: has 41 values, 39 samples"),
    ("groups", replaced(0, 4), "groups: value 4"),
    ("groups", lambda v: v[:-1], "groups: has 39 values"),
    ("offsets", replaced(0, 1), "offsets: run from 1"),
    ("offsets", replaced(0, -1), "offsets: "),
    ("offsets", replaced(-1, 10**9), "offsets: "),
    ("offsets", replaced(5, 10**9), "offsets: do not cut"),
    ("offsets", lambda v: v[:-1], "offsets: has 40 values"),
    ("offsets", lambda v: v[None, :], "offsets: is not a flat array"),
    ("source_id", lambda v: v[:-1], "source_id: has 39 values"),
    ("source_id", lambda v: np.arange(len(v)), "source_id: has type int64"),
    ("source_id", replaced(0, b"\xff"), "source_id cannot be read"),
    ("source_sha256", lambda v: v[:-1], "source_sha256: has 39 values"),
]


@pytest.mark.parametrize(("name", "change", "message"), WRONG)
def test_an_array_that_does_not_fit_is_named(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    path = write_dataset(tmp_path / "data.h5")
    rewrite(path, "train", name, change)
    assert message in refusal(path)


def test_an_edited_recipe_is_found(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["recipe"] = '{"seed": 1}'
    assert "header_sha256 is" in refusal(path)
    with h5py.File(path, "r+") as file:
        del file.attrs["header_sha256"]
    assert "recipe_sha256 is" in refusal(path)


def test_a_valid_looking_edit_fails_the_fingerprint(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data.h5")
    rewrite(path, "test", "labels", lambda labels: (labels + 1) % 20)
    assert "does not match the one in the file" in refusal(path)


def test_an_unknown_split_suggests_those_there_are(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data.h5")
    with (
        SpikeDataset.open(path) as dataset,
        pytest.raises(UsageError, match="unknown split 'tset'; did you mean test"),
    ):
        dataset.read("tset")


# --- disjoint splits


@pytest.mark.parametrize(
    ("double", "message"),
    [
        (
            {"test": make_sample("train-1", source_sha256="x", group=3)},
            "recording train-1 of split",
        ),
        ({"test": make_sample("new", source_sha256=f"{'train-1':0>64}", group=3)}, "train-1"),
        ({"valid": make_sample("train-1", source_sha256="", group=2)}, "of split valid is a dup"),
        ({"train": make_sample("train-1", source_sha256="x", group=0)}, "of split train is a dup"),
        (
            {"train": make_sample("new", source_sha256=f"{'train-1':0>64}", group=0)},
            "recording new",
        ),
    ],
)
def test_a_recording_that_stands_twice_is_refused(
    tmp_path: Path, double: dict[str, Sample], message: str
) -> None:
    splits: dict[str, list[Sample]] = {
        "train": make_samples("train", 3, 0),
        "valid": make_samples("valid", 3, 2),
        "test": make_samples("test", 3, 3),
    }
    for split, sample in double.items():
        splits[split].append(sample)
    path = write_dataset(tmp_path / "data.h5", dict(splits))
    found = refusal(path)
    assert message in found
    assert "duplicate of" in found


def test_samples_without_a_source_hash_are_no_doubles(tmp_path: Path) -> None:
    splits = {s: [make_sample(f"{s}{i}", source_sha256="") for i in range(2)] for s in SPLITS[::2]}
    check(write_dataset(tmp_path / "data.h5", dict(splits)))


def test_a_speaker_in_train_and_valid_is_refused_but_may_be_in_test(tmp_path: Path) -> None:
    splits = {"train": make_samples("a", 3, 0), "valid": make_samples("b", 3, 1)}
    check(write_dataset(tmp_path / "good.h5", {**splits, "test": make_samples("c", 3, 0)}))
    splits["valid"].append(make_sample("d", group=0))
    path = write_dataset(tmp_path / "bad.h5", dict(splits))
    assert "groups in both train and valid: 00" in refusal(path)


# --- one split


def test_a_reader_of_a_split_tells_what_the_whole_split_holds(tmp_path: Path) -> None:
    with SpikeDataset.open(write_dataset(tmp_path / "data.h5")) as dataset:
        reader, whole = dataset.split("train"), dataset.read("train")
        assert (
            (len(reader), reader.n_spikes) == (len(whole), whole.n_spikes) == (40, len(whole.times))
        )
        np.testing.assert_array_equal(reader.labels, whole.labels)
        np.testing.assert_array_equal(reader.groups, whole.groups)
        assert reader.group_names == ["00", "01"]
        blocks = list(reader.blocks(500))
    assert len(blocks) > 4
    assert max(block.n_spikes for block in blocks) <= 500
    for name in ("times", "units", "labels", "groups", "source_ids"):
        parts = [getattr(block, name) for block in blocks]
        np.testing.assert_array_equal(np.concatenate(parts), getattr(whole, name))


def test_a_reader_of_a_closed_file_says_so(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data.h5")
    with SpikeDataset.open(path) as dataset:
        reader = dataset.split("train")
    with pytest.raises(
        SnnbenchError, match=r"data\.h5: train/offsets cannot be read: the file is closed"
    ):
        reader.read(0, 1)


def test_a_check_tells_how_far_it_is(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with SpikeDataset.open(write_dataset(tmp_path / "data.h5")) as dataset:
        dataset.check(lambda done, total: seen.append((done, total)))
        total = 2 * sum(dataset.n_spikes(split) for split in SPLITS)
    assert {n for _, n in seen} == {total}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == total


def test_local_groups_index_the_names_that_occur(tmp_path: Path) -> None:
    samples = [make_sample(f"{g}", group=g) for g in (3, 1, 3)]
    path = write_dataset(tmp_path / "data.h5", {"test": samples}, groups=("z", "y", "x", "a"))
    with SpikeDataset.open(path) as dataset:
        assert dataset.group_names("test") == ["a", "y"]
        assert dataset.split("test").local_groups.tolist() == [0, 1, 0]


# --- writing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": 20}, "labels: value 20 in sample odd is out of range"),
        ({"label": -1}, "labels: value -1 in sample odd"),
        ({"group": 4}, "groups: value 4 in sample odd"),
        ({"times": np.array([0.5, 0.25])}, "times: not sorted in sample odd"),
        ({"times": np.array([0.5, np.nan])}, "times: nan s in sample odd"),
        ({"times": np.array([-0.5, 0.5])}, "times: -0.5 s in sample odd"),
        ({"units": np.array([1, 700])}, "units: unit 700 in sample odd"),
        ({"units": np.array([1, 65536 + 5])}, "units: unit 65541 in sample odd"),
        ({"units": np.array([-1, 5])}, "units: unit -1 in sample odd"),
        ({"units": np.array([1, 2, 3])}, "units: "),
    ],
)
def test_a_sample_that_does_not_fit_is_not_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    two = {"times": np.array([0.25, 0.5]), "units": np.array([1, 2])}
    odd = make_sample("odd", **{**two, **changes})
    with pytest.raises(SnnbenchError) as caught:
        write_dataset(tmp_path / "data.h5", {"train": [make_sample("good"), odd]})
    assert f"{tmp_path / 'data.h5'}: train/{message}" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt(), SnnbenchError("no")])
def test_no_half_written_file_after_an_error(tmp_path: Path, error: BaseException) -> None:
    path = write_dataset(tmp_path / "data.h5")
    before = path.read_bytes()

    def write_and_fail(target: Path) -> None:
        with create(target, make_header()) as writer:
            writer.append("train", make_samples("other", 3, 0))
            raise error

    for target in (path, tmp_path / "new.h5"):
        with pytest.raises(type(error)):
            write_and_fail(target)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["data.h5"]


def test_an_unknown_split_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split 'dev' is none of"):
        write_dataset(tmp_path / "data.h5", {"dev": [make_sample("a")]})
    assert list(tmp_path.iterdir()) == []


FILL_THE_DISK = """
import pathlib, resource, sys
import numpy as np
from snnbench.errors import SnnbenchError
from tests.tiny_data import make_sample, write_dataset
rng = np.random.default_rng(0)
times = np.sort(rng.uniform(0, 1, 300_000)).astype("f4")
samples = [make_sample(str(i), times=times, units=rng.integers(0, 700, len(times))) for i in range(2)]
path, limit = pathlib.Path(sys.argv[1]), int(sys.argv[2])
if limit < 0:  # so much less than is needed
    trial = write_dataset(path.with_name("trial.h5"), {"train": samples})
    limit += trial.stat().st_size
    trial.unlink()
# Python ignores the signal SIGXFSZ; a write beyond the limit then fails like one to a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_dataset(path, {"train": samples})
except SnnbenchError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("limit", [0, 1_000, 300_000, 1_000_000, -1])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, limit: int) -> None:
    path = write_dataset(tmp_path / "data.h5", {"train": [make_sample("old")]})
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, path, str(limit)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(f"{path}: cannot write: ")
    assert done.stderr == ""
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
