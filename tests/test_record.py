"""Records and predictions: round trips, and refusals that name the file and the key."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnbench.errors import SnnbenchError
from snnbench.record import (
    Entry,
    labels_sha256,
    read_entry,
    read_predictions,
    read_record,
    write_predictions,
    write_record,
)
from tests.factories import make_predictions, make_record


@pytest.mark.parametrize("status", ["finished", "diverged"])
def test_record_survives_its_file(tmp_path, status):
    record = make_record(status=status, seed=3)
    write_record(tmp_path / "record.json", record)
    assert read_record(tmp_path / "record.json") == record


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda d: d.update(extra=1), "record.json.extra"),
        (lambda d: d.pop("n_parameters"), "record.json.n_parameters"),
        (lambda d: d.update(schema_version="snnbench-record/9"), "record.json.schema_version"),
        (lambda d: d["spec"]["train"].update(learning_rate=1), "train.learning_rate"),
        (lambda d: d["test"].update(total=0), "record.json.test.total"),
    ],
)
def test_record_with_a_wrong_key_is_refused_by_name(tmp_path, edit, named):
    path = tmp_path / "record.json"
    data = json.loads(make_record().model_dump_json())
    edit(data)
    path.write_text(json.dumps(data))
    with pytest.raises(SnnbenchError, match=named):
        read_record(path)


@pytest.mark.parametrize("text", ["", "{", '{"run_id": ', "[" * 100_000, "\x00", "null"])
def test_what_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(SnnbenchError, match=r"record\.json"):
        read_record(path)


def test_missing_files_are_named(tmp_path):
    for reader in (read_record, read_predictions, read_entry):
        with pytest.raises(SnnbenchError, match=r"gone.*: no such"):
            reader(tmp_path / "gone")


def test_predictions_survive_their_file_and_equal_ones_give_equal_bytes(tmp_path):
    predictions = make_predictions(seed=4)
    first = write_predictions(tmp_path / "a.npz", predictions)
    second = write_predictions(tmp_path / "b.npz", predictions)
    assert first == second
    for mine, read in zip(predictions, read_predictions(tmp_path / "a.npz"), strict=True):
        np.testing.assert_array_equal(mine, read)


def test_a_damaged_predictions_file_never_escapes_as_another_error(tmp_path):
    path = tmp_path / "p.npz"
    write_predictions(path, make_predictions(n_samples=50))
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(whole)
        broken[random.integers(len(whole))] ^= int(random.integers(1, 256))
        path.write_bytes(broken[: random.integers(len(whole))] if random.random() < 0.3 else broken)
        with contextlib.suppress(SnnbenchError):
            read_predictions(path)


def test_predictions_of_another_shape_are_refused(tmp_path):
    path = tmp_path / "p.npz"
    np.savez(
        path, labels=np.zeros(3, "<u2"), predictions=np.zeros(2, "<u2"), groups=np.zeros(3, "<u2")
    )
    with pytest.raises(SnnbenchError, match="predictions has type uint16 and shape"):
        read_predictions(path)


@settings(deadline=None)
@given(st.integers(0, 19), st.integers(0, 1), st.integers(0, 2))
def test_label_digest_tells_every_change(label, group, which):
    labels, _, groups = make_predictions(n_samples=40)
    base = labels_sha256(labels, groups, ["a", "b"])
    names, other_labels, other_groups = ["a", "b"], labels.copy(), groups.copy()
    if which == 0:
        other_labels[7] = label
    elif which == 1:
        other_groups[7] = group
    else:
        names = ["a", "c"]
    same = which < 2 and (other_labels == labels).all() and (other_groups == groups).all()
    assert (labels_sha256(other_labels, other_groups, names) == base) == same


def test_label_digest_is_one_for_every_integer_type():
    labels, _, groups = make_predictions(n_samples=40)
    assert labels_sha256(labels.astype(">i8"), groups.astype("u1"), ["a"]) == labels_sha256(
        labels, groups, ["a"]
    )


@pytest.mark.parametrize("name", ["", "-a", "A", "a/b", "../a", "a" * 65, "a b", ".a"])
def test_entry_names_are_safe_as_folders(name):
    with pytest.raises(ValueError, match="name"):
        Entry(name=name, task="t", model="m", authors=["x"])
