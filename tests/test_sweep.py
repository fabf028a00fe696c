"""Sweeps: what is searched, studies that go on where they were, no sight of test data."""

from __future__ import annotations

import shlex
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import optuna
import pytest
import torch

from snnbench.cli.sweep_text import setting
from snnbench.data_prep.store import Sample, SpikeDataset
from snnbench.errors import SnnbenchError, UsageError
from snnbench.model_spec import ModelSpec
from snnbench.record import read_record
from snnbench.spec import load_model, model_names, parse_overrides, task_names
from snnbench.study_store import Study, Trial, read_study, study_names, study_path
from snnbench.sweep import Progress, Sweep, make_sweep, run_sweep
from tests.test_cli import snnbench, strict_json
from tests.tiny_data import make_samples, write_dataset
from tests.toy_spikes import TOY_TASK, toy_split

TRAIN, VALID = toy_split(24, seed=1), toy_split(20, seed=2)
QUICK = {
    **TOY_TASK,
    "model.hidden": [8],
    "model.input_gain": 3.0,
    "train.units_per_channel": 1,
    "train.batch_size": 12,
    "train.epochs": 2,
}
SEARCH: dict[str, dict[str, Any]] = {
    "train.lr": {"low": 1e-4, "high": 0.1, "log": True},
    "model.dropout": {"low": 0.0, "high": 0.5},
}


