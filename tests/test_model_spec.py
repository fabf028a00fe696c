"""Specifications of models: kinds with keys of their own, ranges, digests, and what is refused."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest

from snnbench.errors import UsageError
from snnbench.model_spec import (
    AdlifSpec,
    LifDeltaSpec,
    LifSpec,
    ModelSpec,
    PerUnit,
    PositivePerUnit,
    ReadoutSpec,
    SeAdlifSpec,
    SpikingReadoutSpec,
)
from snnbench.models.surrogate import DERIVATIVES
from snnbench.spec import RunSpec, make_run_spec
from snnbench.spec_base import validated

TAU: dict[str, Any] = {"low": 5e-3, "high": 50e-3}
KEYS: list[dict[str, Any]] = [
    {},
    *({"neuron": {"kind": kind}} for kind in ("lif-delta", "adlif", "se-adlif")),
    {"neuron": {"refractory_s": 2e-3}},
    {"neuron": {"tau_mem_s": TAU}},
    {"neuron": {"tau_mem_s": {**TAU, "learned": True}}},
    {"neuron": {"tau_mem_s": {**TAU, "draw": "gamma", "mean": 20e-3}}},
    {"neuron": {"tau_mem_s": {**TAU, "draw": "middle"}}},
    {"neuron": {"threshold": {"low": 0.5, "high": 1.5}}},
    {"neuron": {"kind": "adlif", "a": {"low": -0.5, "high": 0.5}}},
    {"neuron": {"kind": "adlif", "a": -0.5}},
    {"neuron": {"kind": "se-adlif", "q": 60.0}},
    {"neuron": {"kind": "se-adlif", "reset": "subtract"}},
    *({"surrogate": {"kind": kind}} for kind in DERIVATIVES if kind != "superspike"),
    {"surrogate": {"peak": 0.3}},
    *({"readout": {"reduce": r}} for r in ("last", "sum", "mean", "softmax-sum")),
    {"readout": {"kind": "spike-count"}},
    {"readout": {"kind": "first-spike"}},
    {"readout": {"kind": "first-spike", "scale_s": 5e-3}},
    {"norm": "batch"},
    {"norm": "layer"},
    {"recurrent": True, "gradient_through_recurrence": False},
    {"recurrent": True},
    {"delays": {"max_s": 0.25}},
    {"delays": {"max_s": 0.25, "where": "input"}},
    {"delays": {"max_s": 0.25, "sigma_start": 5.0}},
    {"delays": {"max_s": 0.25, "anneal_share": 0.0}},
    {"delays": {"kind": "fixed", "taps_s": [0.0, 0.1]}},
    {"conv": {"kernels": [21], "strides": [10]}},
    {"conv": {"kernels": [21], "strides": [10], "recurrent_kernel": 5}, "recurrent": True},
]


def model(**keys: Any) -> ModelSpec:
    return validated(ModelSpec, {"name": "x", **keys}, "model")


def refusal(**keys: Any) -> str:
    with pytest.raises(UsageError) as caught:
        model(**keys)
    return str(caught.value)


def run_refusal(**overrides: Any) -> str:
    with pytest.raises(UsageError) as caught:
        run_spec(**overrides)
    return str(caught.value)


def run_spec(**overrides: Any) -> RunSpec:
    """Of a plain network; two underscores in a key are a dot."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    if not any(key.startswith("model.readout") for key in dotted):
        dotted["model.readout"] = {}
    return make_run_spec("hd", "ff-lif", seed=0, data_fingerprint="f", overrides=dotted)


# ---- digests, JSON -------------------------------------------------------------------------------


def test_a_plain_model_keeps_its_digest():
    # runs of earlier versions are found by it
    expected = "0229d37e33daae149bf40543a5ce1db4459d10f830d5139279aa2bfd5f6485a1"
    assert ModelSpec(name="x").digest == expected
    assert ModelSpec(name="x").canonical_json() == '{"name":"x"}'
    spelt = model(neuron={"kind": "lif"}, readout={"kind": "leaky", "reduce": "max"}, norm="none")
    assert spelt.digest == expected


def test_models_that_differ_have_digests_that_differ():
    digests = [model(**keys).digest for keys in KEYS]
    for (i, a), (j, b) in combinations(enumerate(digests), 2):
        assert a != b, (KEYS[i], KEYS[j])


