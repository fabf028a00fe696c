"""Protocol classes: who is heard, what chooses the epoch, how often the test split is opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snnbench.audit import AUDIT_FILE, audit_run
from snnbench.bench import run_seed
from snnbench.checkpoint import load_network
from snnbench.cli.run import training_progress
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError, UsageError
from snnbench.leaderboards.add import add_entry
from snnbench.leaderboards.entries import shipped_tasks
from snnbench.metrics import (
    Counts,
    all_folds,
    best_epochs,
    binomial_interval,
    count_correct,
    pooled,
)
from snnbench.protocol import FOLD_FILE, FOLDS, SealedTest
from snnbench.record import Moment, RunRecord, read_record, sealed
from snnbench.spec import make_run_spec
from snnbench.tracking import NullTracker
from snnbench.train import BatchReport, EpochReport, LeftOut, fit
from tests.tiny_data import make_samples, write_dataset

CPU = torch.device("cpu")
QUICK: dict[str, Any] = {
    "model.hidden": [12],
    "model.input_gain": 12.0,
    "model.readout": {},
    "model.dropout": 0.0,
    "train.epochs": 3,
    "train.batch_size": 16,
    "train.lr": 0.01,
    "train.dt_s": 0.01,
    "train.units_per_channel": 20,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speakers 0 and 1 train, 2 validates, 3 tests; 20 recordings each."""
    return write_dataset(tmp_path_factory.mktemp("data") / "hd.h5")


def run(data: Path, runs: Path, protocol: str, **options: Any) -> tuple[RunRecord, Path]:
    changes = {**QUICK, "task.protocol": protocol, **options.pop("changes", {})}
    with SpikeDataset.open(data) as dataset:
        spec = make_run_spec(
            "hd", "ff-lif", seed=0, data_fingerprint=dataset.fingerprint, overrides=changes
        )
        folder = runs / spec.run_id
        options = {"folder": folder, "device": CPU, "tracker": NullTracker(), **options}
        return run_seed(spec, dataset, **options), folder


@pytest.fixture(scope="module")
def finished(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[RunRecord, Path]]:
    """A finished run of each class."""
    runs = tmp_path_factory.mktemp("runs")
    return {protocol: run(data, runs, protocol) for protocol in "ABC"}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_network(folder / "model.safetensors")[0].state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(t, other[k]) for k, t in one.items())


# --- the classes


def test_class_c_hears_everybody_and_takes_the_last_epoch(finished: Any):
    record, folder = finished["C"]
    assert (record.protocol, record.status) == ("C", "finished")
    assert (record.chosen_epoch, record.epochs_run) == (3, 3)
    assert record.validation is None
    assert [e.validation_accuracy for e in record.history] == [None] * 3
    assert record.test_reads == 1
    # nothing is known of a validation speaker: history has no number for it
    rows = (folder / "history.csv").read_text().splitlines()
    assert rows[0].split(",")[3] == "valid_accuracy"
    assert {row.split(",")[3] for row in rows[1:]} == {"nan"}


def test_class_c_is_the_same_training_as_of_all_speakers_in_one_split(
    finished: Any, data: Path, tmp_path: Path
):
    splits = {
        "train": [
            *make_samples("train", 20, 0),
            *make_samples("more", 20, 1),
            *make_samples("valid", 20, 2),
        ],
        "valid": make_samples("another", 20, 2),
        "test": make_samples("test", 20, 3),
    }
    joined = write_dataset(tmp_path / "joined.h5", splits)
    with SpikeDataset.open(joined) as dataset:
        spec = make_run_spec("hd", "ff-lif", seed=0, data_fingerprint="other", overrides=QUICK)
        fit(spec, dataset.split("train"), None, folder=tmp_path / "run", device=CPU)
    assert same(weights(tmp_path / "run"), weights(finished["C"][1]))
    assert not same(weights(finished["A"][1]), weights(finished["C"][1]))


