"""Specifications: nothing unknown is accepted, and everything that is counts in the digest."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnbench.data_prep.recipe import load_recipe, recipe_names
from snnbench.errors import SnnbenchError, UsageError
from snnbench.model_spec import ModelSpec
from snnbench.spec import (
    RunSpec,
    TaskSpec,
    TrainSpec,
    load_model,
    load_task,
    make_run_spec,
    model_names,
    parse_overrides,
    task_names,
)
from snnbench.spec_base import validated, with_overrides


def run_spec(**overrides: Any) -> RunSpec:
    # without some of what the entry sets for hd: keys that exclude each other are changed one by one
    plain = {"model.readout": {}, "train.augment": {}, **overrides}
    return make_run_spec("hd", "ff-lif", seed=0, data_fingerprint="f", overrides=plain)


def refusal(**overrides: Any) -> str:
    with pytest.raises(UsageError) as caught:
        run_spec(**overrides)
    return str(caught.value)


# --- --set


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("5", 5),
        ("true", True),
        ("[64, 32]", [64, 32]),
        ('"adamax"', "adamax"),
        ("adamax", "adamax"),
        (" adamax ", "adamax"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_values_are_toml_or_text(text: str, value: Any) -> None:
    assert parse_overrides([f"train.lr={text}"]) == {"train.lr": value}


def test_the_last_of_two_assignments_holds() -> None:
    assert parse_overrides(["a.b=1", "a.b=2", " a.c =3"]) == {"a.b": 2, "a.c": 3}


@pytest.mark.parametrize("pair", ["train.lr", "=3", "", " = 3"])
def test_an_assignment_needs_key_and_value(pair: str) -> None:
    with pytest.raises(UsageError, match="write KEY=VALUE, for example"):
        parse_overrides([pair])


def test_overrides_reach_every_level() -> None:
    spec = run_spec(
        **{
            "train.lr": 0.5,
            "model.hidden": [7, 5],
            "model.neuron.tau_mem_s": 0.5,
            "train.activity.upper": 3,
            "task.duration_s": 0.7,
        }
    )
    assert isinstance(spec.model, ModelSpec)
    assert (spec.train.lr, spec.model.hidden, spec.task.duration_s) == (0.5, (7, 5), 0.7)
    assert (spec.model.neuron.tau_mem_s, spec.train.activity.upper) == (0.5, 3)


def test_with_overrides_copies() -> None:
    tree = {"a": {"b": [1]}, "c": 2}
    assert with_overrides(tree, {"a.b": 3, "d.e": 4}) == {"a": {"b": 3}, "c": 2, "d": {"e": 4}}
    assert tree == {"a": {"b": [1]}, "c": 2}
    with pytest.raises(UsageError, match=r"c\.x: c has no keys of its own"):
        with_overrides(tree, {"c.x": 1})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("train.lrr", "unknown key 'train.lrr'; did you mean train.lr"),
        ("model.neuron.tau_mem", "did you mean model.neuron.tau_mem_s"),
        ("model.neurn.kind", "unknown key 'model.neurn'; did you mean model.neuron"),
        ("train.activity.uper", "did you mean train.activity.upper"),
        ("train.augment.noise_htz", "did you mean train.augment.noise_hz"),
        ("train.augmnt.noise_hz", "did you mean train.augment"),
        ("task.duration", "did you mean run.task.duration_s"),
        ("trian.lr", "unknown key 'trian.lr'; did you mean train"),
        ("lr", "unknown key 'lr'"),
        ("seed", "unknown key 'seed'"),
        ("train.lr.x", "train.lr"),
        ("train.", "unknown key"),
        ("", "unknown key"),
    ],
)
def test_an_unknown_key_is_refused_with_its_path_and_near_names(key: str, message: str) -> None:
    assert message in refusal(**{key: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.lr", 0),
        ("train.lr", "fast"),
        ("train.lr", float("nan")),
        ("train.lr", float("inf")),
        ("train.epochs", 1.5),
        ("train.minutes", 0),
        ("train.minutes", float("inf")),
        ("train.minutes", "an hour"),
        ("train.optimiser", "lion"),
        ("train.precision", "float16"),
        ("train.betas", [0.9]),
        ("train.betas", [0.9, 1.0]),
        ("train.betas", [-0.1, 0.9]),
        ("model.hidden", 128),
        ("model.hidden", [128, 0]),
        ("model.hidden", []),
        ("model.hidden", [0]),
        ("model.dropout", 1.0),
        ("model.neuron", 3),
        ("model", 3),
        ("task.protocol", "D"),
        ("train.augment.time_jitter_s", -1e-3),
        ("train.augment.channel_jitter", -1),
        ("train.augment.channel_shift", 1.5),
        ("train.augment.channel_shift", -1),
        ("train.augment.deletion_p", 1.0),
        ("train.augment.blend_p", 1.1),
        ("train.augment.noise_hz", 1001),
        ("train.augment.time_scale", 0.9),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_path(key: str, value: Any) -> None:
    assert key.split(".")[-1] in refusal(**{key: value})


# --- digest


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


# keys whose other value is not just the double; two, as the zoo may have taken one of them
CHOICES: dict[str, tuple[Any, Any]] = {
    "model.neuron.reset": ("zero", "subtract"),
    "train.bin_mode": ("clip", "count"),
    "train.optimiser": ("adamax", "adam"),
    "train.schedule": ("cosine", "constant"),
    "train.loss": ("tempotron", "cross-entropy"),
    "train.label_smoothing": (0.1, 0.2),
    "train.ema_decay": (0.9, 0.99),
    "train.activity.lower_scope": ("unit", "layer"),
    "train.activity.upper_scope": ("unit", "layer"),
    "model.hidden": ([64, 64], [32]),
    "model.surrogate.kind": ("triangle", "gaussian"),
    "model.readout.reduce": ("last", "sum"),
    "model.readout.norm": ("batch", "none"),
    "model.delays": ({"max_s": 0.1}, {"max_s": 0.2}),
    "model.conv": ({"kernels": [3], "strides": [1]}, {"kernels": [5], "strides": [1]}),
    "model.norm": ("batch", "layer"),
    "train.betas": ([0.8, 0.999], [0.9, 0.99]),
    "model.dropout": (0.5, 0.25),
    "train.patience": (3, 4),
    "train.minutes": (1.0, 2.0),
    "train.recompute_steps": (20, 30),
    "train.gradient_clip": (1.0, 2.0),
    "train.dt_s": (0.005, 0.0025),
    "train.precision": ("bfloat16", "float32"),
    "train.augment.deletion_p": (0.1, 0.2),
}
# literals with one value so far, and kinds, each of which has keys of its own: see test_model_spec
FIXED = {"task.protocol", "task.metric", "model.neuron.kind", "model.readout.kind"}
# refused without delays that are learned: see test_model_spec
FIXED |= {"train.delay_lr"}
SPEC = run_spec()
LEAVES = dict(leaves(SPEC.model_dump(mode="json")))


@pytest.mark.parametrize("key", sorted(set(LEAVES) - FIXED))
def test_every_key_changes_the_digest_and_the_run_id(key: str) -> None:
    value = LEAVES[key]
    if key in CHOICES:
        other = next(choice for choice in CHOICES[key] if choice != value)
    elif isinstance(value, bool):
        other = not value
    elif isinstance(value, str) or value is None:
        other = f"{value}x"
    else:
        other = value * 2 or 1
    tree = with_overrides(SPEC.model_dump(mode="json"), {key: other})
    changed = validated(RunSpec, tree, "run")
    assert changed.digest != SPEC.digest
    assert changed.run_id != SPEC.run_id


def test_the_digest_is_the_same_in_every_process() -> None:
    code = (
        "from snnbench.spec import make_run_spec;"
        "print(make_run_spec('hd', 'ff-lif', seed=0, data_fingerprint='f').run_id)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = make_run_spec("hd", "ff-lif", seed=0, data_fingerprint="f")
    assert done.stdout.strip() == here.run_id
    assert SPEC.run_id == f"hd-ff-lif-seed0-{SPEC.digest[:10]}"


def test_the_digest_does_not_see_the_order_of_keys_or_a_round_trip() -> None:
    tree = SPEC.model_dump(mode="json")
    turned = {key: tree[key] for key in reversed(tree)}
    assert validated(RunSpec, turned, "run").digest == SPEC.digest
    assert RunSpec.model_validate_json(SPEC.model_dump_json()).digest == SPEC.digest
    assert validated(RunSpec, json.loads(SPEC.canonical_json()), "run") == SPEC


def test_overrides_stay_as_they_are_given() -> None:
    overrides = {"train.augment": {}, "train.augment.noise_hz": 1.0}
    assert run_spec(**overrides).train.augment.noise_hz == 1.0
    assert overrides == {"train.augment": {}, "train.augment.noise_hz": 1.0}


def test_a_key_with_its_default_is_not_in_the_digest() -> None:
    # so that a later version may add keys without changing what old runs are called
    assert TrainSpec().canonical_json() == "{}"
    assert TrainSpec(lr=TrainSpec().lr).digest == TrainSpec().digest
    assert TrainSpec(lr=0.5).canonical_json() == '{"lr":0.5}'


def test_augmentation_is_off_unless_asked_for() -> None:
    assert not SPEC.train.augment.enabled
    assert "augment" not in SPEC.canonical_json()
    # Cramer et al. 2022
    augmented = run_spec(**{"train.augment.channel_jitter": 1.0, "train.augment.noise_hz": 1.6})
    assert augmented.train.augment.enabled
    assert '"augment":{"channel_jitter":1.0,"noise_hz":1.6}' in augmented.canonical_json()


def test_a_copy_has_its_own_digest() -> None:
    digest = SPEC.digest
    assert SPEC.model_copy(update={"seed": 1}).digest != digest


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(SPEC, "seed", 3)  # noqa: B010


# --- bins


@pytest.mark.parametrize(
    ("duration_s", "dt_s", "n_steps"),
    [
        (1.4, 0.014, 100),
        (1.0, 0.01, 100),
        (1.4, 0.01, 140),
        (0.3, 0.1, 3),  # 0.3 / 0.1 = 2.999...
        (0.7, 0.1, 7),  # 0.7 / 0.1 = 6.999...
        (1.0, 0.3, 4),
        (0.101, 0.01, 11),
        (0.005, 0.02, 1),
    ],
)
def test_bins_cover_the_duration(duration_s: float, dt_s: float, n_steps: int) -> None:
    long = dict.fromkeys(
        [
            f"model.{layer}.tau_{kind}_s"
            for layer in ("neuron", "readout")
            for kind in ("mem", "syn")
        ],
        1.0,
    )
    spec = run_spec(**{"task.duration_s": duration_s, "train.dt_s": dt_s, **long})
    assert spec.n_steps == n_steps


@given(st.integers(1, 2000), st.sampled_from([0.5e-3, 1e-3, 2e-3, 4e-3, 5e-3, 10e-3]))
def test_a_whole_number_of_bins_is_that_number(n: int, dt_s: float) -> None:
    spec = run_spec(**{"task.duration_s": n * dt_s, "train.dt_s": dt_s})
    assert spec.n_steps == n


@pytest.mark.parametrize(("together", "n"), [(1, 700), (5, 140), (3, 234), (1000, 1)])
def test_channels_cover_the_units(together: int, n: int) -> None:
    assert run_spec(**{"train.units_per_channel": together}).n_channels == n


@pytest.mark.parametrize(
    "key",
    ["model.neuron.tau_mem_s", "model.neuron.tau_syn_s", "model.readout.tau_mem_s"],
)
def test_a_time_constant_shorter_than_the_bin_is_refused(key: str) -> None:
    message = refusal(**{key: 0.005, "train.dt_s": 0.01})
    assert f"{key} = 0.005 s is shorter than the bin train.dt_s = 0.01 s" in message
    assert run_spec(**{key: 0.01, "train.dt_s": 0.01})


def test_of_a_range_the_shortest_time_constant_counts() -> None:
    key = "model.neuron.tau_mem_s"
    message = refusal(**{key: {"low": 0.004, "high": 0.02}, "train.dt_s": 0.01})
    assert f"{key}.low = 0.004 s is shorter than the bin train.dt_s = 0.01 s" in message
    assert run_spec(**{key: {"low": 0.01, "high": 0.02}, "train.dt_s": 0.01})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.neuron.kind", "lfi", "model.neuron: unknown kind 'lfi'; did you mean lif"),
        ("model.surrogate.kind", "superspik", "unknown kind 'superspik'; did you mean superspike?"),
        ("model.readout.kind", "leeky", "model.readout: unknown kind 'leeky'; did you mean leaky?"),
        ("model.readout.reduce", "maxx", "unknown reduce 'maxx'; did you mean max"),
        ("model.norm", "bacth", "model.norm: unknown norm 'bacth'; did you mean batch?"),
        ("train.schedule", "cosin", "unknown schedule 'cosin'; did you mean cosine?"),
        ("train.optimiser", "adamm", "unknown optimiser 'adamm'; did you mean adam"),
        ("train.precision", "bf16", "unknown precision 'bf16'; did you mean bfloat16?"),
        ("model.hidden", [], "model.hidden: needs at least 1 of its values, found []"),
        ("model.hidden", [128, 0], "model.hidden.1: input should be greater than or equal to 1, f"),
        ("model.hidden", 128, "model.hidden: needs values in square brackets, found 128"),
        ("model.neuron", "lif", "model.neuron: has keys of its own, such as model.neuron."),
    ],
)
def test_wrong_words_and_shapes_are_told_with_what_is_right(
    key: str, value: Any, message: str
) -> None:
    assert message in refusal(**{key: value})


# --- what ships


@pytest.mark.parametrize("name", task_names())
def test_every_task_loads(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    recipe = load_recipe(task.dataset)
    assert task.n_units == recipe.n_units
    # where the recipe does not name the classes, the files do
    assert task.n_classes == len(recipe.classes) or not recipe.classes
    assert task.protocol == "A"
    assert {"A", "C"} <= set(task.protocols)
    assert (task.synthetic, task.duration_s) == (recipe.synthetic, recipe.duration_s)


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("task", task_names())
def test_every_model_has_a_run_for_every_task(name: str, task: str) -> None:
    spec = make_run_spec(task, name, seed=0, data_fingerprint="")
    assert (spec.model.name, spec.task.name) == (name, task)
    assert set(load_model(name).override) <= set(task_names())


@pytest.mark.parametrize("name", model_names())
def test_every_key_of_a_search_space_is_a_key_of_the_spec(name: str) -> None:
    for key, space in load_model(name).search.items():
        values = space["choices"] if "choices" in space else [space["low"], space["high"]]
        for value in values:
            make_run_spec("hd", name, seed=0, data_fingerprint="", overrides={key: value})


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert len(set(recipe.classes)) == len(recipe.classes)
    assert json.loads(recipe.processing_json({}))["name"] == name


def test_words_about_a_recipe_are_not_in_what_decides_its_spikes() -> None:
    recipe = load_recipe("hd")
    reworded = recipe.model_copy(update={"title": "x", "licence": "y", "citation": "z"})
    assert reworded.processing_json({}) == recipe.processing_json({})
    assert recipe.model_copy(update={"n_units": 64}).processing_json({}) != (
        recipe.processing_json({})
    )
    assert recipe.processing_json({"a": 1}) != recipe.processing_json({})


@pytest.mark.parametrize(
    ("load", "name", "message"),
    [
        (load_task, "hdd", "unknown task 'hdd'; did you mean hd"),
        (load_model, "ff_lif", "unknown model 'ff_lif'; did you mean ff-lif"),
        (load_recipe, "hdd", "unknown data set 'hdd'; did you mean hd, shd"),
        (load_task, "../hd", "unknown task"),
        (load_task, "zzz", "unknown task 'zzz'; known: "),
    ],
)
def test_unknown_names_suggest_near_ones(load: Any, name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(name)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("kind", [TaskSpec, ModelSpec, TrainSpec, RunSpec])
def test_a_spec_describes_itself_as_json_schema(kind: Any) -> None:
    schema = kind.model_json_schema()
    assert schema["additionalProperties"] is False


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SnnbenchError) as caught:
        validated(TrainSpec, {"lr": -1, "epoch": 3}, "train")
    assert len(str(caught.value).splitlines()) == 2
