"""The chart of the spoken digits: verdict by hand, a job that goes on, a walk through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from snnbench.studies import heidelberg_table as table
from snnbench.studies.study import Data, Job
from tests.commands import snnbench
from tests.tiny_data import write_dataset

DIGITS = table.Parameters()
SMALL = {"task": "randman", "model": "counts-linear", "seed": 0, "epochs": 3}


def result(test: float, **changes: Any) -> dict[str, Any]:
    facts = {
        "spiking": True,
        "classes": 20,
        "correct": round(200 * test),
        "total": 200,
        "test": test,
        "validation": test + 0.1,
        "by_speaker": {"04": test, "05": test},
        "epochs": 12,
        "chosen_epoch": 10,
        "parameters": 1000,
        "hidden_spikes": 100.0,
        "run": "a-run",
    }
    return {**facts, **changes}


def numbers(**models: tuple[float, ...]) -> dict[str, Any]:
    """What a study adds up to, of test accuracies by model and seed; _ stands for -."""
    p = table.Parameters(models=tuple(name.replace("_", "-") for name in models))
    results = [
        (
            Job("j", table.train, {"model": model, "task": "hd"}),
            result(test, spiking="lif" in model),
        )
        for model, tests in zip(p.models, models.values(), strict=True)
        for test in tests
    ]
    return table.summarise(p, results)


COUNTS, FEEDFORWARD, RECURRENT = (0.25, 0.26, 0.27), (0.43, 0.44, 0.45), (0.56, 0.57, 0.58)


def test_the_order_of_the_talk_is_seen():
    found = numbers(
        counts_linear=COUNTS, ff_lif=FEEDFORWARD, rec_lif_128=RECURRENT, lstm=(0.5,) * 3
    )
    verdict = table.judge(DIGITS, found)
    assert verdict.seen is True
    # sd 1 %, Student's t of 4.303 with two degrees of freedom, over the root of three seeds
    assert "ff-lif 44.0 ± 2.5 %" in verdict.sentence
    assert found["chance"] == 0.05
    assert found["data"] == "Heidelberg Digits, unseen speakers"
    assert {n: m["class"] for n, m in found["models"].items()} == {
        "counts-linear": "not spiking",
        "ff-lif": "SNN",
        "rec-lif-128": "SNN",
        "lstm": "not spiking",
    }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        # 4.9 % apart, half-widths of 2.48 % each
        ({"rec_lif_128": (0.479, 0.489, 0.499)}, "Rec-lif-128 does not beat ff-lif clearly."),
        ({"ff_lif": (0.2, 0.21, 0.22)}, "Ff-lif does not beat counts-linear clearly."),
        ({"counts_linear": (0.56, 0.57, 0.58)}, "; ff-lif does not beat counts-linear clearly."),
    ],
)
def test_a_pair_that_is_too_close_is_named(changes, says):
    told = {"counts_linear": COUNTS, "ff_lif": FEEDFORWARD, "rec_lif_128": RECURRENT, **changes}
    verdict = table.judge(DIGITS, numbers(**told))
    assert verdict.seen is False
    assert says in verdict.sentence


def test_a_little_more_than_both_half_widths_is_enough():
    found = numbers(counts_linear=COUNTS, ff_lif=FEEDFORWARD, rec_lif_128=(0.48, 0.49, 0.50))
    assert table.judge(DIGITS, found).seen is True  # 5 %, half-widths of 2.48 % each


def test_without_a_model_of_the_order_nothing_is_judged():
    verdict = table.judge(DIGITS, numbers(counts_linear=COUNTS, lstm=RECURRENT))
    assert verdict.seen is None
    assert "Without ff-lif, rec-lif-128" in verdict.sentence


def test_recorded_digits_are_taken_where_they_are_found(tmp_path):
    path = write_dataset(tmp_path / "here" / "hd.h5")
    p = table.Parameters(models=("cnn", "lstm"))
    found = table.jobs(p, (0, 1), Data((tmp_path / "here",)))
    assert [j.key for j in found] == ["cnn-seed0", "cnn-seed1", "lstm-seed0", "lstm-seed1"]
    assert {j.arguments["file"] for j in found} == {str(path)}
    assert {j.arguments["task"] for j in found} == {"hd"}
    [elsewhere, *_] = table.jobs(p, (0,), Data(()))
    assert elsewhere.arguments["task"] == "digits-synthetic"
    assert elsewhere.arguments["file"] == str(tmp_path / "data" / "digits-synthetic.h5")


@pytest.mark.parametrize("task", ["hd", "digits-synthetic"])
@pytest.mark.parametrize("model", DIGITS.models)
def test_every_model_has_a_run_on_both_tasks(task, model):
    spec = table.run_spec({"task": task, "model": model, "seed": 2, "epochs": 0}, "f" * 64)
    assert (spec.task.name, spec.model.name, spec.seed) == (task, model, 2)
    assert spec.train.epochs > 1
    changed = table.run_spec({"task": task, "model": model, "seed": 2, "epochs": 1}, "f" * 64)
    assert changed.train.epochs == 1


def test_a_stopped_run_goes_on_and_a_finished_one_is_taken(tmp_path):
    whole = table.train(SMALL, lambda fraction: None, tmp_path / "a" / "job.checkpoint")

    def stop_late(fraction: float) -> None:
        if fraction > 0.7:
            raise KeyboardInterrupt

    scratch = tmp_path / "b" / "job.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        table.train(SMALL, stop_late, scratch)
    told: list[float] = []
    resumed = table.train(SMALL, told.append, scratch)
    assert told[0] > 0.6  # not from the beginning
    assert resumed == whole
    assert (scratch.parent / whole["run"] / "record.json").is_file()
    told.clear()
    assert table.train(SMALL, told.append, scratch) == whole
    assert told == []


def test_a_trial_walks_the_whole_way(tmp_path):
    result = snnbench(
        "reproduce", "run", "heidelberg-table", "--trial", "--out", tmp_path, "--workers", "1",
        "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert answer["seen"] is None
    assert "generated" in answer["numbers"]["data"]
    assert set(answer["numbers"]["models"]) == {"counts-linear", "ff-lif"}
    for path in answer["files"]:
        assert Path(path).stat().st_size > 0