def test_class_b_leaves_every_speaker_out_once(finished: Any, data: Path, tmp_path: Path):
    record, folder = finished["B"]
    assert sorted(record.folds) == sorted(p.name for p in (folder / FOLDS).iterdir())
    assert len(record.folds) == 3
    assert all(len(f) == 3 and {c.total for c in f} == {20} for f in record.folds.values())
    # the rule by hand: most right over all folds, fewer epochs at a tie
    correct = [sum(f[e].correct for f in record.folds.values()) for e in range(3)]
    best = correct.index(max(correct)) + 1
    assert record.chosen_epoch == record.epochs_run == best
    assert record.validation == Counts(correct=max(correct), total=60)
    # a fold is the training that anybody would do without this speaker
    name = sorted(record.folds)[2]
    splits = {
        "train": [*make_samples("train", 20, 0), *make_samples("more", 20, 1)],
        "valid": make_samples("valid", 20, 2),
        "test": make_samples("test", 20, 3),
    }
    with SpikeDataset.open(write_dataset(tmp_path / "hd.h5", splits)) as dataset:
        spec = make_run_spec(
            "hd", "ff-lif", seed=0, data_fingerprint=dataset.fingerprint, overrides=QUICK
        )
        result = fit(
            spec, dataset.split("train"), dataset.split("valid"), folder=tmp_path / "r", device=CPU
        )
    assert tuple(r.valid for r in result.history) == record.folds[name]


def test_the_last_training_of_class_b_is_class_c_of_as_many_epochs_on_the_same_schedule(
    finished: Any, data: Path, tmp_path: Path
):
    record, folder = finished["B"]
    other, place = run(data, tmp_path, "C")
    if record.epochs_run == other.epochs_run:
        assert same(weights(folder), weights(place))
    assert record.history == tuple(
        a.model_copy(update={"seconds": b.seconds})
        for a, b in zip(other.history[: record.epochs_run], record.history, strict=True)
    )


def test_progress_tells_whose_turn_it_is(finished: Any, data: Path, tmp_path: Path):
    heard: list[BatchReport] = []
    epochs: list[EpochReport] = []
    record, folder = run(data, tmp_path, "B", on_batch=heard.append, on_epoch=epochs.append)
    turns = list(dict.fromkeys(report.left_out for report in heard))
    names = list(record.folds)
    assert len(names) == 3
    assert turns == [*(LeftOut(name, k, 3) for k, name in enumerate(names, 1)), None]
    assert [(e.epoch, e.epochs) for e in epochs] == [
        (epoch, record.epochs_run) for epoch in range(1, record.epochs_run + 1)
    ], "epochs told are those of the network that is tested"
    assert same(weights(folder), weights(finished["B"][1]))


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_bar_counts_the_folds_of_class_b(n_seeds: int, capsys: pytest.CaptureFixture[str]):
    specs = [
        make_run_spec("hd", "ff-lif", seed=seed, data_fingerprint="", overrides=QUICK)
        for seed in range(n_seeds)
    ]
    assert specs[0].train.epochs == 3

    def batch(epoch: int, left_out: LeftOut | None = None) -> BatchReport:
        return BatchReport(epoch, 5, 10, 0.5, 1e3, left_out)

    def bar(*reports: BatchReport) -> str:
        with training_progress(specs, {spec.run_id: 0 for spec in specs}) as (_, on_batch):
            for report in reports:
                on_batch(specs[0], report)
        return capsys.readouterr().err.splitlines()[-1]

    rest = 3 * (n_seeds - 1)  # another seed has told nothing yet
    # side by side: half an epoch of one, one and a half of the other
    told = bar(batch(1, LeftOut("ann", 1, 2)), batch(2, LeftOut("bo", 2, 2)))
    assert f" 2/{9 + rest} [" in told
    assert "fold=bo 2/2" in told
    assert ("seed=0" in told) == (n_seeds == 2)
    told = bar(batch(3, LeftOut("bo", 2, 2)), batch(1))
    assert f" 6.5/{9 + rest} [" in told
    assert "fold" not in told
    assert f" 0.5/{3 + rest} [" in bar(batch(1))


