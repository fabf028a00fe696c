"""What is said of a model is what the model does: numbers against the network, formulas by evaluation."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from typing import Any

import pytest
import torch

from snnbench.checkpoint import build_for
from snnbench.data_prep.loader import SpikeLoader
from snnbench.evaluate import predict_loader, sizes_of
from snnbench.explain import ASSUMED_RATE_HZ, explain, explain_surrogate
from snnbench.model_spec import SurrogateSpec
from snnbench.models.surrogate import DERIVATIVES
from snnbench.sizes import count_operations, layer_sizes
from snnbench.spec import RunSpec, make_run_spec, model_names
from tests.commands import ROOT, snnbench, strict_json
from tests.toy_spikes import kind_of_model, small, toy_spec, toy_split

CPU = torch.device("cpu")


SPIKING = [name for name in model_names() if kind_of_model(name) == "spiking"]


ZOO = [
    make_run_spec("digits-synthetic", model, seed=0, data_fingerprint="toy", overrides=small(model))
    for model in SPIKING
]


@pytest.mark.parametrize(
    "spec",
    [*ZOO, *(toy_spec(name, model__hidden=[16, 8, 5]) for name in ("ff-lif", "rec-lif"))],
    ids=lambda spec: f"{spec.model.name}-{len(spec.model.hidden)}",
)
def test_sizes_are_those_of_the_network(spec: RunSpec):
    network = build_for(spec, torch.Generator())
    assert layer_sizes(spec) == sizes_of(network)
    layers = explain(spec)["layers"]
    assert sum(layer["parameters"] for layer in layers) == network.n_parameters
    assert [layer["layer"] for layer in layers] == [*network.layer_names, "readout"]


TAU = {"low": 0.01, "high": 0.1, "learned": True}
MODELS: list[dict[str, Any]] = [
    {"neuron": {"kind": "lif", "refractory_s": 0.02, "tau_syn_s": TAU}},
    {"neuron": {"kind": "lif-delta", "tau_mem_s": TAU, "threshold": {"low": 0.5, "high": 1.0}}},
    {"neuron": {"kind": "adlif", "tau_adapt_s": TAU, "a": {"low": -1, "high": 1, "learned": True}}},
    {"neuron": {"kind": "se-adlif", "b": {"low": 0.0, "high": 1.0}}, "norm": "layer"},
    {"norm": "batch", "recurrent": True, "gradient_through_recurrence": False},
    *({"readout": {"reduce": r}} for r in ("last", "sum", "mean", "softmax-sum")),
    {"readout": {"kind": "spike-count"}},
    {"readout": {"kind": "first-spike", "scale_s": 5e-3}},
    {"surrogate": {"kind": "multi-gaussian", "slope": 3.0, "peak": 0.4}},
]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_every_kind_is_told_with_the_numbers_of_its_network(model: dict[str, Any]):
    spec = toy_spec(model__hidden=[16, 8], **{f"model__{k}": v for k, v in model.items()})
    network = build_for(spec, torch.Generator())
    assert layer_sizes(spec) == sizes_of(network)
    told = explain(spec)
    layers = told["layers"]
    assert sum(layer["parameters"] for layer in layers) == network.n_parameters
    weights = sum(layer["weights"] + layer["recurrent_weights"] for layer in layers)
    per_unit = sum(c.get("learned", False) for c in ranges(model).values())
    per_unit += 2 * ("norm" in model)
    assert network.n_parameters == weights + per_unit * (16 + 8)
    assert told["per_sample"]["dense_macs"] == 20 * weights
    assert told["memory"]["weights"] == 2 * 4 * network.n_parameters
    assert told["memory"]["total"] > 0
    assert set(told["neuron"]["per_unit"]) == set(ranges(model))
    drive = told["neuron"]["equations"][0]
    assert (f"{model.get('norm')}_norm(W S_in[n])" in drive) == ("norm" in model)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            {"delays": {"max_s": 0.1}},
            ["D[n] = sum_j w_ij S_in_j[n - d_ij]; d_ij learned, 0 to 100 ms, 10 steps"],
        ),
        (
            {"delays": {"kind": "fixed", "taps_s": [0, 0.1], "where": "input"}, "norm": "batch"},
            [
                "in hidden1: D[n] = batch_norm(sum_k W_k S_in[n - d_k]); d_k = 0, 10 steps",
                "in hidden2: D[n] = batch_norm(W S_in[n])",
            ],
        ),
        (
            {
                "conv": {"kernels": [5, 3], "strides": [2, 1], "recurrent_kernel": 3},
                "recurrent": True,
            },
            [
                f"in hidden{i}: D[n] = w * S_in[n] + (v * S[n], 3 positions of all filters);"
                f" {kernel} positions of each filter below, every {which}: {n} filters at 6 positions"
                for i, kernel, which, n in ((1, 5, "second", 16), (2, 3, "one", 8))
            ],
        ),
    ],
    ids=["learned", "fixed", "conv"],
)
def test_what_spikes_go_through_is_told(model: dict[str, Any], told: list[str]):
    spec = toy_spec(
        model__hidden=[16, 8], train__dt_s=0.01, **{f"model__{k}": v for k, v in model.items()}
    )
    network = build_for(spec, torch.Generator())
    explained = explain(spec)
    assert explained["neuron"]["equations"][: len(told)] == told
    assert layer_sizes(spec) == sizes_of(network)
    assert sum(layer["parameters"] for layer in explained["layers"]) == network.n_parameters


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def ranges(model: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {k: v for k, v in model.get("neuron", {}).items() if isinstance(v, dict)}


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_every_kind_is_shown(model: dict[str, Any]):
    # whole tables at once: a kind of neuron has no key of another one's
    sets = [f"--set=model.{part}={toml(value)}" for part, value in model.items()]
    shown = snnbench("models", "show", "ff-lif", "--task", "hd", *sets)
    assert "Hidden units" in shown.out
    for name, limits in ranges(model).items():
        assert f"{name}: of each unit, drawn uniformly of {limits['low']:g} to" in shown.out
    if "surrogate" in model:
        assert "model.surrogate.kind = multi-gaussian" in shown.out


def test_a_refractory_neuron_in_words():
    told = explain(toy_spec(model__neuron={"refractory_s": 0.03}, train__dt_s=0.01))["neuron"]
    membrane, waiting = told["equations"][2:]
    assert waiting == "R[n+1] = 3 where S[n] > 0, else R[n] - 1 where R[n] > 1, else 0"
    held = "U[n+1] = 0 where S[n] > 0, else 0 where R[n] > 1, else "
    assert membrane.startswith(held)
    assert "U[n]" in membrane.removeprefix(held)


def test_operations_are_counted_as_in_evaluation():
    spec = toy_spec("rec-lif", model__hidden=[16, 8])
    network = build_for(spec, torch.Generator().manual_seed(1))
    operations = predict_loader(network, SpikeLoader(toy_split(5, seed=1), spec, CPU)).operations
    # every unit fires four times in the toy data, within its duration but for stragglers
    work = count_operations(
        layer_sizes(spec),
        n_steps=20,
        input_spikes=48,
        hidden_spikes=list(operations.spikes.values()),
    )
    assert work.dense_macs == operations.dense_macs
    assert work.effective_acs == pytest.approx(operations.effective_acs, rel=0.05)
    told = explain(spec)["per_sample"]
    per_unit = ASSUMED_RATE_HZ * 0.2
    assert told["input_spikes"] == pytest.approx(12 * per_unit)
    assert told["spikes"] == pytest.approx({"hidden1": 16 * per_unit, "hidden2": 8 * per_unit})
    accumulates = 12 * 16 + 16 * (8 + 16) + 8 * (3 + 8)
    assert told["effective_acs"] == pytest.approx(per_unit * accumulates)


def value_of(formula: str, **names: float) -> float:
    """A printed formula, read back: products are written with a space."""
    text = formula.partition("= ")[2].replace("[n]", "").replace("^", "**")
    for letter in names:
        text = (
            text.replace(f" {letter}", f" * {letter}").replace("+ * ", "+ ").replace("- * ", "- ")
        )
    text = text.replace(") (", ") * (").lstrip(" *")
    return float(eval(text, {"__builtins__": {}}, names))


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("spike", [0.0, 1.0])
def test_equations_carry_this_models_numbers(reset: str, spike: float):
    neuron = {"tau_mem_s": 0.03, "tau_syn_s": 0.012, "threshold": 1.5, "reset": reset}
    told = explain(toy_spec("rec-lif", model__neuron=neuron, train__dt_s=0.01))["neuron"]
    drive, current, membrane = told["equations"]
    assert drive == "D[n] = W S_in[n] + V S[n]"
    state = {"I": 0.7, "U": 1.9, "D": 0.25, "S": spike}
    alpha, beta = math.exp(-0.01 / 0.012), math.exp(-0.01 / 0.03)
    assert value_of(current, **state) == pytest.approx(alpha * 0.7 + 0.25, rel=1e-3)
    before_reset = beta * 1.9 + 0.7
    after = before_reset - 1.5 * spike if reset == "subtract" else before_reset * (1 - spike)
    assert value_of(membrane, **state) == pytest.approx(after, rel=1e-3)
    assert told["spike"] == "S[n] = 1 where x = U[n] - 1.5 > 0, else 0"
    assert told["constants"] == pytest.approx({"alpha": alpha, "beta": beta, "threshold": 1.5})
    mem, syn = told["time_constants"]
    assert (mem["seconds"], mem["steps"]) == (0.03, pytest.approx(3.0))
    assert syn["decay_per_step"] == pytest.approx(alpha)


def test_the_readout_neither_spikes_nor_resets():
    readout = explain(toy_spec("ff-lif"))["readout"]
    assert readout["equations"][0] == "D[n] = W S[n]"
    assert all("S[n]" not in equation for equation in readout["equations"][1:])


@pytest.mark.parametrize("kind", DERIVATIVES)
@pytest.mark.parametrize("slope", [3.0, 2.5])
def test_a_surrogates_formula_is_its_derivative(kind: str, slope: float):
    spec = SurrogateSpec.model_construct(kind=kind, slope=slope)
    formula = explain_surrogate(spec)["formula"].removeprefix("dS/dx = ")
    formula = re.sub(r"(?<=[\d)]) (?=[\w|(])", " * ", formula.replace("|x|", "abs(x)"))
    value, _, rest = formula.replace("^", "**").replace(" * where", " where").partition(" where ")
    condition, _, otherwise = rest.partition(", else ")
    functions: dict[str, Any] = {"abs": abs, "exp": math.exp}
    for x in (-0.4, -0.1, 0.0, 0.05, 0.3):
        names = {"x": x, **functions}
        holds = not condition or eval(condition, names)
        real = DERIVATIVES[kind](torch.tensor(x, dtype=torch.float64), slope)
        assert eval(value if holds else otherwise, names) == pytest.approx(float(real), abs=1e-9)


def test_regularisers_are_told_where_they_are_on():
    assert len(explain(toy_spec())["loss"]) == 1
    loss = explain(
        toy_spec(train__activity={"lower_strength": 0.5, "lower": 0.2, "upper_strength": 0.06})
    )["loss"]
    assert loss[1].startswith("0.5 * mean over units of max(0, 0.2 - z)^2")
    assert loss[2].startswith("0.06 * max(0, mean of z over units - 100)^2")


def test_a_model_is_shown_in_words_equations_and_counts():
    shown = snnbench("models", "show", "rec-lif", "--task", "hd").out
    for line in (
        "# rec-lif",  # the card
        "hidden1     140    128    17920      16384       34304",
        "D[n] = W S_in[n] + V S[n]",
        "tau_mem = 20 ms, 2 steps: times 0.6065 in a step",
        "dS/dx = (10 |x| + 1)^(-2)",
        "cross-entropy of softmax(logits)",
        "memory in training, batches of 64",
        "train.lr = 0.001",
    ):
        assert line in shown


def test_json_holds_everything_that_is_shown():
    told = strict_json(snnbench("models", "show", "ff-lif", "--json").out)
    spec = make_run_spec("hd", "ff-lif", seed=0, data_fingerprint="")
    expected: dict[str, Any] = explain(spec)
    assert {key: told[key] for key in expected} == expected
    assert told["n_parameters"] == 140 * 128 + 128 * 20 + 2 * 20  # the readout is normalised on hd
    assert told["memory"]["total"] > told["memory"]["weights"] > 0
    assert told["train"] == spec.train.model_dump(mode="json")


def test_showing_a_model_does_not_import_torch():
    code = (
        "import sys; from snnbench.cli import main\n"
        "sys.argv = ['snnbench', 'models', 'show', 'rec-lif']\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "Hidden units" in done.stdout
    heavy = {"torch", "numpy", "numba", "scipy", "h5py", "mlflow", "matplotlib"}
    assert not heavy & set(done.stderr.split())
