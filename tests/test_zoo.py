"""Every entry of the zoo builds for every task, learns a toy task and comes back from its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from snnbench.checkpoint import build_for, load_network
from snnbench.evaluate import predict
from snnbench.metrics import count_correct
from snnbench.spec import load_model, make_run_spec, model_names, task_names
from snnbench.train import fit
from tests.toy_spikes import small, toy_split

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