def toy_sweep(search: dict[str, dict[str, Any]] = SEARCH, **changes: Any) -> Sweep:
    """A sweep on the toy data; write dots in keys as two underscores."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return make_sweep(
        "digits-synthetic",
        "ff-lif",
        search,
        data_fingerprint="toy",
        overrides={**QUICK, **dotted},
    )


def run(sweep: Sweep, folder: Path, trials: int, **options: Any) -> Study:
    options = {"device": torch.device("cpu"), **options}
    return run_sweep(sweep, TRAIN, VALID, folder=folder, trials=trials, **options)


def by_number(study: Study) -> list[Trial]:
    """Trials in the order they were run, without what the clock says."""
    return sorted(t._replace(seconds=None) for t in study.trials)


# --- the search space


@pytest.mark.parametrize("task", task_names())
@pytest.mark.parametrize("model", model_names())
def test_every_zoo_entry_can_be_searched(task: str, model: str) -> None:
    search = load_model(model).search
    sweep = make_sweep(task, model, search, data_fingerprint="")
    assert sweep.search == search
    assert sweep.name.startswith(f"{task}-{model}-")


def test_values_have_the_kind_of_their_bounds(tmp_path: Path) -> None:
    sweep = toy_sweep(
        {
            "train.batch_size": {"low": 6, "high": 24, "step": 6},
            "train.patience": {"low": 1, "high": 64, "log": True},
            "model.dropout": {"low": 0, "high": 0.5, "step": 0.25},
            "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "train.betas": {"choices": [[0.9, 0.99], [0.8, 0.99]]},
            "train.optimiser": {"choices": ["adam", "adamax"]},
        },
        train__epochs=1,
    )
    # what is given is fixed, in every trial
    assert "train.batch_size" not in sweep.search
    seen = [sweep.values(t.params) for t in run(sweep, tmp_path, 4).trials]
    for values in seen:
        spec = sweep.trial_spec(values, seed=3)
        assert spec.seed == 3
        assert (spec.train.batch_size, spec.train.epochs) == (12, 1)
        assert spec.train.patience == values["train.patience"]
        assert type(values["train.patience"]) is int
        assert 1 <= values["train.patience"] <= 64
        assert values["model.dropout"] in (0.0, 0.25, 0.5)
        assert 1e-4 <= spec.train.lr <= 1e-2
        assert values["train.betas"] in ([0.9, 0.99], [0.8, 0.99])
        assert spec.train.betas == tuple(values["train.betas"])
    assert {values["train.optimiser"] for values in seen} == {"adam", "adamax"}
    assert len({values["train.lr"] for values in seen}) == 4


@pytest.mark.parametrize(
    ("key", "table", "message"),
    [
        ("train.lrr", {"low": 0.1, "high": 0.2}, r"search: unknown key 'train\.lrr'.*train\.lr"),
        ("trian.lr", {"low": 0.1, "high": 0.2}, r"unknown key 'trian\.lr'; did you mean train"),
        ("model.neuron.tau", {"choices": [0.1]}, r"unknown key 'model\.neuron\.tau'"),
        ("train.lr", {"low": 0.1, "hihg": 0.2}, r"unknown key '.*lr\.hihg'; did you .*lr\.high"),
        ("train.lr", {"choices": [0.1], "log": True}, r"unknown key '.*search\.train\.lr\.log'"),
        ("train.lr", {"low": 0.1}, r"search\.train\.lr: needs numbers low and high, or choices"),
        ("train.lr", {"low": "0.1", "high": 0.2}, r"search\.train\.lr: needs numbers"),
        ("train.lr", {"low": False, "high": True}, r"search\.train\.lr: needs numbers"),
        ("train.lr", {"choices": []}, r"search\.train\.lr\.choices: needs a list"),
        ("train.lr", {"choices": "abc"}, r"search\.train\.lr\.choices: needs a list"),
        ("train.lr", {"low": 0.2, "high": 0.1}, r"search\.train\.lr: .*low <= high"),
        ("train.lr", {"low": 0.0, "high": 0.1, "log": True}, r"search\.train\.lr: .*low > 0"),
        ("train.lr", {"low": 0.1, "high": 0.2, "step": 0.03}, r"search\.train\.lr: .*step"),
        ("train.lr", {"low": 1e-3, "high": 1e3}, r"search: train\.lr: .*100"),
        ("train.patience", {"low": 0, "high": 3}, r"search: train\.patience: .*1.* found 0"),
        ("train.optimiser", {"choices": ["adam", "lion", "adamax"]}, r"train\.optimiser: .*'lion'"),
        ("train.optimiser", {"choices": [date(2020, 1, 1)]}, r"search\.train\.optimiser: .*JSON"),
    ],
)
def test_a_wrong_search_space_is_refused_with_its_path(
    key: str, table: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        toy_sweep({"model.dropout": SEARCH["model.dropout"], key: table})


def test_nothing_to_search_is_told() -> None:
    with pytest.raises(SnnbenchError, match=r"zoo/ff-lif\.toml: has no \[search\] table"):
        toy_sweep({})
    with pytest.raises(UsageError, match=r"every key .* is set already: train\.lr, model\.dropout"):
        toy_sweep(train__lr=0.1, model__dropout=0.1)
    with pytest.raises(UsageError, match=r"^unknown key 'train\.lrr'"):
        toy_sweep(train__lrr=0.1)


def test_another_space_setting_or_data_is_another_study() -> None:
    base = toy_sweep()
    wider = {**SEARCH, "model.dropout": {"low": 0.0, "high": 0.6}}
    other_data = make_sweep(
        "digits-synthetic", "ff-lif", SEARCH, data_fingerprint="other", overrides=QUICK
    )
    others = [toy_sweep(wider), toy_sweep(train__epochs=3), toy_sweep(train__lr=0.1), other_data]
    assert len({base.name, *(other.name for other in others)}) == 5
    # a default said aloud changes nothing
    assert toy_sweep(train__weight_decay=0.0).name == base.name


# --- studies


def test_a_sweep_in_two_parts_is_the_sweep_in_one(tmp_path: Path) -> None:
    sweep = toy_sweep()
    first = by_number(run(sweep, tmp_path / "parts", 2))
    assert [t.state for t in first] == ["complete"] * 2
    both = run(sweep, tmp_path / "parts", 4)
    assert by_number(both)[:2] == first
    assert both.finished == 4
    accuracies = [t.accuracy for t in both.trials]
    assert accuracies == sorted(accuracies, key=lambda a: -(a or 0))
    assert len(set(accuracies)) > 1
    assert both.best == both.trials[0]
    assert len({str(t.params) for t in both.trials}) == 4
    assert by_number(run(sweep, tmp_path / "one", 4)) == by_number(both)
    # enough trials are enough
    assert run(sweep, tmp_path / "parts", 3) == both
    assert read_study(tmp_path / "parts", sweep.name) == both
    assert study_names(tmp_path / "parts") == [sweep.name]
    [other] = run(sweep, tmp_path / "seed", 1, seed=1).trials
    assert other.params not in [t.params for t in first]


def test_progress_tells_epochs_and_the_best(tmp_path: Path) -> None:
    told: list[Progress] = []
    study = run(toy_sweep(), tmp_path, 2, on_progress=told.append)
    assert [(p.finished, p.epoch) for p in told] == [
        *((0, 0), (0, 1), (0, 2)),
        *((1, 0), (1, 1), (1, 2)),
        (2, 0),
    ]
    assert {(p.trials, p.epochs, p.failed) for p in told} == {(2, 2, 0)}
    assert told[0].best is None
    assert study.best is not None
    assert told[-1].best == study.best.accuracy


def test_a_diverged_trial_is_recorded_and_the_sweep_goes_on(tmp_path: Path) -> None:
    # an activity bound so strong that its loss leaves the range of float32
    strength = {"train.activity.upper_strength": {"choices": [0.0, 3e38]}}
    sweep = toy_sweep(strength, train__activity__upper=0.0)
    study = run(sweep, tmp_path, 4)
    assert study.finished == len(study.trials) == 4
    assert set(study.states) == {"complete", "diverged"}
    for trial in study.trials:
        diverged = trial.params["train.activity.upper_strength"] > 0
        assert trial.state == ("diverged" if diverged else "complete")
        assert (trial.accuracy is None) == diverged
    first = by_number(study)
    assert "complete" in [t.state for t in first[[t.state for t in first].index("diverged") :]]


def test_a_sweep_of_diverged_trials_ends(tmp_path: Path) -> None:
    study = run(
        toy_sweep(train__activity__upper_strength=3e38, train__activity__upper=0.0), tmp_path, 2
    )
    assert (study.states, study.finished, study.best) == ({"diverged": 2}, 2, None)


def test_a_poor_trial_is_pruned(tmp_path: Path) -> None:
    sweep = toy_sweep({"train.lr": {"choices": [0.05, 1e-7]}}, train__epochs=3)
    study = run(sweep, tmp_path, 9)
    pruned = [t for t in study.trials if t.state == "pruned"]
    assert pruned
    assert study.finished == 9
    for trial in pruned:
        assert trial.number >= 5
        assert 1 <= trial.epochs < 3
        assert trial.params == {"train.lr": 1e-7}
        assert study.best is not None
        assert trial.accuracy is not None
        assert study.best.accuracy is not None
        assert trial.accuracy < study.best.accuracy


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    sweep = toy_sweep()

    def stop(progress: Progress) -> None:
        if (progress.finished, progress.epoch) == (1, 1):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(sweep, tmp_path, 3, on_progress=stop)
    stopped = by_number(read_study(tmp_path, sweep.name))
    assert [t.state for t in stopped] == ["complete", "stopped"]
    study = run(sweep, tmp_path, 3)
    assert by_number(study)[:2] == stopped
    assert study.states == {"complete": 3, "stopped": 1}
    assert study.finished == 3


def test_a_trial_of_a_killed_process_does_not_run_for_ever(tmp_path: Path) -> None:
    sweep = toy_sweep()
    run(sweep, tmp_path, 1)
    storage = optuna.storages.RDBStorage(f"sqlite:///{study_path(tmp_path, sweep.name)}")
    optuna.load_study(storage=storage, study_name=sweep.name).ask()
    storage.remove_session()
    storage.engine.dispose()
    assert read_study(tmp_path, sweep.name).states == {"complete": 1, "running": 1}
    assert run(sweep, tmp_path, 2).states == {"complete": 2, "stopped": 1}


def test_one_process_at_a_time(tmp_path: Path) -> None:
    sweep = toy_sweep()
    refused = []

    def second(progress: Progress) -> None:
        with pytest.raises(SnnbenchError, match="another process is running this sweep") as error:
            run(sweep, tmp_path, 9)
        refused.append(error)

    assert run(sweep, tmp_path, 1, on_progress=second).finished == 1
    assert len(refused) == 4


def test_no_trial_begins_after_the_time(tmp_path: Path) -> None:
    assert run(toy_sweep(), tmp_path, 3, timeout_s=0).trials == []


@pytest.mark.parametrize("folder", ["a b%20c", "what? {really} #1 ü"])
def test_any_folder_will_do(tmp_path: Path, folder: str) -> None:
    sweep = toy_sweep()
    study = run(sweep, tmp_path / folder, 1, timeout_s=0)
    assert study.place == str(tmp_path / folder / f"{sweep.name}.db")
    assert Path(study.place).is_file()


def test_a_missing_or_damaged_study_is_named(tmp_path: Path) -> None:
    sweep = toy_sweep()
    path = study_path(tmp_path, sweep.name)
    with pytest.raises(SnnbenchError, match=f"{path}: no such study yet"):
        read_study(tmp_path, sweep.name)
    assert not path.exists()

    run(sweep, tmp_path, 1)
    whole = path.read_bytes()
    middle = len(whole) // 2
    damages = [
        b"no database" * 1000,
        whole[:middle],
        whole[:8192] + b"\xff" * middle + whole[8192 + middle :],
    ]
    for damage in damages:
        path.write_bytes(damage)
        for attempt in (lambda: read_study(tmp_path, sweep.name), lambda: run(sweep, tmp_path, 2)):
            with pytest.raises(SnnbenchError, match=f"{path}: cannot be used as a study: "):
                attempt()
        assert path.read_bytes() == damage
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE runs (name)")
        other.commit()
    before = path.read_bytes()
    with pytest.raises(SnnbenchError, match="cannot be used as a study: no such table: studies"):
        read_study(tmp_path, sweep.name)
    assert path.read_bytes() == before
    path.unlink()
    path.mkdir()
    with pytest.raises(SnnbenchError, match=f"{path}: cannot be used as a study: "):
        run(sweep, tmp_path, 2)


# --- test data


def silenced(samples: list[Sample]) -> list[Sample]:
    return [s._replace(times=s.times[:0], units=s.units[:0], label=0) for s in samples]


def test_test_data_changes_nothing(tmp_path: Path) -> None:
    studies = []
    for name, poison in (("clean", list), ("poisoned", silenced)):
        splits = {
            "train": make_samples("train", 20, 0),
            "valid": make_samples("valid", 20, 2),
            "test": poison(make_samples("test", 20, 3)),
        }
        with SpikeDataset.open(write_dataset(tmp_path / f"{name}.h5", splits)) as dataset:
            sweep = make_sweep(
                "hd",
                "ff-lif",
                SEARCH,
                data_fingerprint=dataset.fingerprint,
                overrides={
                    "model.hidden": [8],
                    "model.input_gain": 12.0,
                    "train.units_per_channel": 20,
                    "train.epochs": 1,
                },
            )
            splits_read = dataset.split("train"), dataset.split("valid")
            studies.append(
                run_sweep(
                    sweep, *splits_read, folder=tmp_path, trials=2, device=torch.device("cpu")
                )
            )
    clean, poisoned = studies
    assert clean.name != poisoned.name
    assert by_number(clean) == by_number(poisoned)


# --- the commands


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "hd.h5")


def arguments(data: Path) -> list[object]:
    settings = ("model.hidden=[8]", "train.units_per_channel=35", "train.epochs=1")
    sets = [word for text in settings for word in ("--set", text)]
    return ["hd", "ff-lif", "--data", data, *sets]


@pytest.fixture
def optuna_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What Optuna logs; it keeps a hold of the first stderr, where nobody else would see it."""
    optuna.logging.enable_propagation()
    yield caplog
    optuna.logging.disable_propagation()