@pytest.mark.parametrize("keys", KEYS, ids=str)
def test_canonical_json_is_read_back_as_the_same_model(keys: dict[str, Any]):
    spec = model(**keys)
    again = ModelSpec.model_validate_json(spec.canonical_json())
    assert again == spec
    assert again.canonical_json() == spec.canonical_json()
    assert type(again.neuron) is type(spec.neuron)
    # and so is everything that is said of it, with the defaults
    assert ModelSpec.model_validate(json.loads(spec.model_dump_json())) == spec
    # a default is not written down, but for the kind
    assert json.loads(spec.canonical_json()) == {"name": "x", **keys}


@pytest.mark.parametrize("keys", [{"neuron": {"kind": "lif"}}, {"readout": {"kind": "leaky"}}])
def test_a_default_kind_is_not_written_down(keys: dict[str, Any]):
    assert model(**keys).canonical_json() == '{"name":"x"}'


@pytest.mark.parametrize(
    ("keys", "part", "kind"),
    [
        ({"neuron": {}}, "neuron", LifSpec),
        ({"neuron": {"kind": "lif-delta"}}, "neuron", LifDeltaSpec),
        ({"neuron": {"kind": "adlif"}}, "neuron", AdlifSpec),
        ({"neuron": {"kind": "se-adlif"}}, "neuron", SeAdlifSpec),
        ({"neuron": SeAdlifSpec(kind="se-adlif")}, "neuron", SeAdlifSpec),
        ({"readout": {"reduce": "last"}}, "readout", ReadoutSpec),
        ({"readout": {"kind": "spike-count"}}, "readout", SpikingReadoutSpec),
        ({"readout": {"kind": "first-spike"}}, "readout", SpikingReadoutSpec),
    ],
)
def test_kinds_are_told_apart(keys: dict[str, Any], part: str, kind: type):
    assert type(getattr(model(**keys), part)) is kind


