"""The profile: times add up, layers are told apart, and nothing about the training changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from snnbench.models.engines import resolve_engine
from snnbench.profiling import NoProfile, Profile
from snnbench.train import FitResult, fit
from tests.toy_spikes import toy_spec, toy_split

CPU = torch.device("cpu")


def train(folder: Path, profile: NoProfile | None = None) -> FitResult:
    spec = toy_spec(
        "rec-lif",
        model__hidden=[16, 8],
        model__dropout=0.2,
        train__epochs=2,
        train__activity__upper_strength=0.1,
        train__activity__upper=0.0,
    )
    return fit(
        spec,
        toy_split(90, seed=1),
        toy_split(41, seed=2),
        folder=folder,
        device=CPU,
        profile=profile,
    )


def test_a_profile_changes_no_bit(tmp_path: Path):
    plain = train(tmp_path / "plain").network
    measured = train(tmp_path / "measured", Profile()).network
    assert plain is not None
    assert measured is not None
    for name, tensor in plain.state_dict().items():
        assert torch.equal(measured.state_dict()[name], tensor), name


def test_every_part_of_a_step_is_told(tmp_path: Path):
    profile = Profile()
    train(tmp_path, profile)
    assert profile.steps == 2 * 3  # epochs times batches
    calls = {part.name: part.calls for part in profile.parts}
    layers = ("hidden1", "hidden2", "readout")
    every_step = ["batches", "forward", "loss", "backward", "gradient norm", "optimiser"]
    every_step += [f"{way}, {layer}" for way in ("forward", "backward") for layer in layers]
    assert {name: calls[name] for name in every_step} == dict.fromkeys(every_step, 6)
    assert (calls["validation"], calls["saving"]) == (2, 2)
    assert set(calls) - set(every_step) == {
        "validation",
        "saving",
        "reading the spikes",
        "compiling",
        "other",
    }
    # the backward pass goes through the layers from above
    order = [part.name for part in profile.parts]
    assert order.index("backward, readout") < order.index("backward, hidden2")
    assert order.index("backward, hidden2") < order.index("backward, hidden1")
    assert order[-1] == "other"


def test_shares_add_up_and_the_engine_is_named(tmp_path: Path):
    profile = Profile()
    train(tmp_path, profile)
    facts = profile.facts()
    assert facts["engine"] == resolve_engine("auto", CPU)
    assert sum(part["share"] for part in facts["parts"]) == pytest.approx(1)
    assert sum(part["seconds"] for part in facts["parts"]) == pytest.approx(facts["seconds"])
    for part in facts["parts"]:
        assert part["ms_per_step"] == pytest.approx(1e3 * part["seconds"] / facts["steps"])
        assert part["seconds"] > 0


def test_an_outer_region_stands_still_while_an_inner_one_runs(monkeypatch: pytest.MonkeyPatch):
    now = iter([0.0, 1.0, 4.0, 9.0, 9.5, 10.0, 20.0, 20.5])
    monkeypatch.setattr("snnbench.profiling.time.perf_counter", lambda: next(now))
    profile = Profile()
    with profile.region("outer"), profile.region("inner"):  # from 0 to 9, from 1 to 4
        pass
    for _ in profile.each(
        "item", "a"
    ):  # made from 9.5 to 10; another is looked for from 20 to 20.5
        pass
    assert [tuple(part) for part in profile.parts] == [
        ("outer", 1.0 + 5.0, 1),
        ("inner", 3.0, 1),
        ("item", 0.5 + 0.5, 1),
    ]


def test_a_region_that_fails_is_closed():
    profile = Profile()
    with profile.region("outer"):
        with pytest.raises(ValueError, match="broken"), profile.region("inner"):
            raise ValueError("broken")
        with profile.region("next"):
            pass
    assert [part.calls for part in profile.parts] == [1, 1, 1]
