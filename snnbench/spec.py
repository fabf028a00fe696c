"""What a run is: frozen specifications of task, model and training, from TOML, with one digest.

A spec rejects unknown keys, so a typing error is an error and not a silent default. Everything that
changes a result is in here; what does not (device, number of workers, folders) is not. Time is in
seconds, rates in hertz.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from snnbench.baseline_spec import AnyModelSpec, CountsSpec
from snnbench.connection_spec import DelayLineSpec, LearnedDelaySpec
from snnbench.errors import UsageError, unknown_name
from snnbench.model_spec import ModelSpec, PerUnit
from snnbench.spec_base import Model, Spec, for_kinds_of, validated, with_overrides


class DataPins(Spec):
    """What identifies a task's data whatever machine converted it; None where it is not known.

    `source_sha256` covers the names and contents of the source files, `recipe_sha256` the recipe's
    text as data, `split_sha256` which recording is in which split, `labels_sha256` the test labels
    and groups (in file order). See `snnbench.record.DataIdentity`.
    """

    recipe_sha256: str | None = None
    source_sha256: str | None = None
    split_sha256: str | None = None
    labels_sha256: str | None = None


ProtocolClass = Literal["A", "B", "C"]


class TaskSpec(Spec):
    """What is fixed so that rows compare. A changed task is a new version beside the old one."""

    name: str
    version: int = Field(ge=1)
    title: str
    dataset: str
    synthetic: bool = False
    n_units: int = Field(gt=0)
    n_classes: int = Field(gt=1)
    duration_s: float = Field(gt=0)
    """Recordings are cut or padded with silence to this length."""
    last_edge_inclusive: bool = Field(default=False, exclude_if=lambda value: value is False)
    """Whether a spike exactly at the end of the duration counts, in the last bin (data_prep/binning.py)."""
    protocol: ProtocolClass = "A"
    """A: whole speakers held out for validation; B: leave one speaker out; C: all data for as many epochs as
    were fixed beforehand. The test split is read once in each (docs/protocol.md)."""
    protocols: tuple[ProtocolClass, ...] = Field(default=("A",), exclude_if=lambda value: not value)
    """Classes that a run may take. A run has taken one, and its own specification tells no others."""
    metric: Literal["accuracy"] = "accuracy"
    min_seeds: int = Field(default=10, ge=1)
    """Seeds a ranked row needs; from 5 on a row is provisional."""
    pins: DataPins = DataPins()

    @property
    def of_run(self) -> TaskSpec:
        """The task as a run's specification has it."""
        return self.model_copy(update={"protocols": ()})


class ActivitySpec(Spec):
    """Activity regularisers of Cramer et al. 2020 on mean spike counts z per sample and layer.

    Loss += lower_strength * mean_i relu(lower - z_i)^2 + upper_strength * relu(mean_i z_i - upper)^2, with
    the mean over units inside where the scope is `layer`, and outside where it is `unit`.
    """

    lower_strength: float = Field(default=0.0, ge=0)
    lower: float = Field(default=0.01, ge=0)
    upper_strength: float = Field(default=0.0, ge=0)
    upper: float = Field(default=100.0, ge=0)
    lower_scope: Literal["unit", "layer"] = "unit"
    upper_scope: Literal["unit", "layer"] = "layer"