def test_a_number_or_a_range():
    spec = model(neuron={"kind": "adlif", "tau_mem_s": TAU, "a": {"low": -1, "high": 1}, "b": -2})
    assert isinstance(spec.neuron, AdlifSpec)
    assert spec.neuron.tau_mem_s == PositivePerUnit(low=5e-3, high=50e-3)
    assert spec.neuron.a == PerUnit(low=-1, high=1)
    assert spec.neuron.b == -2


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (
            {"neuron": {"kind": "adlf"}},
            "model.neuron: unknown kind 'adlf'; did you mean adlif, se-adlif",
        ),
        ({"readout": {"kind": "first-spke"}}, "model.readout: unknown kind 'first-spke'; did you"),
        ({"readout": {"kind": "spikes-count"}}, "did you mean spike-count"),
        (
            {"surrogate": {"kind": "superspik"}},
            "model.surrogate.kind: unknown kind 'superspik'; did you mean superspike?",
        ),
        ({"surrogate": {"kind": "multigaussian"}}, "did you mean multi-gaussian, gaussian?"),
        ({"surrogate": {"kind": "zzz"}}, "known: arctangent, boxcar"),
        ({"readout": {"reduce": "softmax"}}, "model.readout.reduce: unknown reduce 'softmax'; did"),
        ({"norm": "btach"}, "model.norm: unknown norm 'btach'; did you mean batch?"),
        ({"neuron": {"reset": "zro"}}, "model.neuron.reset: unknown reset 'zro'; did you mean zero"),
        ({"surrogate": {"kind": 3}}, "model.surrogate.kind"),
        ({"neuron": {"kind": "lif", "tau_adapt_s": 0.1}}, "unknown key 'model.neuron.tau_adapt_s'"),
        ({"neuron": {"kind": "lif-delta", "tau_syn_s": 0.1}}, "model.neuron.tau_syn_s"),
        ({"readout": {"kind": "spike-count", "reduce": "max"}}, "model.readout.reduce"),
        ({"neuron": {"tau_mem_s": {"lo": 0.1, "high": 0.2}}}, "did you mean model.neuron.tau_mem_s.low"),
        ({"neuron": {"tau_mem_s": {"low": 0.1}}}, "model.neuron.tau_mem_s.high: is missing"),
        (
            {"neuron": {"tau_mem_s": {"low": 0.2, "high": 0.1}}},
            "model.neuron.tau_mem_s: low = 0.2 has to be below high = 0.1",
        ),
        ({"neuron": {"tau_mem_s": {"low": 0.2, "high": 0.2}}}, "has to be below"),
        ({"neuron": {"tau_mem_s": {"low": 0, "high": 0.1}}}, "model.neuron.tau_mem_s.low"),
        ({"neuron": {"threshold": {"low": -1, "high": 1}}}, "model.neuron.threshold.low"),
        ({"neuron": {"tau_mem_s": 0}}, "model.neuron.tau_mem_s: input should be greater than 0"),
        ({"neuron": {"tau_mem_s": {**TAU, "draw": "gamma"}}}, "mean goes with draw"),
        ({"neuron": {"tau_mem_s": {**TAU, "mean": 0.01}}}, "mean goes with draw"),
        (
            {"neuron": {"tau_mem_s": {**TAU, "draw": "gamma", "mean": 0.06}}},
            "mean = 0.06 has to lie between low and high",
        ),
        ({"neuron": {"tau_mem_s": {**TAU, "draw": "gama", "mean": 0.01}}}, "did you mean gamma"),
        ({"hidden": [3, 0]}, "model.hidden.1: input should be greater than or equal to 1, found 0"),
        ({"surrogate": {"peak": 0}}, "model.surrogate.peak"),
        ({"delays": {"kind": "lerned"}}, "model.delays: unknown kind 'lerned'; did you mean learned?"),
        ({"delays": {}}, "model.delays.max_s: is missing"),
        ({"delays": {"max_s": 0.1, "sigma": 2}}, "did you mean model.delays.sigma_end"),
        ({"delays": {"max_s": 0}}, "model.delays.max_s: input should be greater than 0, found 0"),
        ({"delays": {"max_s": 0.1, "where": "out"}}, "model.delays.where: unknown where 'out'"),
        ({"delays": {"max_s": 0.1, "where": "hidden"}}, "hidden has one of them; add a layer"),
        ({"delays": {"kind": "fixed"}}, "model.delays.taps_s: is missing"),
        ({"delays": {"kind": "fixed", "taps_s": []}}, "model.delays.taps_s: needs at least 1 of"),
        ({"delays": {"kind": "fixed", "taps_s": [-0.1]}}, "model.delays.taps_s.0"),
        ({"delays": {"kind": "fixed", "max_s": 0.1}}, "unknown key 'model.delays.max_s'"),
        (
            {"conv": {"kernels": [3, 3], "strides": [1]}},
            "conv.kernels = [3, 3] has 2 numbers; hidden = [128] asks for at most 1",
        ),
        ({"conv": {"kernels": [3], "strides": []}}, "conv.strides = [] has 0 numbers"),
        ({"conv": {"kernels": [0], "strides": [1]}}, "model.conv.kernels.0"),
        ({"conv": {"kernels": [3], "strides": [1], "stride": 1}}, "did you mean model.conv.strides"),
        (
            {"conv": {"kernels": [3], "strides": [1], "recurrent_kernel": 4}, "recurrent": True},
            "recurrent_kernel = 4 has no middle; take an odd number",
        ),
        (
            {"conv": {"kernels": [3], "strides": [1], "recurrent_kernel": 3}},
            "conv.recurrent_kernel = 3 goes with recurrent = true",
        ),
        (
            {"conv": {"kernels": [3], "strides": [1]}, "delays": {"max_s": 0.1}},
            "delays and conv are two ways from one layer to the next",
        ),
        (
            {
                "hidden": [4, 8],
                "conv": {"kernels": [3], "strides": [1]},
                "delays": {"max_s": 0.1, "where": "all"},
            },
            'with delays.where = "hidden" and fewer conv.kernels than hidden layers',
        ),
        ({"recurrent": [True, False]}, "recurrent = [true, false] has 2 values; hidden = [128]"),
        ({"recurrent": "yess"}, "model.recurrent"),
        (
            {
                "hidden": [4, 8],
                "recurrent": [False, True],
                "conv": {"kernels": [3], "strides": [1], "recurrent_kernel": 3},
            },
            "conv.recurrent_kernel = 3 goes with recurrent = true",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_told_with_its_key(keys: dict[str, Any], told: str):
    assert told in refusal(**keys)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"model__neuron__tau_mem_s": 5e-3}, "model.neuron.tau_mem_s = 0.005 s"),
        ({"model__neuron__tau_mem_s": TAU}, "model.neuron.tau_mem_s.low = 0.005 s"),
        ({"model__readout__tau_syn_s": 5e-3}, "model.readout.tau_syn_s = 0.005 s"),
        (
            {"model__readout": {"kind": "spike-count", "tau_mem_s": 5e-3}},
            "model.readout.tau_mem_s = 0.005 s",
        ),
        (
            {"model__neuron": {"kind": "se-adlif", "tau_adapt_s": TAU}},
            "model.neuron.tau_adapt_s.low = 0.005 s",
        ),
    ],
    ids=str,
)
def test_a_time_constant_shorter_than_the_bin_is_refused(overrides: dict[str, Any], key: str):
    told = run_refusal(train__dt_s=10e-3, **overrides)
    assert f"{key} is shorter than the bin train.dt_s = 0.01 s" in told
    assert run_spec(train__dt_s=5e-3, **overrides)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"model__norm": "batch"}, "model.norm is one which takes its mean over all steps"),
        (
            {"model__readout": {"kind": "first-spike"}},
            "model.readout.kind is one which looks at all steps at once",
        ),
        ({"model__delays": {"max_s": 0.1}}, "model.delays is one which looks back across them"),
    ],
    ids=str,
)
def test_stretches_and_what_needs_all_steps_do_not_go_together(overrides: dict[str, Any], why: str):
    told = run_refusal(train__recompute_steps=10, **overrides)
    expected = f"train.recompute_steps cuts time into stretches, and {why}; take one of them only"
    assert told.endswith(expected)
    assert run_spec(**overrides)
    for fine in ({"model__norm": "layer"}, {"model__readout": {"kind": "spike-count"}}):
        assert run_spec(train__recompute_steps=10, **fine)


