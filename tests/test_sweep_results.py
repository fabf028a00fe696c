"""What comes of a study: tables, importance, plots, the final training, a look from a browser."""

from __future__ import annotations

import csv
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from snnbench.cli.sweep import sweep_command
from snnbench.record import read_record
from snnbench.search_space import parse_space, read_search_file
from snnbench.study_store import Study, read_study
from snnbench.sweep import make_sweep, trial_seed
from snnbench.sweep_results import importances, write_table
from snnbench.tracking_store import make_client
from tests.commands import ROOT, snnbench, strict_json
from tests.test_sweep import arguments, data, run, toy_sweep  # noqa: F401
from tests.test_sweep_samplers import two_objectives

# slope has no meaning for accuracy within one epoch, the rate has
SEARCH: dict[str, dict[str, Any]] = {
    "train.lr": {"low": 1e-5, "high": 0.3, "log": True},
    "model.surrogate.kind": {"choices": ["superspike", "triangle"]},
    "model.surrogate.slope": {
        "low": 1.0,
        "high": 50.0,
        "when": {"model.surrogate.kind": "superspike"},
    },
}
PLOTS = ("history", "slice", "parallel-coordinates", "importance")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two studies: one with a condition, one with two objectives."""
    folder = tmp_path_factory.mktemp("studies")
    run(toy_sweep(SEARCH, train__epochs=2), folder, 8, sampler="random")
    run(two_objectives(), folder, 4)
    return folder


@pytest.fixture(scope="module")
def study(studies: Path) -> Study:
    return read_study(studies, toy_sweep(SEARCH, train__epochs=2).name)


@pytest.fixture(scope="module")
def front(studies: Path) -> Study:
    return read_study(studies, two_objectives().name)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_has_every_trial(suffix: str, studies: Path, study: Study, tmp_path: Path) -> None:
    path = tmp_path / f"trials{suffix}"
    told = snnbench("sweep", "export", study.name, "--studies", studies, "--out", path, "--json")
    assert strict_json(told.out) == {"file": str(path), "trials": 8}
    rows: list[dict[str, Any]]
    if suffix == ".csv":
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = parquet.read_table(path).to_pylist()
    by_number = {trial.number: trial for trial in study.trials}
    assert [int(row["number"]) for row in rows] == list(range(8))
    for row in rows:
        trial = by_number[int(row["number"])]
        assert row["state"] == trial.state
        assert float(row["accuracy"]) == trial.accuracy
        assert float(row["train.lr"]) == trial.params["train.lr"]
        slope = trial.params.get("model.surrogate.slope")
        assert row["model.surrogate.slope"] in (slope, "" if slope is None else str(slope))


def test_choices_of_several_kinds_are_text_in_parquet(study: Study, tmp_path: Path) -> None:
    mixed = [
        t._replace(params={"k": value})
        for t, value in zip(study.trials, [1, "a", 2.5], strict=False)
    ]
    write_table(study._replace(trials=mixed), tmp_path / "t.parquet")
    values = parquet.read_table(tmp_path / "t.parquet").column("k").to_pylist()
    assert sorted(values) == ["1", "2.5", "a"]


def test_a_table_of_another_ending_or_study_is_refused(
    studies: Path, study: Study, tmp_path: Path
) -> None:
    export = ("sweep", "export", "--studies", studies, "--out")
    wrong = snnbench(*export, tmp_path / "t.xlsx", study.name)
    assert (wrong.code, "a table ends in .csv or .parquet, found '.xlsx'" in wrong.err) == (2, True)
    wrong = snnbench(*export, tmp_path / "t.csv", study.name[:-1])
    assert (wrong.code, f"did you mean {study.name}" in wrong.err) == (2, True)
    assert not list(tmp_path.glob("t.*"))


def test_importance(studies: Path, study: Study, front: Study) -> None:
    shares = importances(studies, study.name)
    assert shares.keys() == SEARCH.keys()
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert importances(studies, front.name) == {"train.lr": pytest.approx(1)}
    shown = snnbench("sweep", "show", study.name, "--out", studies).out
    assert "decides about accuracy (PED-ANOVA): " in shown


def test_what_decides_is_found(tmp_path: Path) -> None:
    """Of two numbers, the one that good trials agree about; large values are good ones."""
    import optuna

    url = f"sqlite:///{tmp_path}/known.db"
    store = optuna.storages.RDBStorage(url)
    known = optuna.create_study(storage=store, study_name="known", direction="maximize")
    for i in range(40):
        x, y = i / 40, (7 * i % 40) / 40
        distribution = optuna.distributions.FloatDistribution(0, 1)
        known.add_trial(
            optuna.create_trial(
                params={"x": x, "y": y},
                distributions={"x": distribution, "y": distribution},
                value=x if x > 0.8 else 0.1 * y,
            )
        )
    store.remove_session()
    store.engine.dispose()
    assert importances(tmp_path, "known")["x"] > 0.8


def test_the_front_is_shown(studies: Path, front: Study) -> None:
    shown = snnbench("sweep", "show", front.name, "--out", studies)
    assert f"Pareto front: trials {', '.join(map(str, front.front))}" in shown.out
    told = strict_json(snnbench("sweep", "show", front.name, "--out", studies, "--json").out)
    assert told["front"] == list(front.front)
    assert told["objectives"] == ["accuracy", "spikes"]


def test_plots(studies: Path, study: Study, front: Study, tmp_path: Path) -> None:
    for found, names in ((study, PLOTS), (front, (*PLOTS, "pareto"))):
        out = tmp_path / found.name
        told = snnbench("sweep", "plot", found.name, "--studies", studies, "--out", out, "--json")
        assert told.code == 0, told.err
        wanted = {str(out / f"{name}{suffix}") for name in names for suffix in (".svg", ".png")}
        assert set(strict_json(told.out)) == wanted
        for path in map(Path, wanted):
            assert path.stat().st_size > 2000
        assert "surrogate.kind" in (out / "slice.svg").read_text() or found is front
        assert "validation accuracy" in (out / "history.svg").read_text()
    # there was no MLflow store, and none was made for this
    assert not (tmp_path / "home").exists()


def test_a_study_without_trials_has_no_plots(tmp_path: Path) -> None:
    study = run(toy_sweep(), tmp_path, 3, timeout_s=0)
    told = snnbench("sweep", "plot", study.name, "--studies", tmp_path, "--out", tmp_path / "p")
    assert told.code == 1
    assert "nothing to draw before there are two complete trials, only no trials" in told.err


def test_plots_are_shown_in_mlflow(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    study = run(toy_sweep(train__epochs=1), tmp_path, 2, track=True, tracking_uri=store)
    plot = ("sweep", "plot", study.name, "--studies", tmp_path, "--out", tmp_path / "p")
    assert snnbench(*plot, "--no-track", "--tracking-uri", store).code == 0
    client = make_client(store)
    experiment = client.get_experiment_by_name("digits-synthetic").experiment_id
    [parent] = client.search_runs([experiment], f"tags.`snnbench.parent` = '{study.name}'")
    assert not client.list_artifacts(parent.info.run_id)
    assert snnbench(*plot, "--tracking-uri", store).code == 0
    shown = {f.path for f in client.list_artifacts(parent.info.run_id, "pictures")}
    assert {"pictures/history.svg", "pictures/history.png"} <= shown


def test_a_sweep_ends_with_its_plots_in_mlflow(data: Path, tmp_path: Path) -> None:  # noqa: F811
    store = f"sqlite:///{tmp_path}/mlflow.db"
    command = ("sweep", "run", *arguments(data), "--workers", 1, "--tracking-uri", store, "--json")
    for trials, shown in ((1, False), (2, True)):  # one trial is nothing to draw
        ran = snnbench(*command, "--trials", trials)
        assert ran.code == 0, ran.err
        name = strict_json(ran.out)["study"]
        client = make_client(store)
        experiment = client.get_experiment_by_name("hd").experiment_id
        [parent] = client.search_runs([experiment], f"tags.`snnbench.parent` = '{name}'")
        files = {f.path for f in client.list_artifacts(parent.info.run_id, "pictures")}
        assert ("pictures/history.svg" in files) is shown


def test_the_best_is_trained_with_fresh_seeds(data: Path, tmp_path: Path) -> None:  # noqa: F811
    space = ("--space", "model.dropout=0.0,0.3", "--space", "train.lr=1e-3:1e-1:log")
    assert (
        snnbench(
            "sweep", "run", *arguments(data), *space, "--workers", 1, "--trials", 3, "--no-track"
        ).code
        == 0
    )
    final = (
        "--train-final",
        "--seeds",
        2,
        "--runs",
        tmp_path / "runs",
        "--no-track",
        "--workers",
        1,
    )
    done = snnbench("sweep", "best", *arguments(data), *space, *final, "--json")
    assert done.code == 0, done.err
    told = strict_json(done.out)
    assert [r["record"]["spec"]["seed"] for r in told["runs"]] == [0, 1]
    for run_facts in told["runs"]:
        record = read_record(Path(run_facts["folder"]) / "record.json")
        assert record.tuning_trials == 3
        assert record.test_reads == 1
        assert record.spec.train.lr == told["values"]["train.lr"]
        assert record.spec.model.dropout == told["values"]["model.dropout"]  # type: ignore[union-attr]
        assert record.spec.seed not in [trial_seed(0, n) for n in range(3)]
    # what `bench` makes with the printed command is the same run
    program, *words = told["command"]
    assert program == "snnbench"
    bench = snnbench(*words, "--seeds", 2, "--out", tmp_path / "runs", "--no-track", "--json")
    assert bench.code == 0, bench.err
    assert "finished already" in bench.err
    assert strict_json(bench.out)["runs"] == told["runs"]

    other = snnbench("sweep", "best", *arguments(data), *space, "--trial", 2, "--json")
    assert strict_json(other.out)["trial"] == 2
    none = snnbench("sweep", "best", *arguments(data), *space, "--trial", 9)
    assert (none.code, "has no complete trial of this number" in none.err) == (2, True)


def test_a_search_space_of_ones_own(data: Path, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "mine.toml"
    file.write_text('[search]\n"train.lr" = { choices = [0.01, 0.02] }\n')
    sweep = ("sweep", "run", *arguments(data), "--search", file, "--no-track", "--json")
    done = snnbench(*sweep, "--workers", 1, "--trials", 9, "--sampler", "grid")
    assert done.code == 0, done.err
    told = strict_json(done.out)
    assert told["finished"] == 2
    assert sorted(t["params"]["train.lr"] for t in told["trials"]) == [0.01, 0.02]
    assert "the grid is done after 2 of 9 trials" in done.err
    shown = snnbench("sweep", "show", *arguments(data), "--search", file, "--json")
    assert strict_json(shown.out)["study"] == told["study"]
    two = snnbench(*sweep, "--trials", 1, "--objective", "accuracy,spikes")
    assert strict_json(two.out)["pruner"]["name"] == "none"
    assert "no trial is ended early" in two.err
    file.write_text('[search]\n"train.lrr" = { choices = [0.01] }\n')
    wrong = snnbench(*sweep, "--trials", 1)
    assert wrong.code == 2
    assert f"{file}: search: unknown key 'train.lrr'" in wrong.err


def test_the_page_shows_a_search_space_that_works(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "sweeps.md").read_text("utf-8")
    [block] = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "mine.toml"
    file.write_text(block)
    search = read_search_file(file)
    assert make_sweep("hd", "ff-lif", search, data_fingerprint="").space.tables == search
    spaces = re.findall(r"--space (\S+=\S+)(?:\s|$)", text, re.MULTILINE)
    assert len(parse_space(spaces)) == 3
    verbs = re.findall(r"^    snnbench sweep (.*?)(?: +#.*)?$", text, re.MULTILINE)
    assert {verb.split()[0] for verb in verbs} == {"run", "show", "best", "export", "plot"}
    for verb in verbs:
        name, *options = verb.split()
        known = [o for p in sweep_command.commands[name].params for o in p.opts]
        assert {o for o in options if o.startswith("--")} <= set(known), verb


def test_optuna_dashboard_opens_the_store(studies: Path, study: Study, front: Study) -> None:
    pytest.importorskip("optuna_dashboard", reason="needs optuna-dashboard, snnbench[dashboard]")
    program = Path(sys.executable).with_name("optuna-dashboard")
    if not program.exists():
        pytest.skip("needs the command optuna-dashboard, snnbench[dashboard]")
    for found in (study, front):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen(
            [
                *(program, f"sqlite:///{studies / found.name}.db"),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            listed = answer_of(server, f"http://127.0.0.1:{port}/api/studies")
            [told] = listed["study_summaries"]
            assert told["study_name"] == found.name
            detail = f"http://127.0.0.1:{port}/api/studies/{told['study_id']}?after=0"
            trials = answer_of(server, detail)["trials"]
            assert [t["number"] for t in trials] == list(range(len(found.trials)))
        finally:
            server.kill()
            server.wait()
        # it has looked, no more
        assert read_study(studies, found.name) == found


def answer_of(server: subprocess.Popen[bytes], url: str) -> Any:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)
        except OSError:
            assert server.poll() is None, "optuna-dashboard has ended"
            assert time.monotonic() < deadline, "optuna-dashboard does not answer"
            time.sleep(0.1)
