"""Reruns: when one agrees, what a statement proves, and the command from entry to status."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from snnbench.leaderboards.add import add_entry
from snnbench.leaderboards.entries import (
    Root,
    entry_files,
    manifest_of,
    manifest_text,
    shipped_tasks,
)
from snnbench.leaderboards.render import cells, page
from snnbench.leaderboards.reproduction import (
    LARGEST_TOLERANCE,
    Statement,
    compare,
    tolerance,
    write_statement,
)
from snnbench.leaderboards.table import make_tables, verify_roots
from snnbench.leaderboards.verify import verify_entry
from snnbench.record import (
    RunRecord,
    read_predictions,
    read_record,
    sealed,
    sha256_of,
    write_predictions,
)
from tests.commands import snnbench, strict_json
from tests.factories import (
    add_robustness,
    make_predictions,
    make_record,
    make_run_folder,
    make_run_folders,
)
from tests.tiny_data import make_samples, write_dataset

TASKS = shipped_tasks()
QUICK = ("--set", "train.epochs=2", "--set", "train.batch_size=16", "--set", "model.hidden=[8]")


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    """Two finished seeds and one that diverged."""
    runs = make_run_folders(tmp_path / "runs", 2, n_samples=60)
    runs.append(make_run_folder(tmp_path / "runs", seed=2, status="diverged", n_samples=60))
    return add_entry(runs, tmp_path / "board", TASKS, cover={}).verified.folder


def sign(folder: Path) -> None:
    (folder / "MANIFEST.sha256").write_text(manifest_text(manifest_of(folder)))


def state(entry: Path, seed: int = 0, *, wrong: int = 0, **changes: object) -> Path:
    """A statement as an honest rerun would leave it, `wrong` of whose right predictions are others.

    `changes` go into the record of the rerun, after everything has been counted.
    """
    reproduced = entry / "reproduced"
    reproduced.mkdir(exist_ok=True)
    path = reproduced / f"seed-{seed}.json"
    record = read_record(entry / f"runs/seed-{seed}.json")
    facts = record.model_dump(mode="json")
    if record.test:
        stored = read_predictions(entry / f"predictions/seed-{seed}.npz")
        predicted = stored.predictions.copy()
        right = np.flatnonzero(predicted == stored.labels)[:wrong]
        predicted[right] = (predicted[right] + 1) % 20
        found = stored._replace(predictions=predicted)
        facts["predictions_sha256"] = write_predictions(path.with_suffix(".npz"), found)
        facts["test"]["correct"] -= wrong
        for index, name in enumerate(record.data.groups["test"]):
            facts["test_by_group"][name]["correct"] -= int((stored.groups[right] == index).sum())
    of = sha256_of((entry / f"runs/seed-{seed}.json").read_bytes())
    rerun = RunRecord.model_validate(facts | changes)
    write_statement(path, Statement(by="B. Randell", record_sha256=of, rerun=rerun))
    sign(reproduced)
    return path


def problems(entry: Path) -> list[str]:
    return [str(problem) for problem in verify_entry(entry, TASKS).problems]


# ---------------------------------------------------------------- when a rerun agrees


def test_tolerance_is_the_larger_of_two_spreads_and_has_an_end():
    # 0.8 of 400: counting alone has a standard deviation of 0.02, so 1.96 * sqrt(2) * 0.02 = 0.0554
    alike = [make_record(seed=seed) for seed in range(3)]
    assert tolerance(alike) == LARGEST_TOLERANCE == 0.05
    # 0.98 of 400: 0.007, so 0.0194
    good = [make_record(seed=seed, accuracy=0.98) for seed in range(3)]
    assert tolerance(good) == pytest.approx(
        1.96 * math.sqrt(2) * math.sqrt(0.98 * 0.02 / 400), rel=1e-12
    )
    # two seeds 2 points apart: 0.0141 over seeds, more than by counting
    apart = [make_record(seed=s, accuracy=a) for s, a in enumerate((0.99, 0.97))]
    assert tolerance(apart) == pytest.approx(1.96 * math.sqrt(2) * 0.02 / math.sqrt(2), rel=1e-12)
    assert tolerance([make_record(status="diverged")]) == 0.0


@pytest.mark.parametrize(
    ("wrong", "agrees", "identical"), [(0, True, True), (7, True, False), (8, False, False)]
)
def test_a_rerun_agrees_up_to_the_tolerance(wrong, agrees, identical):
    # 0.98 of 400, as above: 0.0194 are 7.76 samples
    records = [make_record(seed=seed, accuracy=0.98) for seed in range(3)]
    stored = make_predictions(accuracy=0.98)
    facts = records[0].model_dump()
    facts["test"]["correct"] -= wrong
    statement = Statement(by="x", record_sha256="0", rerun=RunRecord.model_validate(facts))
    predicted = stored.predictions.copy()
    right = np.flatnonzero(predicted == stored.labels)[:wrong]
    predicted[right] = (predicted[right] + 1) % 20
    found = compare(records, stored, statement, stored._replace(predictions=predicted))
    assert (found.agrees, found.identical, found.n_different) == (agrees, identical, wrong)


def test_a_seed_that_diverged_has_to_diverge_again():
    finished, diverged = make_record(seed=0), make_record(seed=0, status="diverged")
    for stored, again, agrees in (
        (diverged, diverged, True),
        (diverged, finished, False),
        (finished, diverged, False),
    ):
        statement = Statement(by="x", record_sha256="0", rerun=again)
        predictions = [make_predictions() if r.test else None for r in (stored, again)]
        found = compare([stored], predictions[0], statement, predictions[1])
        assert found.agrees is agrees


# ---------------------------------------------------------------- what is verified


def test_a_statement_makes_a_row_reproduced_and_leaves_the_entry_as_it_was(entry):
    before = manifest_of(entry)
    state(entry)
    verified = verify_entry(entry, TASKS)
    assert verified.ok, verified.problems
    assert [(c.seed, c.identical, c.by) for c in verified.reruns] == [(0, True, "B. Randell")]
    assert manifest_of(entry) == before
    [table] = make_tables(verify_roots([Root("board", entry.parent.parent)], TASKS))
    assert cells(table.rows[0])["status"] == "reproduced"
    html = page([table])
    assert "B. Randell" in html
    assert "every prediction the same" in html


def test_statements_of_several_seeds_stand_side_by_side(entry):
    state(entry, 0)
    state(entry, 2)
    assert [c.seed for c in verify_entry(entry, TASKS).reruns] == [0, 2]


def test_a_rerun_beyond_the_tolerance_is_a_problem_with_both_numbers(entry):
    # 48 of 60 stored; at most 5 points, which are 3 samples
    state(entry, wrong=3)
    assert not problems(entry)
    state(entry, wrong=4)
    [problem] = problems(entry)
    assert "does not agree with runs/seed-0.json: 44 of 60, where the entry has 48" in problem


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"run_id": "other"}, "run_id is 'other'"),
        ({"test_reads": 2}, "test_reads is 2"),
        ({"predictions_sha256": "0" * 64}, "sha256 is"),
        ({"test": {"correct": 47, "total": 60}}, "test is 47 of 60, its predictions give 48 of 60"),
    ],
)
def test_a_rerun_has_to_be_sound_in_itself(entry, changes, told):
    state(entry, **changes)
    assert any(told in problem for problem in problems(entry)), problems(entry)


def test_a_rerun_with_other_settings_or_data_or_code_nobody_has_is_refused(entry):
    path = state(entry)
    honest = path.read_text()
    for keys, value, told in (
        (("spec", "train", "lr"), 0.5, "spec differs from that of runs/seed-0.json: train.lr"),
        (("data", "source_sha256"), "0" * 64, "data differs from that of runs/seed-0.json"),
        (("environment", "dirty"), True, "uncommitted changes"),
    ):
        statement = json.loads(honest)
        part = statement["rerun"]
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
        path.write_text(json.dumps(sealed(statement)))
        sign(path.parent)
        assert any(told in problem for problem in problems(entry)), (keys, problems(entry))


def test_a_statement_is_of_one_result_only(entry):
    state(entry, 0)
    record = entry / "runs/seed-0.json"
    # as authors would who replace a result that was reproduced
    record.write_text(json.dumps(sealed(json.loads(record.read_text()) | {"wall_s": 32.5})))
    sign(entry)
    [problem] = problems(entry)
    assert "record_sha256 is not that of runs/seed-0.json" in problem


def test_every_edited_added_or_missing_file_of_a_statement_is_caught(entry, tmp_path):
    state(entry)
    for file in (f for f in entry_files(entry) if f.startswith("reproduced/")):
        copy = tmp_path / "copy" / "hd" / "ff-lif"
        for change in ("flip", "cut", "remove"):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(entry, copy)
            content = bytearray((copy / file).read_bytes())
            if change == "flip":
                content[len(content) // 2] ^= 1
            (copy / file).write_bytes(content[:-1] if change == "cut" else content)
            if change == "remove":
                (copy / file).unlink()
            assert problems(copy), (file, change)
    shutil.rmtree(copy)
    shutil.copytree(entry, copy)
    shutil.copy(copy / "reproduced/seed-0.npz", copy / "reproduced/seed-1.npz")
    assert any("reproduced/seed-1.npz" in p and "not listed" in p for p in problems(copy))
    sign(copy / "reproduced")
    assert any("reproduced/seed-1.npz: belongs to no run" in p for p in problems(copy))


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data file and a board with one entry, really trained."""
    folder = tmp_path_factory.mktemp("reproduce")
    data = write_dataset(folder / "hd.h5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNNBENCH_HOME", str(folder / "home"))
        # as code of a wheel, wherever the tests run: a checkout in the making states nothing
        patch.setenv("GIT_DIR", str(folder / "none"))
        run = ("train", "hd", "ff-lif", "--data", data, "--no-track", "--json", *QUICK)
        done = snnbench(*run)
        assert done.code == 0, done.err
        board = folder / "board"
        added = snnbench("board", "add", strict_json(done.out)["folder"], "--board", board)
        assert added.code == 0, added.err
    return data, board


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """The data and a board of one's own."""
    data, board = trained
    monkeypatch.setenv("SNNBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    shutil.copytree(board, tmp_path / "board")
    return data, tmp_path / "board"


def test_from_entry_to_status_on_the_command_line(place, tmp_path):
    data, board = place
    command = ("board", "reproduce", "hd/ff-lif", "--board", board, "--data", data)
    done = snnbench(*command, "--by", "B. Randell", "--json")
    assert done.code == 0, done.err
    facts = strict_json(done.out)
    assert (facts["agrees"], facts["identical"], facts["different_predictions"]) == (True, True, 0)
    assert Path(facts["statement"]) == board / "hd/ff-lif/reproduced/seed-0.json"
    # trained here, not taken from the run that the entry was made of
    assert Path(facts["run"]).is_relative_to(tmp_path / "home" / "reproductions")
    verified = snnbench("board", "verify", "--board", board)
    assert (verified.code, "1 seeds (reproduced: 0)" in verified.out) == (0, True)
    [table] = strict_json(snnbench("board", "show", "hd", "--board", board, "--json").out)
    assert table["rows"][0]["status"] == "reproduced"
    before = manifest_of(board / "hd/ff-lif/reproduced")
    again = snnbench(*command, "--by", "B. Randell")
    assert (again.code, manifest_of(board / "hd/ff-lif/reproduced")) == (0, before)


def test_compare_only_writes_nothing(place):
    data, board = place
    before = manifest_of(board)
    done = snnbench(
        *("board", "reproduce", board / "hd/ff-lif", "--data", data, "--compare-only", "--json")
    )
    assert (done.code, strict_json(done.out)["statement"]) == (0, None)
    assert manifest_of(board) == before


def test_what_does_not_come_out_again_exits_with_one_and_writes_nothing(place):
    data, board = place
    entry = board / "hd/ff-lif"
    # an entry whose authors claim what their settings do not give, with hashes and counts that fit
    stored = read_predictions(entry / "predictions/seed-0.npz")
    facts = json.loads((entry / "runs/seed-0.json").read_text())
    perfect = stored._replace(predictions=stored.labels)
    facts["predictions_sha256"] = write_predictions(entry / "predictions/seed-0.npz", perfect)
    counts = [facts["test"], *facts["test_by_group"].values(), facts["latency"][-1]["test"]]
    for count in counts:
        count["correct"] = count["total"]
    (entry / "runs/seed-0.json").write_text(json.dumps(sealed(facts)))
    sign(entry)
    assert verify_entry(entry, TASKS).ok
    done = snnbench("board", "reproduce", "hd/ff-lif", "--board", board, "--data", data)
    assert done.code == 1
    assert "NOT reproduced" in done.out
    assert "did not come out again" in done.err
    assert not (entry / "reproduced").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("hd/none",), 2, "hd/none: no such entry; there are hd/ff-lif"),
        (("hd/ff-lif", "--seed", 7), 2, "has no seed 7; its seeds are 0"),
    ],
)
def test_wrong_usage_is_told(place, arguments, code, told):
    data, board = place
    done = snnbench("board", "reproduce", *arguments, "--board", board, "--data", data)
    assert (done.code, told in done.err) == (code, True), done.err