LINE: dict[str, Any] = {"kind": "fixed"}


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            {"model__delays": {"max_s": 2.0}},
            "model.delays.max_s: 2.0 s is longer than the task's duration_s = 1.4 s",
        ),
        (
            {"model__delays": {**LINE, "taps_s": [0.0, 1.8]}},
            "model.delays.taps_s: 1.8 s is longer than the task's duration_s = 1.4 s",
        ),
        (
            {"model__delays": {"max_s": 4e-3}},
            "model.delays.max_s = 0.004 s is no whole bin of train.dt_s = 0.01 s",
        ),
        (
            {"model__delays": {**LINE, "taps_s": [0.02, 0.011, 0.013]}},
            "taps_s = [0.02, 0.011, 0.013] are [2, 1, 1] bins of train.dt_s = 0.01 s",
        ),
        (
            {"model__delays": {"max_s": 0.03, "sigma_end": 2.5}},
            "begins with a width of 2.0 bins, which cannot fall to sigma_end = 2.5",
        ),
        (
            {"train__delay_lr": 0.1, "model__delays": {**LINE, "taps_s": [0.0]}},
            "train.delay_lr = 0.1 is for delays that are learned",
        ),
        ({"train__delay_lr": 0.1}, 'set model.delays.kind = "learned", or leave it out'),
        (
            {"model__hidden": [4, 4], "model__conv": {"kernels": [3, 21], "strides": [20, 1]}},
            "model.conv.kernels[1] = 21 reaches 10 positions to either side, and there are 7 below",
        ),
    ],
    ids=str,
)
def test_delays_and_kernels_that_do_not_fit_the_task_are_refused(
    overrides: dict[str, Any], told: str
):
    assert told in run_refusal(train__dt_s=10e-3, **overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        {"model__delays": {"max_s": 1.4}, "train__delay_lr": 0.1},
        {"model__delays": {"max_s": 6e-3}},
        {"model__delays": {**LINE, "taps_s": [1.4, 0.004]}},
        {"model__delays": {"max_s": 0.03, "sigma_end": 2.0}},
        {"model__hidden": [4, 4], "model__conv": {"kernels": [3, 13], "strides": [20, 1]}},
        {"model__conv": {"kernels": [3], "strides": [1]}, "train__recompute_steps": 10},
    ],
    ids=str,
)
def test_delays_and_kernels_that_just_fit_are_taken(overrides: dict[str, Any]):
    assert run_spec(train__dt_s=10e-3, **overrides)
