"""Every entry of the zoo builds for every task, learns a toy task and comes back from its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from snnbench.checkpoint import build_for, load_network
from snnbench.evaluate import predict
from snnbench.metrics import count_correct
from snnbench.spec import load_model, make_run_spec, model_names, task_names
from snnbench.train import fit
from tests.toy_spikes import SMALL, TOY_TASK, kind_of_model, toy_split

CPU = torch.device("cpu")


@pytest.mark.parametrize("task", task_names())
@pytest.mark.parametrize("model", model_names())
def test_builds_with_its_own_settings(model: str, task: str):
    spec = make_run_spec(task, model, seed=0, data_fingerprint="")
    network = build_for(spec, torch.Generator().manual_seed(0))
    spikes = torch.poisson(torch.full((spec.n_steps, 2, spec.n_channels), 0.3))
    output = network(spikes)
    assert output.logits.shape == (2, spec.task.n_classes)
    output.logits.sum().backward()


@pytest.mark.parametrize("model", model_names())
def test_names_its_source_and_searches_what_exists(model: str):
    entry = load_model(model)
    assert entry.name == model
    assert entry.source
    for key, space in entry.search.items():
        value = space["choices"][0] if "choices" in space else space["low"]
        make_run_spec("hd", model, seed=0, data_fingerprint="", overrides={key: value})


@pytest.mark.parametrize("model", model_names())
def test_has_a_card(model: str):
    card = Path(__file__).resolve().parents[1] / "models" / "cards" / f"{model}.md"
    assert card.read_text("utf-8").startswith(f"# {model}")


def small(model: str) -> dict[str, Any]:
    """Overrides that bring a model to the size of the toy data: 12 channels, 0.2 s, three classes."""
    settings = load_model(model).model
    overrides: dict[str, Any] = {
        **TOY_TASK,
        "train.dt_s": 0.005,
        "train.units_per_channel": 1,
        "train.bin_mode": "count",
        "train.batch_size": 32,
        "train.epochs": 10,
        "train.lr": 5e-3,
        "train.ema_decay": None,
        "train.augment": {},
        "model.dropout": 0.0,
    }
    if (kind := kind_of_model(model)) != "spiking":
        # these are small
        return {k: v for k, v in overrides.items() if k != "model.dropout"} | (
            SMALL["counts"] if kind == "counts" else {}
        )
    overrides["model.hidden"] = [24 for _ in settings["hidden"]]
    overrides["model.input_gain"] = 4.0
    if settings.get("norm") == "batch":
        # running figures take some tens of steps, and their time constants are longer than a sample
        overrides |= {"train.lr": 1e-2, "train.epochs": 25}
    if "conv" in settings:
        overrides["model.hidden"] = [4 for _ in settings["hidden"]]
        overrides["model.conv.kernels"] = [5 for _ in settings["hidden"]]
        overrides["model.conv.strides"] = [1 for _ in settings["hidden"]]
    if "max_s" in settings.get("delays", {}):
        overrides |= {"model.delays.max_s": 0.03, "train.schedule": "constant"}
    if "taps_s" in settings.get("delays", {}):
        overrides["model.delays.taps_s"] = [0.0, 0.02, 0.04]
    return overrides


@pytest.mark.parametrize("model", model_names())
def test_learns_a_toy_task_and_round_trips(model: str, tmp_path: Path):
    spec = make_run_spec(
        "digits-synthetic", model, seed=0, data_fingerprint="toy", overrides=small(model)
    )
    unseen = toy_split(100, seed=3)
    result = fit(spec, toy_split(160, seed=1), toy_split(60, seed=2), folder=tmp_path, device=CPU)
    assert result.network is not None
    before = predict(result.network, unseen, spec, CPU)
    # chance is 33 of 100; 60 would be a one in ten million accident
    assert count_correct(before.predictions, unseen.labels).correct > 60
    network, saved_spec = load_network(tmp_path / "model.safetensors")
    after = predict(network, unseen, saved_spec, CPU)
    assert before.predictions.tobytes() == after.predictions.tobytes()
    assert before.operations == after.operations