def test_run_show_and_best(
    data: Path, tmp_path: Path, optuna_log: pytest.LogCaptureFixture
) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    nothing = snnbench("sweep", "show")
    assert nothing.code == 0
    assert "no studies yet" in nothing.out
    for verb in ("show", "best"):
        missing = snnbench("sweep", verb, *arguments(data))
        assert missing.code == 1
        assert "no such study yet; `snnbench sweep run` begins it" in missing.err

    ran = snnbench("sweep", "run", *arguments(data), "--workers", 1, "--trials", 2, "--json")
    assert ran.code == 0, ran.err
    told = strict_json(ran.out)
    assert (told["finished"], told["states"]) == (2, {"complete": 2})
    assert "best=" in ran.err
    assert not [r for r in optuna_log.records if r.name.startswith("optuna")]

    for named in (arguments(data), [told["study"]]):
        shown = strict_json(snnbench("sweep", "show", *named, "--json").out)
        assert shown.pop("importances").keys() <= told["best"]["params"].keys()
        assert shown == told
    [listed] = strict_json(snnbench("sweep", "show", "--json").out)
    assert listed == {key: value for key, value in told.items() if key != "trials"}
    table = snnbench("sweep", "show", told["study"]).out
    assert "surrogate.slope" in table
    assert "2 complete" in table
    assert told["study"] in snnbench("sweep", "show").out
    wrong = snnbench("sweep", "show", told["study"][:-1])
    assert wrong.code == 2
    assert f"did you mean {told['study']}?" in wrong.err

    best = snnbench("sweep", "best", *arguments(data), "--json")
    assert best.code == 0, best.err
    facts = strict_json(best.out)
    assert facts["validation_accuracy"] == told["best"]["accuracy"]
    assert facts["values"] == told["best"]["params"]
    lines = snnbench("sweep", "best", *arguments(data)).out.splitlines()
    assert shlex.split(lines[-2]) == facts["settings"]
    program, *words = shlex.split(lines[-1])
    assert [program, *words] == facts["command"]

    runs = ("--seeds", 1, "--no-track", "--out", tmp_path / "runs")
    bench = snnbench(*words, *runs, "--json")
    assert bench.code == 0, bench.err
    [run_facts] = strict_json(bench.out)["runs"]
    record = read_record(Path(run_facts["folder"]) / "record.json")
    assert record.tuning_trials == 2
    assert record.spec.train.lr == facts["values"]["train.lr"]
    assert isinstance(record.spec.model, ModelSpec)
    assert record.spec.model.dropout == facts["values"]["model.dropout"]
    assert record.spec.model.hidden == (8,)


def test_best_of_a_study_without_complete_trials(data: Path) -> None:
    ran = snnbench("sweep", "run", *arguments(data), "--workers", 1, "--trials", 2, "--timeout", 0)
    assert ran.code == 0
    assert "time is up after 0 of 2 trials; the same command goes on" in ran.err
    best = snnbench("sweep", "best", *arguments(data))
    assert best.code == 1
    assert "no complete trial yet, only no trials" in best.err


values = st.one_of(
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1),
    st.lists(st.integers(1, 1000), min_size=1),
)


@hypothesis.given(values)
def test_a_printed_setting_is_read_back_as_it_was(value: Any) -> None:
    read = parse_overrides([setting("train.lr", value)])
    assert read == {"train.lr": value}
    assert type(read["train.lr"]) is type(value)