class AugmentSpec(Spec):
    """Random changes of training samples, drawn anew in every epoch (data_prep/augment.py).

    Units are those of the data set, before neighbours are summed into channels. All are off by default.
    """

    blend_p: float = Field(default=0.0, ge=0, le=1)
    """Probability with which a sample is blended with another one of its class and batch."""
    time_scale: float = Field(default=1.0, ge=1, le=10)
    """Times of a sample are multiplied by one factor, log-uniform between its inverse and this."""
    channel_shift: int = Field(default=0, ge=0)
    """All units of a sample move together, by a whole number drawn from -channel_shift..channel_shift."""
    fade_p: float = Field(default=0.0, ge=0, le=1)
    """Spikes are left out with a probability that changes linearly from the first unit to the last; its two
    ends are drawn for each sample from 0 to this."""
    channel_jitter: float = Field(default=0.0, ge=0)
    """Standard deviation, in units, with which every spike moves on its own; rounded."""
    time_jitter_s: float = Field(default=0.0, ge=0)
    """Standard deviation with which every spike moves in time."""
    deletion_p: float = Field(default=0.0, ge=0, lt=1)
    """Probability with which a spike is left out."""
    mask_units: int = Field(default=0, ge=0)
    """A band of up to so many neighbouring units of a sample falls silent."""
    mask_s: float = Field(default=0.0, ge=0)
    """A stretch of up to so many seconds of a sample falls silent."""
    noise_hz: float = Field(default=0.0, ge=0, le=1000)
    """Rate of additional Poisson spikes in every unit, over the whole duration of the task."""

    @property
    def enabled(self) -> bool:
        """Whether anything is on."""
        return self != AugmentSpec()


_Decay = Annotated[float, Field(ge=0, lt=1)]


class TrainSpec(Spec):
    """How a model is trained; evaluation uses the same binning."""

    dt_s: float = Field(default=10e-3, gt=0)
    bin_mode: Literal["count", "clip"] = "count"
    """`count` keeps the number of spikes in a bin and unit, `clip` makes it 0 or 1."""
    units_per_channel: int = Field(default=1, ge=1)
    """Neighbouring units summed into one input channel (5 gives SHD's 700 units as 140 channels)."""
    batch_size: int = Field(default=256, ge=1)
    epochs: int = Field(default=50, ge=1)
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many epochs without a better validation accuracy; None never stops early."""
    minutes: float | None = Field(default=None, gt=0)
    """Begin no epoch after so many minutes of epochs, those before a resumption included; None takes the time
    that `epochs` need. How many are done then depends on the machine; the schedule is that of `epochs`."""
    loss: Literal["cross-entropy", "tempotron"] = "cross-entropy"
    """tempotron: how far the class's logit is below 1, and every other one above (models/losses.py)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of a label that is spread evenly over all classes; of cross-entropy only."""
    optimiser: Literal["adam", "adamax", "adamw", "sgd", "rmsprop"] = "adam"
    """sgd has Nesterov momentum betas[0]; rmsprop averages squares with betas[1]."""
    lr: float = Field(default=1e-3, gt=0, le=100)
    delay_lr: float | None = Field(default=None, gt=0, le=100)
    """Of learned delays, in bins, on the same schedule and without weight decay; None takes `lr`."""
    betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "cosine", "one-cycle"] = "constant"
    """Of the learning rate, from epoch to epoch: half a cosine towards 0; or up to `lr` in the first three
    tenths and down again (Smith & Topin 2019, as in PyTorch)."""
    warmup_epochs: int = Field(default=0, ge=0)
    """In the first epochs the learning rate is multiplied by 1 / (n + 1), 2 / (n + 1), ..."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Validate, keep and test an exponential moving average of the weights, with this factor per step."""
    gradient_clip: float | None = Field(default=None, gt=0)
    """Largest norm of the whole gradient; None leaves it as it is."""
    recompute_steps: int | None = Field(default=None, ge=1)
    """Keep the network's state only every so many steps, and compute the rest again in the backward pass:
    less memory for more time. None keeps everything."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Numbers in which dense products of spikes and weights are computed, in training and evaluation; scan,
    normalisation, loss and weights are float32 (models/precision.py). Engines `triton` and `reference` have
    such products, those of the CPU only before a normalisation, without which bfloat16 changes nothing."""
    activity: ActivitySpec = ActivitySpec()
    augment: AugmentSpec = AugmentSpec()


