"""Entries: added whole or not at all, every edited byte caught, every forged figure recounted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnbench.cli import main
from snnbench.errors import SnnbenchError, UsageError
from snnbench.leaderboards.add import add_entry
from snnbench.leaderboards.entries import (
    entry_toml,
    manifest_of,
    manifest_text,
    shipped_tasks,
)
from snnbench.leaderboards.verify import Verified, verify_entry
from snnbench.record import (
    Entry,
    Predictions,
    read_record,
    sealed,
    sha256_of,
    write_predictions,
    write_record,
)
from snnbench.robustness import read_robustness, write_robustness
from snnbench.spec import DataPins, load_task
from tests.factories import (
    add_robustness,
    make_predictions,
    make_record,
    make_run_folder,
    make_run_folders,
)

TASKS = shipped_tasks()
OPEN = load_task("digits-synthetic").model_copy(update={"pins": DataPins()})
"""A task that pins no data, so that it takes what is made up here."""
OPEN_TASKS = {(OPEN.name, OPEN.version): OPEN}


@pytest.fixture
def board(tmp_path) -> Path:
    return tmp_path / "board"


@pytest.fixture
def entry(tmp_path, board) -> Path:
    """An entry of three seeds, one of them diverged."""
    runs = make_run_folders(tmp_path / "runs", 2, n_samples=60)
    runs.append(make_run_folder(tmp_path / "runs", seed=2, status="diverged", n_samples=60))
    return add(runs, board).folder


def add(runs, board, **keys) -> Verified:
    cover = keys.pop("cover", {"authors": ["A. Turing"]})
    return add_entry(runs, board, TASKS, cover=cover, **keys).verified


def snnbench(*arguments: object) -> int:
    """Exit code of the command line, run in this process."""
    before, sys.argv = sys.argv, ["snnbench", *map(str, arguments)]
    try:
        main()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    finally:
        sys.argv = before
    return 0


def tree(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def problems(folder: Path) -> str:
    return "\n".join(map(str, verify_entry(folder, TASKS).problems))


def sign(folder: Path) -> None:
    """A manifest that fits, as a forger would write it."""
    (folder / "MANIFEST.sha256").write_text(manifest_text(manifest_of(folder)))


# ---------------------------------------------------------------- what is added


def test_entry_holds_the_runs_byte_for_byte(tmp_path, board):
    runs = make_run_folders(tmp_path / "runs", 3)
    verified = add(reversed(runs), board)
    assert verified.folder == board / "hd" / "ff-lif"
    assert verified.ok
    assert [r.spec.seed for r in verified.records] == [0, 1, 2]
    files = tree(verified.folder)
    for seed, run in enumerate(runs):
        assert files[f"runs/seed-{seed}.json"] == (run / "record.json").read_bytes()
        assert files[f"predictions/seed-{seed}.npz"] == (run / "predictions.npz").read_bytes()
    assert len(files) == 3 + 3 + 2


def test_sha256sum_reads_the_manifest(entry):
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "MANIFEST.sha256"],
        cwd=entry,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == len(tree(entry)) - 1
    listed = [line.split("  ")[1] for line in (entry / "MANIFEST.sha256").read_text().splitlines()]
    assert listed == sorted(set(tree(entry)) - {"MANIFEST.sha256"})


def test_adding_again_changes_nothing(tmp_path, board):
    runs = make_run_folders(tmp_path / "runs", 2)
    first = add_entry(runs, board, TASKS, cover={})
    before = tree(board)
    second = add_entry(runs, board, TASKS, cover={})
    assert (first.was_there, second.was_there) == (False, True)
    assert tree(board) == before


def test_another_entry_of_the_same_name_is_refused_and_left_alone(tmp_path, board):
    runs = make_run_folders(tmp_path / "runs", 3)
    add(runs[:2], board)
    before = tree(board)
    with pytest.raises(SnnbenchError, match="another --name"):
        add(runs, board)
    assert tree(board) == before
    others = make_run_folders(tmp_path / "others", 3, model="rec-lif")
    add(others, board, cover={"name": "three"})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dirty": ({"dirty": True}, "uncommitted changes"),
    "other task": ({"task": "digits-synthetic"}, r"task.name is 'digits-synthetic', not 'hd'"),
    "other model": ({"model": "rec-lif"}, "model.name is 'rec-lif', not 'ff-lif'"),
    "other training": ({"train_keys": {"lr": 0.5}}, "train.lr is 0.5, not 0.001"),
    "other data": ({"fingerprint": "e" * 64}, "data_fingerprint is 'eee"),
    "other test split": ({"n_samples": 200}, "n_samples.test is 200, not 400"),
    "same seed": ({"seed": 0, "train_keys": {"lr": 0.5}}, "seed 0, like"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_runs_that_do_not_belong_together_are_refused(tmp_path, board, case):
    keys, message = REFUSED[case]
    runs = [make_run_folder(tmp_path / "a", seed=0)]
    runs.append(make_run_folder(tmp_path / "b", **{"seed": 1, **keys}))
    with pytest.raises(SnnbenchError, match=message):
        add(runs, board)
    assert tree(board) == {}
    assert not list(board.rglob(".*")), "an unfinished entry was left"


def test_dirty_runs_make_a_provisional_row(tmp_path, board):
    runs = make_run_folders(tmp_path / "runs", 2, dirty=True)
    verified = add(runs, board, provisional=True)
    assert verified.entry is not None
    assert verified.entry.provisional


def test_gaps_in_the_seeds_are_refused_with_the_commands_that_fill_them(tmp_path, board):
    runs = make_run_folders(tmp_path / "runs", 5, task=OPEN)
    with pytest.raises(SnnbenchError) as caught:
        add_entry([runs[1], runs[4]], board, OPEN_TASKS, cover={})
    first, *commands = str(caught.value).splitlines()
    assert first.startswith("seeds 1, 4 without 0, 2, 3: a row has all seeds from 0 on")
    assert "--provisional" in first
    assert [line.split()[:5] for line in commands] == [
        ["snnbench", "train", "digits-synthetic", "ff-lif", "--set"]
    ] * 3
    assert [line.split("--seed ")[1] for line in commands] == ["0", "2", "3"]
    assert tree(board) == {}
    added = add_entry([runs[1], runs[4]], board, OPEN_TASKS, cover={}, provisional=True).verified
    assert added.ok
    assert added.entry is not None
    assert added.entry.provisional


def test_seeds_of_a_model_that_is_no_name_of_the_zoo_are_named_with_its_file(tmp_path, board):
    with pytest.raises(SnnbenchError, match=r"\n  snnbench train hd mine\.toml --seed 0$"):
        add([make_run_folder(tmp_path / "runs", seed=1, model="mine")], board)


def test_runs_that_are_on_the_board_under_another_name_are_refused(tmp_path, board):
    runs = make_run_folders(tmp_path / "runs", 3)
    add(runs[:2], board)
    before = tree(board)
    again = "the same run, hd-ff-lif-seed0-.* is on this board already, as .*hd/ff-lif;"
    with pytest.raises(SnnbenchError, match=again):
        add(runs, board, cover={"name": "three"})
    with pytest.raises(SnnbenchError, match=again):
        add(runs[:1], board, cover={"name": "provisional"}, provisional=True)
    assert tree(board) == before
    assert not list(board.rglob(".*"))
    add(runs, tmp_path / "another", cover={"name": "three"})  # a board of its own


def renamed(run: Path, folder: Path, model: str) -> Path:
    """The same run as one of a model of another name."""
    record = read_record(run / "record.json")
    model_spec = record.spec.model.model_copy(update={"name": model})
    spec = record.spec.model_copy(update={"model": model_spec})
    hidden = {"spec": spec, "run_id": spec.run_id, "checkpoint_sha256": sha256_of(model.encode())}
    write_record(folder / "record.json", record.model_copy(update=hidden))
    (folder / "predictions.npz").write_bytes((run / "predictions.npz").read_bytes())
    return folder


def test_the_same_predictions_are_found_under_the_name_of_another_model(tmp_path, board, capsys):
    [run] = make_run_folders(tmp_path / "runs", 1)
    [other] = make_run_folders(tmp_path / "others", 1, model="other")
    copy = renamed(run, tmp_path / "copy", "ours")
    first = add([run], board).folder
    add([other], board)
    with pytest.raises(SnnbenchError, match=rf"the same predictions, is on this board .* {first};"):
        add([copy], board)
    # somebody who puts it there by hand
    elsewhere = add([copy], tmp_path / "elsewhere").folder
    elsewhere.rename(board / "hd" / "ours")
    assert snnbench("board", "verify", "--board", board) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"  {board}/hd/ff-lif/runs: the same predictions, is in hd/ours, too" in lines[1]
    assert f"  {board}/hd/ours/runs: the same predictions, is in hd/ff-lif, too" in lines[-2]
    assert lines[-1] == "1 of 3 entries verify"


def test_seeds_with_gaps_verify_only_as_provisional(entry):
    for file in ("runs/seed-1.json", "predictions/seed-1.npz"):
        (entry / file).unlink()
    sign(entry)
    assert problems(entry) == "runs: seeds are 0 to n-1, all of them: 1 is missing"
    sheet = (entry / "entry.toml").read_text()
    (entry / "entry.toml").write_text(sheet.replace("provisional = false", "provisional = true"))
    sign(entry)
    assert problems(entry) == ""


def test_an_edited_run_is_refused_with_its_own_path(tmp_path, board):
    runs = make_run_folders(tmp_path / "runs", 2)
    write_predictions(runs[1] / "predictions.npz", make_predictions(seed=9))
    with pytest.raises(SnnbenchError) as caught:
        add(runs, board)
    assert f"{runs[1] / 'predictions.npz'}: sha256 is" in str(caught.value)
    assert f"{runs[1] / 'record.json'} says" in str(caught.value)
    assert tree(board) == {}


def test_a_task_that_is_not_the_shipped_one_is_refused(tmp_path, board):
    easier = load_task("hd").model_copy(update={"duration_s": 2.0})
    run = make_run_folder(tmp_path / "runs", task=easier)
    with pytest.raises(SnnbenchError, match=r"not the one that ships: duration_s is 2.0, not 1.4"):
        add([run], board)
    newer = load_task("hd").model_copy(update={"version": 7})
    run = make_run_folder(tmp_path / "runs", task=newer)
    with pytest.raises(SnnbenchError, match="version 7 is none of those that ship"):
        add([run], board)


def test_a_task_name_cannot_lead_out_of_the_board(tmp_path, board):
    outside = load_task("hd").model_copy(update={"name": "../outside"})
    run = make_run_folder(tmp_path / "runs", task=load_task("hd"))
    with pytest.raises(UsageError, match=r"unknown task '\.\./outside'"):
        add([run], board, cover={"task": "../outside"})
    with pytest.raises(SnnbenchError, match=r"entry\.toml says 'digits-synthetic'"):
        add([run], board, cover={"task": "digits-synthetic"})
    data = json.loads((run / "record.json").read_text())
    data["spec"]["task"] = outside.model_dump(mode="json")
    (run / "record.json").write_text(json.dumps(sealed(data)))
    with pytest.raises(UsageError, match=r"unknown task '\.\./outside'"):
        add([run], board)
    assert not (tmp_path / "outside").exists()


def test_a_board_that_cannot_be_written_is_named(tmp_path):
    runs = make_run_folders(tmp_path / "runs", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(SnnbenchError, match="file/hd/ff-lif: cannot write"):
        add(runs, tmp_path / "file")


def test_cover_sheet_with_an_unknown_key_is_refused(tmp_path, board):
    runs = make_run_folders(tmp_path / "runs", 1)
    with pytest.raises(UsageError, match=r"entry\.author.*did you mean entry\.authors"):
        add(runs, board, cover={"author": "A"})


@settings(deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_cover_sheet_survives_its_file(authors, note):
    import tomllib

    entry = Entry(name="a", task="t", model="m", authors=authors, note=note)
    assert Entry.model_validate(tomllib.loads(entry_toml(entry))) == entry


# ---------------------------------------------------------------- what verification catches


def test_every_flipped_byte_is_caught_and_its_file_named(entry):
    random = np.random.default_rng(0)
    for file, whole in tree(entry).items():
        places = {
            0,
            len(whole) // 2,
            len(whole) - 1,
            *random.integers(len(whole), size=12).tolist(),
        }
        for place in places:
            broken = bytearray(whole)
            broken[place] ^= 1 << int(random.integers(8))
            (entry / file).write_bytes(broken)
            assert file in problems(entry), (file, place)
        (entry / file).write_bytes(whole)
    assert problems(entry) == ""


def test_every_missing_truncated_or_grown_file_is_caught(entry):
    for file, whole in tree(entry).items():
        for content in (None, b"", whole[:-1], whole + b"\n", whole + whole):
            (entry / file).unlink() if content is None else (entry / file).write_bytes(content)
            assert file in problems(entry), (file, content and len(content))
            (entry / file).write_bytes(whole)
    assert problems(entry) == ""


@pytest.mark.parametrize(
    "name",
    ["extra.txt", "runs/seed-9.json", "predictions/seed-9.npz", "runs/seed-01.json", ".hidden"],
)
def test_added_files_are_caught_even_with_a_manifest_that_lists_them(entry, name):
    (entry / name).write_bytes((entry / "runs/seed-0.json").read_bytes())
    assert name in problems(entry)
    sign(entry)
    assert name in problems(entry)


def test_links_are_refused(entry, tmp_path):
    file = entry / "runs/seed-0.json"
    (tmp_path / "elsewhere.json").write_bytes(file.read_bytes())
    file.unlink()
    os.symlink(tmp_path / "elsewhere.json", file)
    assert "runs/seed-0.json: is a link" in problems(entry)


def test_manifest_in_another_order_or_form_is_caught(entry):
    manifest = entry / "MANIFEST.sha256"
    lines = manifest.read_text().splitlines(keepends=True)
    for text in ("".join(reversed(lines)), "".join(lines + lines[:1]), "\r\n".join(lines)):
        manifest.write_bytes(text.encode())
        assert "MANIFEST.sha256" in problems(entry)


def set_in(*path):
    def edit(data, value):
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return edit


FORGED = [
    (("test", "correct"), 60, "test is 60 of 60, its predictions give"),
    (("test_by_group", "speaker-08", "correct"), 1, r"test_by_group.speaker-08 is 1 of"),
    (("test_by_group",), {}, "test_by_group.speaker-08 is nothing"),
    (("test_reads",), 2, "test_reads is 2, must be 1"),
    (("run_id",), "hd-ff-lif-seed0-0123456789", "run_id is 'hd-ff-lif-seed0-0123456789'"),
    (("spec", "train", "lr"), 0.01, "run_id is"),
    (("spec", "seed"), 7, "holds seed 7"),
    (("spec", "task", "min_seeds"), 2, "not the one that ships: min_seeds is 2, not 10"),
    (("spec", "model", "name"), "sota", "model is 'sota', entry.toml says 'ff-lif'"),
    (("data", "labels_sha256"), "0" * 64, "labels and groups are not those"),
    (("data", "fingerprint"), "0" * 64, "data.fingerprint is '000"),
    (("data", "name"), "shd", "data.name is 'shd', must be 'hd'"),
    (("data", "synthetic"), True, "data.synthetic is True, must be False"),
    (("validation", "correct"), 201, "validation.correct is 201 of 200"),
    (("validation", "total"), 300, "validation.total is 300, the valid split has 200"),
    (("validation",), None, "validation is missing in a finished run"),
    (("operations", "spikes", "hidden1"), -1.0, "operations.spikes.hidden1 is -1.0"),
    (
        ("operations", "dense_macs"),
        float("inf"),
        "operations.dense_macs: input should be a finite number",
    ),
    (("chosen_epoch",), 13, "chosen_epoch 13 of epochs_run 12"),
    (("epochs_run",), 51, "of epochs_run 51 of train.epochs 12"),
    (("chosen_epoch",), 0, "chosen_epoch counts from 1"),
    (("status",), "diverged", "test must be null in a diverged run"),
    (("predictions_sha256",), "0" * 64, "predictions/seed-0.npz: sha256 is"),
]


@pytest.mark.parametrize(("path", "value", "message"), FORGED, ids=[".".join(f[0]) for f in FORGED])
def test_a_forged_record_with_a_fitting_manifest_is_caught(entry, path, value, message):
    file = entry / "runs/seed-0.json"
    data = json.loads(file.read_text())
    set_in(*path)(data, value)
    file.write_text(json.dumps(sealed(data)))
    sign(entry)
    assert message in problems(entry)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": np.full(60, 20)}, "predictions must be below 20"),
        ({"groups": np.full(60, 2)}, "groups must be below 2"),
        ({"labels": np.zeros(60)}, "labels and groups are not those"),
        ({"predictions": np.arange(60) % 20}, "test is"),
        ({k: np.zeros(0) for k in Predictions._fields}, "and at least one"),
    ],
)
def test_forged_predictions_with_fitting_hashes_are_caught(entry, change, message):
    proof, file = entry / "predictions/seed-0.npz", entry / "runs/seed-0.json"
    changed = make_predictions(n_samples=60)._replace(**change)
    digest = write_predictions(proof, changed)
    assert digest == sha256_of(proof.read_bytes())
    data = json.loads(file.read_text())
    data["predictions_sha256"] = digest
    file.write_text(json.dumps(sealed(data)))
    sign(entry)
    assert message in problems(entry)


def test_an_entry_in_another_folder_is_caught(entry, board):
    moved = entry.rename(entry.with_name("other"))
    assert "name is 'ff-lif', the folder is called 'other'" in problems(moved)
    (board / "shd").mkdir()
    moved = moved.rename(board / "shd" / "ff-lif")
    assert "task is 'hd', the folder above is 'shd'" in problems(moved)


def test_pins_are_compared_one_by_one(tmp_path):
    record = make_record()
    pins = {
        "source_sha256": record.data.source_sha256,
        "labels_sha256": record.data.labels_sha256,
        "split_sha256": "0" * 64,
    }
    base = load_task("hd").model_dump()
    agreeing = type(record.spec.task).model_validate(
        {**base, "pins": {**pins, "split_sha256": None}}
    )
    differing = type(record.spec.task).model_validate({**base, "pins": pins})
    run = make_run_folder(tmp_path / "runs", task=agreeing)
    tasks = {("hd", 1): agreeing}
    verified = add_entry([run], tmp_path / "board", tasks, cover={}).verified
    assert verified.pins == {
        "source": "agrees",
        "recipe": "not pinned",
        "split": "not pinned",
        "labels": "agrees",
    }
    data = json.loads((run / "record.json").read_text())
    data["spec"]["task"]["pins"]["split_sha256"] = "0" * 64
    spec = type(record.spec).model_validate(data["spec"])
    (run / "record.json").write_text(json.dumps(sealed({**data, "run_id": spec.run_id})))
    with pytest.raises(SnnbenchError, match="split of the data is not the one that task hd pins"):
        add_entry([run], tmp_path / "b", {("hd", 1): differing}, cover={})


# ---------------------------------------------------------------- robustness


@pytest.fixture
def tested(tmp_path, board) -> Path:
    """An entry of three seeds, one diverged, the others tested on changed samples."""
    runs = make_run_folders(tmp_path / "runs", 2, n_samples=60)
    for run in runs:
        add_robustness(run)
    runs.append(make_run_folder(tmp_path / "runs", seed=2, status="diverged", n_samples=60))
    return add(runs, board).folder


def test_robustness_goes_with_its_run_byte_for_byte(tmp_path, board):
    runs = make_run_folders(tmp_path / "runs", 3)
    paths = [add_robustness(run) for run in runs[:2]]
    verified = add(runs, board)
    files = tree(verified.folder)
    for seed, path in enumerate(paths):
        assert files[f"robustness/seed-{seed}.json"] == path.read_bytes()
        assert f"robustness/seed-{seed}.json\n".encode() in files["MANIFEST.sha256"]
    assert "robustness/seed-2.json" not in files
    assert sorted(verified.audits) == [0, 1]
    assert verified.audits[0] == read_robustness(paths[0])


FORGED_ROBUSTNESS = [
    (("run_id",), "another", "run_id is 'another', that of the record is 'hd-ff-lif-seed0"),
    (("checkpoint_sha256",), "2" * 64, "checkpoint_sha256 is '222"),
    (("data_fingerprint",), "e" * 64, "data_fingerprint is 'eee"),
    (("n_classes",), 40, "n_classes is 40, that of the record is 20"),
    (("clean", "correct"), 60, "clean.correct is 60 of 60, the record has 48, and"),
    (("clean", "correct"), 47, "different_predictions is 0"),
    (("different_predictions",), 61, "different_predictions is 61 of 60"),
    (("speakers", "unseen", "correct"), 47, "speakers.unseen.correct is 47 of 60"),
    (("speakers", "unseen", "correct"), 47, "speakers.correct are not 48 together"),
    (("speakers", "unseen", "total"), 59, "speakers.unseen.total is 59, the record's test has 60"),
    (("speakers",), {}, "speakers.unseen.total is nothing"),
    (("points", "faster"), None, "is not complete: faster not tested"),
    (("points", "slower", 0, "correct"), 61, "no count is larger"),
    (("points", "slower", 0, "level"), 0.2, "slower: levels and seeds are not those"),
    (("version",), "corruptions/2", "unknown version 'corruptions/2'; did you mean corruptions/1?"),
    (("robustness",), 0.99, "unknown key"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    FORGED_ROBUSTNESS,
    ids=[".".join(map(str, f[0])) for f in FORGED_ROBUSTNESS],
)
def test_forged_robustness_with_a_fitting_manifest_is_caught(tested, path, value, message):
    file = tested / "robustness/seed-0.json"
    data = json.loads(file.read_text())
    set_in(*path)(data, value)
    if value is None:
        del data["points"]["faster"]
    file.write_text(json.dumps(sealed(data)))
    assert "robustness/seed-0.json: sha256 is" in problems(tested)
    sign(tested)
    assert message in problems(tested)
    assert problems(tested).startswith("robustness/seed-0.json")


def test_predictions_that_differ_here_leave_room_for_other_clean_counts(tested):
    file = tested / "robustness/seed-0.json"
    data = json.loads(file.read_text())
    for counts in (data["clean"], data["speakers"]["unseen"]):
        counts["correct"] += 2
    data["different_predictions"] = 1
    file.write_text(json.dumps(sealed(data)))
    sign(tested)
    assert "clean.correct is 50 of 60" in problems(tested)
    data["different_predictions"] = 2
    file.write_text(json.dumps(sealed(data)))
    sign(tested)
    assert problems(tested) == ""


def test_robustness_of_no_run_or_of_another_is_caught(tested):
    file = tested / "robustness/seed-1.json"
    for name, message in (
        ("seed-7.json", "robustness/seed-7.json: belongs to no run"),
        ("seed-2.json", "robustness/seed-2.json: belongs to a diverged run"),
        ("seed-0.json", "robustness/seed-0.json: run_id is"),
    ):
        before = tree(tested)
        file.with_name(name).write_bytes(file.read_bytes())
        sign(tested)
        assert message in problems(tested)
        if name == "seed-0.json":
            file.with_name(name).write_bytes(before["robustness/seed-0.json"])
        else:
            file.with_name(name).unlink()
    sign(tested)
    assert problems(tested) == ""


def test_foreign_robustness_is_refused_with_its_own_path(tmp_path, board):
    runs = make_run_folders(tmp_path / "runs", 2)
    path = add_robustness(runs[0])
    path.rename(runs[1] / path.name)
    with pytest.raises(SnnbenchError) as caught:
        add(runs, board)
    assert f"{runs[1] / path.name}: run_id is" in str(caught.value)
    assert tree(board) == {}


def test_robustness_that_is_not_finished_is_left_out_and_told(tmp_path, board, capsys):
    runs = make_run_folders(tmp_path / "runs", 2)
    whole = read_robustness(add_robustness(runs[0]))
    half = whole.model_copy(update={"points": {"deletion": whole.points["deletion"]}})
    path = runs[0] / "robustness.json"
    write_robustness(path, half)
    assert snnbench("board", "add", *runs, "--board", board) == 0
    told = capsys.readouterr().err
    assert f"{path}: is begun, not finished" in told
    assert f"`snnbench eval {runs[0]} --corrupt`" in told
    assert not (board / "hd/ff-lif/robustness").exists()


def test_damaged_robustness_is_refused_with_a_way_out(tmp_path, board):
    (run,) = make_run_folders(tmp_path / "runs", 1)
    path = add_robustness(run)
    path.write_text(path.read_text()[:100])
    with pytest.raises(SnnbenchError, match=r"robustness.json: cannot be read.*move it away"):
        add([run], board)
    assert tree(board) == {}


def test_robustness_completes_a_row_that_is_there(tmp_path, board, capsys):
    runs = make_run_folders(tmp_path / "runs", 3)
    add_robustness(runs[0])
    command = ("board", "add", *runs, "--board", board)
    assert snnbench(*command) == 0
    before = tree(board / "hd/ff-lif")
    moved = add_robustness(runs[1])
    (runs[0] / "robustness.json").unlink()  # what the row has of it, it keeps
    capsys.readouterr()
    assert snnbench(*command) == 0
    assert "completed with the robustness of 1 seed;" in capsys.readouterr().out
    after = tree(board / "hd/ff-lif")
    assert after.pop("robustness/seed-1.json") == moved.read_bytes()
    assert after.pop("MANIFEST.sha256") != before.pop("MANIFEST.sha256")
    assert after == before
    assert problems(board / "hd/ff-lif") == ""
    assert not list((board / "hd").glob(".*")), "the one that was replaced was left"
    assert snnbench(*command, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["was_there"], told["completed"], told["robustness"]) == (True, [], [0, 1])


def test_only_robustness_can_come_later_and_none_replaces_another(tmp_path, board):
    runs = make_run_folders(tmp_path / "runs", 2)
    add_robustness(runs[0])
    add(runs, board)
    before = tree(board)
    add_robustness(runs[0], left=0.9)
    add_robustness(runs[1])
    with pytest.raises(SnnbenchError, match=r"other content \(robustness/seed-0.json\)"):
        add(runs, board)
    add_robustness(runs[0])
    with pytest.raises(SnnbenchError, match=r"other content \(entry.toml\)"):
        add(runs, board, cover={"authors": ["B"]})
    assert tree(board) == before


def test_a_row_that_cannot_be_replaced_stays(tmp_path, board, monkeypatch):
    runs = make_run_folders(tmp_path / "runs", 1)
    final = add(runs, board).folder
    before = tree(board)
    add_robustness(runs[0])
    rename = os.rename

    def full(source, target):
        if Path(target) == final and "replaced" not in str(source):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(SnnbenchError, match="hd/ff-lif: cannot write: No space left"):
        add(runs, board)
    assert tree(board) == before


# ---------------------------------------------------------------- the commands


def test_add_verify_show_on_the_command_line(tmp_path, capsys):
    runs = make_run_folders(tmp_path / "runs", 2)
    home = Path(os.environ["SNNBENCH_HOME"])
    assert snnbench("board", "add", *runs, "--authors", "A. Turing", "--name", "mine") == 0
    assert (home / "board/hd/mine/MANIFEST.sha256").is_file()
    assert "hd/mine: added and verified" in capsys.readouterr().out
    assert snnbench("board", "add", *runs, "--authors", "A. Turing", "--name", "mine") == 0
    assert "was there already, identical" in capsys.readouterr().out
    assert snnbench("board", "verify") == 0
    assert "ok      hd/mine (local): 2 seeds" in capsys.readouterr().out
    assert snnbench("board", "show", "hd") == 0
    assert "mine (ff-lif)" in capsys.readouterr().out
    assert snnbench("board", "show", "hd", "--json") == 0
    (table,) = json.loads(capsys.readouterr().out)
    (row,) = [r for r in table["rows"] if r["origin"] == "local"]
    assert (row["entry"], row["seeds"], row["rank"]) == ("mine", 2, None)
    assert row["accuracy"] == pytest.approx(0.8, abs=0.05)


def test_cover_sheet_from_a_file_and_options_before_it(tmp_path, board, capsys):
    runs = make_run_folders(tmp_path / "runs", 1)
    sheet = tmp_path / "entry.toml"
    sheet.write_text('name = "a"\nauthors = ["B"]\nnote = "n"\n')
    assert snnbench("board", "add", *runs, "--entry", sheet, "--name", "b", "--board", board) == 0
    text = (board / "hd/b/entry.toml").read_text()
    assert 'name = "b"\n' in text
    assert 'authors = ["B"]\n' in text
    sheet.write_text("name = ")
    assert snnbench("board", "add", *runs, "--entry", sheet, "--board", board) == 1
    assert "entry.toml: cannot be read" in capsys.readouterr().err


def test_verify_lists_every_problem_and_exits_with_one(entry, board, capsys):
    for file in ("entry.toml", "runs/seed-0.json"):
        with open(entry / file, "ab") as stream:
            stream.write(b" ")
    assert snnbench("board", "verify", "--board", board) == 1
    out = capsys.readouterr().out
    assert "FAILED  hd/ff-lif" in out
    assert f"{entry}/entry.toml: sha256 is" in out
    assert f"{entry}/runs/seed-0.json: sha256 is" in out
    assert snnbench("board", "verify", "--board", board, "--json") == 1
    data = json.loads(capsys.readouterr().out)
    assert data["ok"] is False
    assert len(data["entries"][0]["problems"]) == 2


def test_what_does_not_verify_is_neither_shown_nor_built(entry, board, tmp_path, capsys):
    (entry / "entry.toml").write_text("")
    assert snnbench("board", "show", "--board", board) == 0
    shown = capsys.readouterr()
    assert "no entries yet" in shown.out
    assert "left out" in shown.err
    assert snnbench("board", "build", "--board", board, "--out", tmp_path / "page") == 1
    assert "entry.toml" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "hdd"], "did you mean hd"),
        (["verify", "--board", "nowhere"], "nowhere: no such board folder"),
        (["add"], "Missing argument"),
        (["add", "run", "--entry", "nowhere.toml"], "nowhere.toml: no such entry file"),
    ],
)
def test_wrong_usage_exits_with_two(arguments, message, capsys):
    assert snnbench("board", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_run_folder_that_is_not_there_exits_with_one(capsys):
    assert snnbench("board", "add", "nowhere") == 1
    assert "nowhere/record.json: no such file" in capsys.readouterr().err


def test_verification_never_imports_torch(tested, board):
    code = (
        "import sys; from snnbench.cli import main\n"
        f"sys.argv = ['snnbench', 'board', 'verify', '--board', {str(board)!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("1 of 1 entries verify\nFalse\n")


@pytest.mark.parametrize("verb", ["add", "verify", "build", "show"])
def test_help_ends_with_an_example(verb, capsys):
    assert snnbench("board", verb, "--help") == 0
    out = capsys.readouterr().out
    assert out.count(f"Example: snnbench board {verb}") == 1


def test_everything_that_ships_verifies(capsys):
    assert snnbench("board", "verify", "--json") == 0
    assert json.loads(capsys.readouterr().out)["ok"]
