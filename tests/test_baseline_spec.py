"""Specifications of baselines: what is refused, in which words; and what a changed kind does to an entry."""

from __future__ import annotations

from typing import Any

import pytest

from snnbench.baseline_spec import CnnSpec, CountsSpec, LstmSpec
from snnbench.errors import UsageError
from snnbench.model_spec import AdlifSpec, ModelSpec
from snnbench.spec import RunSpec, make_run_spec


def run_spec(model: str, overrides: dict[str, Any]) -> RunSpec:
    return make_run_spec("hd", model, seed=0, data_fingerprint="", overrides=overrides)


def test_a_spiking_model_is_written_as_before():
    spec = run_spec("ff-lif", {})
    assert isinstance(spec.model, ModelSpec)
    assert "spiking" not in spec.canonical_json() + spec.model_dump_json()
    assert run_spec("ff-lif", {"model.kind": "spiking"}) == spec
    # the first run of the entry that ships, by what it is called there
    assert RunSpec.model_validate_json(spec.canonical_json()) == spec


@pytest.mark.parametrize(
    ("name", "kind"), [("lstm", LstmSpec), ("cnn", CnnSpec), ("counts-linear", CountsSpec)]
)
def test_a_baseline_is_one_of_its_kind_and_comes_back(name: str, kind: Any):
    spec = run_spec(name, {})
    assert isinstance(spec.model, kind)
    for text in (spec.canonical_json(), spec.model_dump_json()):
        assert RunSpec.model_validate_json(text) == spec


@pytest.mark.parametrize(
    ("model", "key", "value", "told"),
    [
        ("lstm", "model.hiden", 3, "unknown key 'model.hiden'; did you mean model.hidden"),
        ("lstm", "model.neuron.kind", "adlif", "unknown key 'model.neuron'"),
        ("lstm", "model.hidden", [], "model.hidden: needs one number or more, each at least 1"),
        ("lstm", "model.hidden", [8, 0], "model.hidden: needs one number or more, each at least 1"),
        ("lstm", "model.reduce", "maxx", "model.reduce: unknown reduce 'maxx'; did you mean max"),
        ("lstm", "model.kind", "lstmm", "model: unknown kind 'lstmm'; did you mean lstm?"),
        ("lstm", "model.kind", "spikin", "model: unknown kind 'spikin'; did you mean spiking?"),
        ("cnn", "model.kernel", [4, 5], "model: kernel = (4, 5) needs odd sizes"),
        ("cnn", "model.kernel", [5], "kernel = (5,) and stride = (2, 2) need one number each"),
        ("cnn", "model.stride", [0, 2], "model.stride: needs one number or more, each at least 1"),
        ("cnn", "model.norm", "layer", "model.norm: unknown norm 'layer'"),
        ("counts-linear", "model.time_bins", 0, "model.time_bins: input should be greater"),
        (
            "counts-linear",
            "model.time_bins",
            141,
            "model.time_bins = 141 is more than the input's time steps; take at most 140",
        ),
        (
            "counts-linear",
            "model.channel_bins",
            141,
            "model.channel_bins = 141 is more than the input's channels; take at most 140",
        ),
        (
            "cnn",
            "train.activity.upper_strength",
            0.06,
            "train.activity.upper_strength = 0.06 bounds spikes in spiking layers, and a model of kind"
            " cnn has none; leave it at 0",
        ),
        ("lstm", "train.activity.lower_strength", 1, "train.activity.lower_strength = 1.0 bounds"),
        (
            "lstm",
            "train.recompute_steps",
            10,
            "train.recompute_steps = 10 cuts time into stretches in spiking layers, and a model of"
            " kind lstm has none; leave it out",
        ),
        (
            "cnn",
            "train.precision",
            "bfloat16",
            "train.precision = bfloat16 is of products in spiking layers, and a model of kind cnn has none;"
            " leave it at float32",
        ),
        (
            "counts-linear",
            "train.delay_lr",
            0.1,
            "train.delay_lr = 0.1 is for delays in spiking layers",
        ),
        ("lstm", "train.lrr", 1, "unknown key 'train.lrr'; did you mean train.lr"),
    ],
)
def test_what_does_not_fit_is_told_with_its_key(model: str, key: str, value: Any, told: str):
    with pytest.raises(UsageError) as caught:
        run_spec(model, {key: value})
    assert told in str(caught.value)


def test_a_changed_kind_leaves_out_what_the_entry_says_of_the_old_one():
    # ff-lif sets tau_syn_s, which adlif has not, and for hd a norm, which a spiking readout has not
    spec = run_spec("ff-lif", {"model.neuron.kind": "adlif"})
    assert isinstance(spec.model, ModelSpec)
    assert spec.model.neuron == AdlifSpec(kind="adlif", tau_mem_s=0.06)
    counted = run_spec("ff-lif", {"model.readout.kind": "spike-count"})
    assert isinstance(counted.model, ModelSpec)
    assert (counted.model.readout.kind, counted.model.readout.tau_syn_s) == ("spike-count", 0.01)
    baseline = run_spec("ff-lif", {"model.kind": "counts", "model.time_bins": 2})
    assert baseline.model == CountsSpec(name="ff-lif", kind="counts", time_bins=2)


@pytest.mark.parametrize(
    ("key", "value"), [("model.neuron.tau_syn_s", 0.02), ("model.neuron.tau_adapt", 0.02)]
)
def test_a_changed_kind_leaves_out_nothing_that_the_user_says(key: str, value: float):
    with pytest.raises(UsageError, match=f"unknown key '{key}'"):
        run_spec("ff-lif", {"model.neuron.kind": "adlif", key: value})


def test_an_unknown_key_beside_the_same_kind_is_told():
    with pytest.raises(UsageError, match=r"unknown key 'model\.neuron\.tau_adapt_s'"):
        run_spec("ff-lif", {"model.neuron.kind": "lif", "model.neuron.tau_adapt_s": 0.1})