class RunSpec(Spec):
    """One training run: task, model, training, seed and the data it ran on."""

    task: TaskSpec
    model: AnyModelSpec
    train: TrainSpec
    seed: int = Field(ge=0)
    data_fingerprint: str

    @field_validator("task")
    @classmethod
    def _has_taken_a_class(cls, task: TaskSpec) -> TaskSpec:
        return task.of_run

    @model_validator(mode="after")
    def _epochs_are_fixed_where_nothing_is_held_out(self) -> Self:
        if self.task.protocol == "A":
            return self
        for key in ("patience", "minutes"):
            if getattr(self.train, key) is not None:
                raise ValueError(
                    f"train.{key} = {getattr(self.train, key)} ends training early, and in protocol class"
                    f" {self.task.protocol} the number of epochs is fixed before; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _only_spiking_layers_are_trained_as_such(self) -> Self:
        if isinstance(self.model, ModelSpec):
            return self
        train, activity = self.train, self.train.activity
        rounded = train.precision if train.precision != "float32" else None
        for key, value, what, instead in (
            ("activity.lower_strength", activity.lower_strength or None, "bounds spikes", "at 0"),
            ("activity.upper_strength", activity.upper_strength or None, "bounds spikes", "at 0"),
            ("recompute_steps", train.recompute_steps, "cuts time into stretches", "out"),
            ("precision", rounded, "is of products", "at float32"),
            ("delay_lr", train.delay_lr, "is for delays", "out"),
        ):
            if value is not None:
                raise ValueError(
                    f"train.{key} = {value} {what} in spiking layers, and a model of kind"
                    f" {self.model.kind} has none; leave it {instead}"
                )
        return self

    @model_validator(mode="after")
    def _counts_have_bins_to_count_in(self) -> Self:
        if not isinstance(self.model, CountsSpec):
            return self
        for key, bins, there, what in (
            ("time_bins", self.model.time_bins, self.n_steps, "time steps"),
            ("channel_bins", self.model.channel_bins or 1, self.n_channels, "channels"),
        ):
            if bins > there:
                raise ValueError(
                    f"model.{key} = {bins} is more than the input's {what}; take at most {there}"
                )
        return self

    @model_validator(mode="after")
    def _decays_fit_the_bin(self) -> Self:
        if not isinstance(self.model, ModelSpec):
            return self
        for part, spec in (("neuron", self.model.neuron), ("readout", self.model.readout)):
            for name in type(spec).model_fields:
                value = getattr(spec, name)
                key, tau_s = f"model.{part}.{name}", value
                if isinstance(value, PerUnit):
                    key, tau_s = f"{key}.low", value.low
                if name.startswith("tau_") and tau_s < self.train.dt_s:
                    raise ValueError(
                        f"{key} = {tau_s} s is shorter than the bin train.dt_s ="
                        f" {self.train.dt_s} s; take a smaller bin or a longer time constant"
                    )
        return self

    @model_validator(mode="after")
    def _stretches_make_a_whole(self) -> Self:
        if self.train.recompute_steps is None or not isinstance(self.model, ModelSpec):
            return self
        for key, value, why in (
            ("model.norm", self.model.norm == "batch", "which takes its mean over all steps"),
            (
                "model.readout.kind",
                self.model.readout.kind == "first-spike",
                "which looks at all steps at once",
            ),
            (
                "model.readout.norm",
                self.model.readout.kind == "leaky" and self.model.readout.norm == "batch",
                "which takes its mean over all steps",
            ),
            ("model.delays", self.model.delays is not None, "which looks back across them"),
        ):
            if value:
                raise ValueError(
                    f"train.recompute_steps cuts time into stretches, and {key} is one {why};"
                    " take one of them only"
                )
        return self

    @model_validator(mode="after")
    def _delays_fit_the_bins(self) -> Self:
        if not isinstance(self.model, ModelSpec):
            return self
        delays, dt_s, duration_s = self.model.delays, self.train.dt_s, self.task.duration_s
        if self.train.delay_lr is not None and not isinstance(delays, LearnedDelaySpec):
            raise ValueError(
                f"train.delay_lr = {self.train.delay_lr} is for delays that are learned; set"
                ' model.delays.kind = "learned", or leave it out'
            )
        if delays is None:
            return self
        key, longest_s = "max_s", getattr(delays, "max_s", 0.0)
        if isinstance(delays, DelayLineSpec):
            key, longest_s = "taps_s", max(delays.taps_s)
        if longest_s > duration_s:
            raise ValueError(
                f"model.delays.{key}: {longest_s} s is longer than the task's duration_s ="
                f" {duration_s} s, so nothing would arrive; take shorter delays"
            )
        if isinstance(delays, DelayLineSpec):
            bins = delays.bins(dt_s)
            if len(set(bins)) < len(bins):
                raise ValueError(
                    f"model.delays.taps_s = {list(delays.taps_s)} are {list(bins)} bins of"
                    f" train.dt_s = {dt_s} s, some of them equal; take other taps or a smaller bin"
                )
            return self
        if delays.n_bins(dt_s) == 0:
            raise ValueError(
                f"model.delays.max_s = {delays.max_s} s is no whole bin of train.dt_s = {dt_s} s;"
                " take a longer delay or a smaller bin"
            )
        if delays.sigma(0.0, dt_s) < delays.sigma_end:
            raise ValueError(
                f"model.delays: the Gaussian begins with a width of {delays.sigma(0.0, dt_s)} bins,"
                f" which cannot fall to sigma_end = {delays.sigma_end}; take a smaller one"
            )
        return self

    @model_validator(mode="after")
    def _kernels_fit_the_channels(self) -> Self:
        if not isinstance(self.model, ModelSpec):
            return self
        for i, shape in enumerate(self.model.conv_shapes(self.n_channels)):
            if shape.padding >= shape.positions_in:
                raise ValueError(
                    f"model.conv.kernels[{i}] = {shape.kernel} reaches {shape.padding} positions to"
                    f" either side, and there are {shape.positions_in} below it; take a smaller"
                    " kernel, or smaller strides before it"
                )
        return self

    @property
    def run_id(self) -> str:
        """Name of the run's folder: readable, and unique through the digest."""
        return f"{self.task.name}-{self.model.name}-seed{self.seed}-{self.digest[:10]}"

    @property
    def n_steps(self) -> int:
        """Number of time bins that cover the task's duration."""
        # 1e-9 absorbs the rounding of a quotient such as 1.4 / 0.014
        return max(1, int(-(-(self.task.duration_s / self.train.dt_s - 1e-9) // 1)))

    @property
    def n_channels(self) -> int:
        """Number of input channels after neighbouring units are summed."""
        return -(-self.task.n_units // self.train.units_per_channel)


class _Parts(Spec):
    """What an entry of the zoo says of a run."""

    model: AnyModelSpec
    train: TrainSpec


class ZooEntry(Spec):
    """A file of models/zoo, or one's own: a model, how it is trained, and where it comes from."""

    name: str
    """Part of the names of run folders."""
    summary: str
    source: str
    model: dict[str, Any]
    train: dict[str, Any]
    override: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Per task: dotted keys as in `--set`, for example {"hd": {"train.epochs": 60}}."""
    search: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Hyperparameter search space: dotted key to {low, high, log} or {choices}."""

    @field_validator("name")
    @classmethod
    def _is_one_word(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(
                f"{name!r} will not do as a part of a folder's name; take letters, digits, '-', '_'"
                " and '.', a letter or digit first"
            )
        return name

    def specs(self, task: str, overrides: Mapping[str, Any]) -> tuple[AnyModelSpec, TrainSpec]:
        """Model and training spec for a task, with the user's dotted overrides applied last.

        Where they change a kind, of a neuron for instance, keys of the entry that the new kind does not
        have are left out; keys of the user's own are never.
        """
        tree = {"model": {"name": self.name, **self.model}, "train": self.train}
        own = with_overrides(tree, self.override.get(task, {}))
        own = for_kinds_of(_Parts, own, with_overrides(own, overrides))
        parts = validated(_Parts, with_overrides(own, overrides), "")
        return parts.model, parts.train


def shipped_names(package: str, folder: str) -> list[str]:
    """Names (without .toml) of the TOML files in a folder that ships with `package`."""
    files = resources.files(package).joinpath(folder).iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def load_shipped(kind: type[Model], what: str, name: str, package: str, folder: str) -> Model:
    """The TOML file called `name` in such a folder; UsageError with near names if there is none."""
    names = shipped_names(package, folder)
    if name not in names:
        raise unknown_name(what, name, names)
    text = resources.files(package).joinpath(folder, f"{name}.toml").read_text("utf-8")
    return validated(kind, tomllib.loads(text), f"{folder}/{name}.toml")


def load_file(kind: type[Model], path: Path) -> Model:
    """A specification of one's own, from a TOML file.

    Raises
    ------
    UsageError
        There is no such file, or it is not TOML, or a key of it is unknown or does not fit.
    """
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as TOML: {error}") from None
    return validated(kind, tree, str(path))


def task_names() -> list[str]:
    """Names of all tasks that ship."""
    return shipped_names("snnbench.leaderboards", "tasks")


def superseded_tasks() -> list[TaskSpec]:
    """Earlier versions of tasks: results on them still verify, and compare with each other."""
    folder = "tasks/superseded"
    names = shipped_names("snnbench.leaderboards", folder)
    return [load_shipped(TaskSpec, "task", n, "snnbench.leaderboards", folder) for n in names]


def load_task(name: str) -> TaskSpec:
    """The task called `name`, or in the TOML file `name`; UsageError with near names if none is."""
    if name.endswith(".toml"):
        return load_file(TaskSpec, Path(name))
    return load_shipped(TaskSpec, "task", name, "snnbench.leaderboards", "tasks")


def model_names() -> list[str]:
    """Names of all models of the zoo."""
    return shipped_names("snnbench.models", "zoo")


def load_model(name: str) -> ZooEntry:
    """The zoo entry called `name`, or one's own in the TOML file `name`.

    Raises
    ------
    UsageError
        No such entry, told with near names; a file that cannot be read, or whose model has a name of the zoo.
    """
    if name.endswith(".toml"):
        entry = load_file(ZooEntry, Path(name))
        if entry.name in model_names():
            raise UsageError(
                f"{name}: name = {entry.name!r} is that of a model of the zoo, and results under it would"
                " pass for that one's; take another"
            )
        return entry
    return load_shipped(ZooEntry, "model", name, "snnbench.models", "zoo")


def make_run_spec(
    task: str, model: str, *, seed: int, data_fingerprint: str, overrides: Mapping[str, Any] = {}
) -> RunSpec:
    """Specification of one run from names and dotted overrides such as {"train.lr": 1e-3}.

    Raises
    ------
    UsageError
        Unknown task, model or key (with its path), or a value that does not fit.
    """
    task_spec = load_task(task)
    by_root: dict[str, dict[str, Any]] = {"task": {}, "model": {}, "train": {}}
    for key, value in overrides.items():
        root = key.split(".")[0]
        if root not in by_root:
            raise unknown_name("key", key, by_root)
        by_root[root][key] = value
    tree = with_overrides({"task": task_spec.model_dump(mode="json")}, by_root["task"])
    if (asked := tree["task"]["protocol"]) not in task_spec.protocols:
        raise UsageError(
            f"task {task_spec.name} allows protocol class {', '.join(task_spec.protocols)}, not {asked}"
        )
    model_spec, train_spec = load_model(model).specs(
        task_spec.name, {**by_root["model"], **by_root["train"]}
    )
    return validated(
        RunSpec,
        {
            "task": tree["task"],
            "model": model_spec,
            "train": train_spec,
            "seed": seed,
            "data_fingerprint": data_fingerprint,
        },
        "run",
    )


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Read `--set` arguments: "train.lr=1e-3" becomes {"train.lr": 0.001}.

    Values are TOML where they parse as TOML (numbers, true, [1, 2]), else plain text.
    """
    overrides: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {pair!r}: write KEY=VALUE, for example train.lr=1e-3")
        try:
            overrides[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            overrides[key.strip()] = text.strip()
    return overrides