def test_finished_folds_are_not_done_again(finished: Any, data: Path, tmp_path: Path):
    record, folder = finished["B"]
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    (copy / "record.json").unlink()
    heard: list[int] = []
    again, _ = run(
        data, tmp_path, "B", resume=True, on_batch=lambda report: heard.append(report.epoch)
    )
    assert heard == []
    assert (again.folds, again.test) == (record.folds, record.test)
    # a stopped fold goes on
    fold = next((copy / FOLDS).iterdir())
    (copy / "record.json").unlink()
    (fold / FOLD_FILE).unlink()
    again, _ = run(data, tmp_path, "B", resume=True)
    assert again.folds == record.folds
    # and a damaged one says what to do
    (copy / "record.json").unlink()
    (fold / FOLD_FILE).write_text("{")
    with pytest.raises(
        SnnbenchError, match=r"validation\.json: cannot be read .*; remove .* to do this fold"
    ):
        run(data, tmp_path, "B", resume=True)


def test_names_of_speakers_lead_nowhere(tmp_path: Path):
    names = ("../../outside", "..", "a/b", "plain one")
    path = write_dataset(tmp_path / "hd.h5", groups=names)
    record, folder = run(path, tmp_path / "runs", "B", changes={"train.epochs": 1})
    assert sorted(record.folds) == sorted(names[:3])
    found = {p.name for p in (folder / FOLDS).iterdir()}
    assert found == {"%2E%2E%2F%2E%2E%2Foutside", "%2E%2E", "a%2Fb"}
    # nothing elsewhere
    assert {p.name for p in tmp_path.iterdir()} == {"hd.h5", "runs"}
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [folder.name]


def test_one_speaker_cannot_be_left_out(tmp_path: Path):
    splits = {
        "train": make_samples("train", 20, 0),
        "valid": make_samples("valid", 20, 0),
        "test": make_samples("test", 20, 3),
    }
    path = write_dataset(tmp_path / "hd.h5", splits)
    with pytest.raises(
        SnnbenchError, match=r"leaves one speaker out .* there is only .*; take class A or C"
    ):
        run(path, tmp_path, "B")


@pytest.mark.parametrize(("key", "value"), [("patience", 3), ("minutes", 1.0)])
@pytest.mark.parametrize("protocol", ["B", "C"])
def test_nothing_ends_training_early_where_epochs_are_fixed(key: str, value: Any, protocol: str):
    overrides = {"task.protocol": protocol, f"train.{key}": value}
    with pytest.raises(UsageError, match=f"train.{key} = {value} ends training early"):
        make_run_spec("hd", "ff-lif", seed=0, data_fingerprint="", overrides=overrides)


def test_a_task_allows_some_classes_only():
    with pytest.raises(UsageError, match="task randman allows protocol class A, C, not B"):
        make_run_spec(
            "randman", "ff-lif", seed=0, data_fingerprint="", overrides={"task.protocol": "B"}
        )


# --- the seal


def test_the_test_split_opens_once(data: Path):
    with SpikeDataset.open(data) as dataset:
        sealed = SealedTest(dataset)
        assert sealed.reads == 0
        assert len(sealed.open()) == 20
        with pytest.raises(SnnbenchError, match=r"hd\.h5: the test split was opened once already"):
            sealed.open()
        assert sealed.reads == 1


@pytest.mark.parametrize("protocol", ["B", "C"])
def test_training_cannot_see_test_data(finished: Any, tmp_path: Path, protocol: str):
    poisoned = {
        "train": [*make_samples("train", 20, 0), *make_samples("more", 20, 1)],
        "valid": make_samples("valid", 20, 2),
        "test": [s._replace(label=(s.label + 7) % 20) for s in make_samples("test", 20, 3)],
    }
    record, folder = finished[protocol]
    other, place = run(write_dataset(tmp_path / "hd.h5", poisoned), tmp_path, protocol)
    assert same(weights(place), weights(folder))
    assert (other.folds, other.validation) == (record.folds, record.validation)
    assert other.predictions_sha256 != record.predictions_sha256


# --- class X