def test_other_data_are_refused(place, tmp_path):
    _, board = place
    splits = {s: make_samples(s, 20, k) for k, s in enumerate(("train", "valid", "test"))}
    other = write_dataset(tmp_path / "other.h5", splits)
    done = snnbench("board", "reproduce", "hd/ff-lif", "--board", board, "--data", other)
    assert done.code == 1
    assert "fingerprint" in done.err


def test_an_entry_that_does_not_verify_is_not_trained(place):
    data, board = place
    (board / "hd/ff-lif/entry.toml").write_text("")
    done = snnbench("board", "reproduce", "hd/ff-lif", "--board", board, "--data", data)
    assert done.code == 1
    assert "what does not verify is not trained" in done.err
    assert not any(board.rglob("reproduced"))


def test_robustness_that_comes_later_leaves_statements_where_they_are(tmp_path):
    runs = make_run_folders(tmp_path / "runs", 2, n_samples=60)
    entry = add_entry(runs, tmp_path / "board", TASKS, cover={}).verified.folder
    state(entry)
    before = manifest_of(entry / "reproduced")
    add_robustness(runs[0])
    assert add_entry(runs, tmp_path / "board", TASKS, cover={}).completed
    assert manifest_of(entry / "reproduced") == before
    verified = verify_entry(entry, TASKS)
    assert (verified.ok, [c.seed for c in verified.reruns]) == (True, [0])
