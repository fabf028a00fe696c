"""A trial as a function: whatever happens in it is an outcome."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from snnbench.spec import RunSpec
from snnbench.train import fit
from snnbench.trial import TrialEpoch, TrialJob, TrialOutcome, run_trial
from tests.toy_spikes import toy_spec, toy_split

TRAIN, VALID = toy_split(24, seed=1), toy_split(20, seed=2)


def spec(seed: int = 0, **changes: Any) -> RunSpec:
    return toy_spec(seed=seed, **{"model__hidden": [8], "train__epochs": 3, **changes})


def run(
    *specs: RunSpec, stop_after: int = 99, **options: Any
) -> tuple[TrialOutcome, list[TrialEpoch]]:
    told: list[TrialEpoch] = []
    job = TrialJob(7, specs, "cpu", **options)
    outcome = run_trial(job, TRAIN, VALID, told.append, lambda: len(told) >= stop_after)
    return outcome, told


def test_the_outcome_is_that_of_training(tmp_path: Path) -> None:
    import torch

    result = fit(spec(), TRAIN, VALID, folder=tmp_path, device=torch.device("cpu"))
    assert result.validation is not None
    assert result.network is not None
    outcome, told = run(spec(), measure=True, show=True)
    assert outcome.state == "complete"
    assert outcome.accuracy == result.validation.accuracy
    assert outcome.epochs == 3
    assert outcome.message == ""
    assert outcome.seconds > 0
    assert [(r.seed, r.epoch, r.epochs) for r in told] == [(0, n, 3) for n in (1, 2, 3)]
    assert [r.accuracy for r in told] == [r.valid.accuracy for r in result.history if r.valid]
    assert told[0].metrics["valid_accuracy"] == told[0].accuracy
    assert told[0].metrics["system/peak_rss_mib"] > 0
    assert outcome.files["model.safetensors"] == (tmp_path / "model.safetensors").read_bytes()
    assert outcome.files["history.csv"].startswith(b"epoch,loss,")
    plain, _ = run(spec())
    assert (plain.spikes, plain.operations, plain.files) == (None, None, {})


def test_work_is_that_of_the_chosen_epoch_on_validation_data() -> None:
    """Spikes of the network as it was at its best, counted one by one."""
    import tempfile

    import torch

    from snnbench.data_prep.loader import SpikeLoader
    from snnbench.evaluate import evaluating

    # a rate so high that the last epoch is another network than the best
    wild = spec(train__lr=0.3, train__epochs=6)
    with tempfile.TemporaryDirectory() as folder:
        result = fit(wild, TRAIN, VALID, folder=Path(folder), device=torch.device("cpu"))
    assert result.chosen_epoch is not None
    assert result.chosen_epoch < 6
    assert result.network is not None
    loader = SpikeLoader(VALID, wild, torch.device("cpu"))
    with evaluating(result.network), torch.inference_mode():
        [batch] = loader.event_batches(256)
        counts = result.network(batch).spike_counts
    outcome, _ = run(wild, measure=True)
    assert outcome.spikes == pytest.approx(float(counts[0].sum()) / len(VALID))
    assert outcome.operations is not None
    # every input spike reaches 8 units, every hidden one 3
    arriving = len(VALID.times) / len(VALID)
    assert outcome.operations == pytest.approx(8 * arriving + 3 * (outcome.spikes or 0))


def test_several_seeds_count_as_their_mean() -> None:
    alone = [run(spec(seed), measure=True)[0] for seed in (3, 4)]
    together, told = run(spec(3), spec(4), measure=True)
    assert alone[0].accuracy != alone[1].accuracy
    assert together.accuracy == fmean(o.accuracy for o in alone if o.accuracy is not None)
    assert together.spikes == fmean(o.spikes for o in alone if o.spikes is not None)
    assert together.epochs == 6
    assert [(r.seed, r.epoch) for r in told] == [(s, e) for s in (0, 1) for e in (1, 2, 3)]


def test_it_ends_where_it_is_stopped() -> None:
    outcome, told = run(spec(), stop_after=2, show=True)
    assert (outcome.state, outcome.accuracy, outcome.epochs, len(told)) == ("pruned", None, 2, 2)
    assert outcome.files["history.csv"].count(b"\n") == 3


def test_a_loss_that_is_not_finite_is_an_outcome() -> None:
    lost: dict[str, Any] = {"train__activity__upper": 0.0, "train__activity__upper_strength": 3e38}
    outcome, _ = run(spec(**lost))
    assert outcome.state == "diverged"
    assert outcome.message == "loss or gradient not finite in epoch 1 of 3"
    second, told = run(spec(), spec(1, **lost))
    assert (second.state, second.accuracy, len(told)) == ("diverged", None, 3)
    assert second.message.startswith("seed 2 of 2: loss or gradient not finite")


def test_an_error_is_an_outcome() -> None:
    outcome, _ = run(spec(task__n_units=5))
    assert outcome.state == "error"
    assert "unit" in outcome.message


def test_an_error_of_whoever_listens_is_theirs() -> None:
    def tell(report: TrialEpoch) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_trial(TrialJob(0, (spec(),), "cpu"), TRAIN, VALID, tell, lambda: False)


def test_a_run_that_cannot_fit_is_out_of_memory() -> None:
    outcome, told = run(spec(model__hidden=[2_000_000_000], train__batch_size=16))
    assert (outcome.state, told) == ("oom", []), outcome.message
    assert "training takes about" in outcome.message
    assert "a smaller train.batch_size (now 16)" in outcome.message