def test_an_audit_is_the_honest_training_seen_through_the_test_split(
    finished: Any, data: Path, tmp_path: Path
):
    record, folder = finished["A"]
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    with SpikeDataset.open(data) as dataset:
        audit = audit_run(copy, dataset, CPU)
    assert audit.honest == record.test
    assert audit.same_training
    assert audit.test[record.chosen_epoch - 1] == record.test
    assert audit.picked.correct == max(c.correct for c in audit.test)
    assert audit.gap >= 0
    # the record stays what it was, and so does the run's training
    assert read_record(copy / "record.json") == record
    assert same(weights(copy), weights(folder))
    # taken as it is the second time: the data file is not even that of the run
    with SpikeDataset.open(
        write_dataset(tmp_path / "x.h5", {"test": make_samples("x", 2, 0)})
    ) as other:
        assert audit_run(copy, other, CPU) == audit
        forged = {**json.loads((copy / AUDIT_FILE).read_text()), "run_id": "another"}
        (copy / AUDIT_FILE).write_text(json.dumps(sealed(forged)))
        with pytest.raises(SnnbenchError, match="is of another training of this run"):
            audit_run(copy, other, CPU)
        (copy / AUDIT_FILE).unlink()
        with pytest.raises(
            SnnbenchError, match=r"x\.h5: fingerprint .* is not that of the run's data"
        ):
            audit_run(copy, other, CPU)


def test_only_class_a_is_audited(finished: Any, data: Path):
    with SpikeDataset.open(data) as dataset:
        for protocol in "BC":
            with pytest.raises(SnnbenchError, match=f"class {protocol}, which chooses no epoch"):
                audit_run(finished[protocol][1], dataset, CPU)


# --- on the board


def test_every_class_verifies_and_none_is_mixed_with_another(finished: Any, tmp_path: Path):
    for protocol in "ABC":
        added = add_entry(
            [finished[protocol][1]],
            tmp_path / "board",
            shipped_tasks(),
            cover={"name": f"class-{protocol.lower()}"},
            provisional=True,
        )
        assert added.verified.ok
    with pytest.raises(SnnbenchError, match=r"seeds must differ|protocol"):
        add_entry(
            [finished["A"][1], finished["C"][1]],
            tmp_path / "board",
            shipped_tasks(),
            cover={"name": "mixed"},
            provisional=True,
        )


@pytest.mark.parametrize(
    ("protocol", "changes", "told"),
    [
        ("A", {"chosen_epoch": 1}, "chosen_epoch is 1"),
        ("B", {"chosen_epoch": 1, "epochs_run": 1}, "chosen_epoch|history"),
        ("B", {"folds": {}}, "folds of class B must be there"),
        ("C", {"epochs_run": 2, "chosen_epoch": 2}, "epochs_run is 2, class C does 3"),
        ("C", {"chosen_epoch": 1}, "in class C it is the last"),
        ("A", {"latency": ()}, "latency: missing in a record that tells what came with it"),
    ],
)
def test_an_epoch_that_the_rule_does_not_choose_is_found(
    finished: Any, tmp_path: Path, protocol: str, changes: dict[str, Any], told: str
):
    record, folder = finished[protocol]
    if record.chosen_epoch == changes.get("chosen_epoch"):
        changes = {**changes, "chosen_epoch": 2}
        told = "chosen_epoch is 2" if protocol == "A" else told
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "record.json").write_text(record.model_copy(update=changes).model_dump_json())
    with pytest.raises(SnnbenchError, match=told):
        add_entry([copy], tmp_path / "b", shipped_tasks(), cover={"name": "x"}, provisional=True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda ms: [*ms[:-1], moved(ms[-1], correct=ms[-1].test.correct - 1)],
            "latency ends with",
        ),
        (lambda ms: ms[:-1], r"latency\.seen_s must rise to 1\.4"),
        (lambda ms: [ms[1], ms[0], *ms[2:]], r"latency\.seen_s must rise"),
        (lambda ms: [moved(ms[0], total=21), *ms[1:]], "another number of samples"),
    ],
    ids=["another end", "no end", "times that fall", "other samples"],
)
def test_moments_that_do_not_lead_to_the_test_result_are_found(
    finished: Any, tmp_path: Path, change: Any, told: str
):
    record, folder = finished["A"]
    assert record.test.correct > 0
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    changed = record.model_copy(update={"latency": tuple(change(list(record.latency)))})
    (copy / "record.json").write_text(changed.model_dump_json())
    with pytest.raises(SnnbenchError, match=told):
        add_entry([copy], tmp_path / "b", shipped_tasks(), cover={"name": "x"}, provisional=True)


def moved(moment: Moment, **changes: int) -> Moment:
    return moment.model_copy(update={"test": moment.test.model_copy(update=changes)})


# --- what a record tells beside accuracy


def test_latency_ends_with_the_whole_sample_and_rises_in_time(finished: Any):
    record, _ = finished["A"]
    seen = [moment.seen_s for moment in record.latency]
    assert seen == pytest.approx([0.14 * k for k in range(1, 11)])
    assert record.latency[-1].test == record.test
    assert {moment.test.total for moment in record.latency} == {20}


def test_a_moment_is_what_a_shorter_recording_gives(finished: Any, data: Path, tmp_path: Path):
    record, folder = finished["A"]
    network, spec = load_network(folder / "model.safetensors")
    from snnbench.evaluate import predict

    cut = spec.model_copy(update={"task": spec.task.model_copy(update={"duration_s": 0.7})})
    with SpikeDataset.open(data) as dataset:
        test = dataset.split("test")
        whole = test.read(0, len(test))
        keep = whole.times < 0.7
        counts = np.add.reduceat(np.append(keep, 0), whole.offsets[:-1])
        short = whole.__class__(
            times=whole.times[keep],
            units=whole.units[keep],
            offsets=np.concatenate(([0], np.cumsum(counts))),
            labels=whole.labels,
            groups=whole.groups,
            source_ids=whole.source_ids,
        )
        expected = count_correct(predict(network, short, cut, CPU).predictions, whole.labels)
    moment = next(m for m in record.latency if m.seen_s == pytest.approx(0.7))
    assert moment.test == expected


def test_training_time_memory_and_size_are_told(finished: Any):
    record, folder = finished["B"]
    assert record.training_s > sum(e.seconds for e in record.history)  # folds take time, too
    assert 10e6 < record.peak_memory_bytes < 100e9
    network, _ = load_network(folder / "model.safetensors")
    tensors = [*network.parameters(), *network.buffers()]
    assert record.footprint.n_bytes == sum(t.numel() * t.element_size() for t in tensors)
    assert record.footprint.connection_sparsity == 0.0
    quiet = record.footprint.activation_sparsity
    [layer] = record.operations.spikes
    assert quiet[layer] == pytest.approx(1 - record.operations.spikes[layer] / (12 * 140))


# --- arithmetic


def test_the_best_number_of_epochs_by_hand():
    folds = {
        "a": [Counts(correct=n, total=10) for n in (3, 6, 6)],
        "b": [Counts(correct=n, total=5) for n in (4, 2, 2)],
    }
    assert best_epochs(folds) == 2  # 7, 8, 8: fewer at a tie
    assert all_folds(folds, 2) == Counts(correct=8, total=15)


def test_the_binomial_interval_of_none_and_of_half():
    low, high = binomial_interval(Counts(correct=0, total=10))
    assert low == 0
    # (1 - p)^10 = 0.025
    assert high == pytest.approx(1 - 0.025**0.1)
    low, high = binomial_interval(Counts(correct=50, total=100))
    assert low == pytest.approx(1 - high)
    assert low < 0.5 < high


def test_speakers_heard_before_are_counted_apart(finished: Any):
    record, _ = finished["A"]
    assert record.heard_before() == {"unseen": record.test}
    [name] = record.test_by_group
    known = record.data.model_copy(update={"groups": {**record.data.groups, "train": [name, "x"]}})
    assert record.model_copy(update={"data": known}).heard_before() == {"seen": record.test}
    both = {name: Counts(correct=3, total=5), "new": Counts(correct=1, total=15)}
    mixed = record.model_copy(update={"data": known, "test_by_group": both})
    assert mixed.heard_before() == {"seen": both[name], "unseen": both["new"]}


def test_groups_together():
    counts = {"a": Counts(correct=1, total=2), "b": Counts(correct=3, total=5)}
    assert pooled(counts, {"a", "b", "c"}) == Counts(correct=4, total=7)
    assert pooled(counts, {"c"}) is None
