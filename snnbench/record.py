"""The one schema of results: RunRecord (one seed), Predictions (its proof), Entry (a leaderboard row).

A record is JSON and the truth about a run; MLflow shows a view of it. Readers accept only what the
schema knows, and a record ends with the sha256 of its own values, so an edited, damaged or truncated
file is refused by name.
"""

from __future__ import annotations

import hashlib
import io
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from snnbench.errors import SnnbenchError
from snnbench.metrics import Counts, pooled
from snnbench.paths import write_bytes, write_text
from snnbench.spec import ProtocolClass, RunSpec
from snnbench.spec_base import describe_validation_error


def _says_nothing(value: Any) -> bool:
    """Of a field that came after the first records: left out, so that those keep their bytes."""
    return value is None or (isinstance(value, (tuple, dict)) and not value)


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataIdentity(_Schema):
    """Which data a run used, in hashes that do not depend on the file's bytes.

    The first four are the same for everyone who starts from the same source files and recipe;
    `fingerprint` covers the spike arrays themselves.
    """

    name: str
    synthetic: bool
    recipe_sha256: str
    source_sha256: str
    split_sha256: str
    labels_sha256: str
    fingerprint: str
    n_samples: dict[str, int]
    """Samples per split."""
    groups: dict[str, list[str]]
    """Groups (speakers) per split."""


class Environment(_Schema):
    """Where a record came from."""

    snnbench: str
    commit: str | None
    """Git commit of the checkout; None outside a checkout."""
    dirty: bool | None
    python: str
    packages: dict[str, str]
    platform: str
    processor: str
    device: str
    threads: int
    deterministic: bool
    engine: str | None = Field(default=None, exclude_if=_says_nothing)
    """Implementation of the scan that ran (snnbench/models/engines.py); None in records that came before, and
    of a network without spiking layers."""


class LayerWork(_Schema):
    """Synaptic operations of one layer per test sample, averaged over all test samples.

    What arrives in a layer decides of which kind they are: spikes are added up (accumulates), any other
    number is multiplied first (multiply-accumulates).
    """

    dense: float = Field(ge=0)
    """Every synapse in every time step."""
    effective_acs: float = Field(ge=0)
    """One for every spike and synapse that it meets."""
    effective_macs: float = Field(ge=0)
    """One for every synapse and time at which something else than spikes arrives, zeros included."""


class Operations(_Schema):
    """Work per test sample, averaged over all test samples.

    `spikes` are a layer's output spikes. `dense_macs` counts every weight at every time step;
    `effective_acs` counts an accumulate for every spike and outgoing weight (a bin that holds k input
    spikes counts k). Formula and scope: docs/protocol.md.
    """

    spikes: dict[str, float]
    dense_macs: float
    effective_acs: float
    layers: dict[str, LayerWork] = Field(default={}, exclude_if=_says_nothing)
    """The same, layer by layer, by the layer in which they are done."""


class Footprint(_Schema):
    """How large a network is, and how little of it is at work."""

    n_bytes: int = Field(ge=0)
    """Parameters and buffers in memory, as in evaluation."""
    connection_sparsity: float = Field(ge=0, le=1)
    """Share of weights that are exactly 0."""
    activation_sparsity: dict[str, float]
    """Share of units and time steps without a spike, for each layer that spikes, over all test samples."""


class EpochFigures(_Schema):
    """One epoch of training."""

    loss: float
    train_accuracy: float = Field(ge=0, le=1)
    """Gathered while the weights change, with dropout."""
    validation_accuracy: float | None = Field(ge=0, le=1)
    """None where nothing is held out (class C)."""
    seconds: float = Field(ge=0)


class Moment(_Schema):
    """Accuracy if the decision is taken before a sample is over."""

    seen_s: float = Field(gt=0)
    """So much of each sample has been seen."""
    test: Counts


class Stack(_Schema):
    """Seeds of one model, trained side by side in one process (snnbench/train.py): what it cost in time.

    A step that n seeds do together counts for each of them as an nth of its time, in `history`,
    `seconds_per_epoch`, `training_s` and `wall_s`: these add up over the seeds to what the clock said.
    """

    seeds: int = Field(ge=2)
    """The most at a time, this one counted."""
    clock_s: float = Field(ge=0)
    """On the clock, while this seed was trained, with what the others did meanwhile."""


class RunRecord(_Schema):
    """Everything about one finished or diverged run."""

    schema_version: Literal["snnbench-record/1"] = "snnbench-record/1"
    run_id: str
    status: Literal["finished", "diverged"]
    spec: RunSpec
    data: DataIdentity
    protocol: ProtocolClass
    epochs_run: int
    chosen_epoch: int | None
    """Epoch (from 1) with the best validation accuracy, the earlier one at a tie; the last one where the
    number of epochs was fixed before (classes B and C)."""
    validation: Counts | None
    """Of the chosen epoch. Class B: of that many epochs, over all folds. Class C: None."""
    test: Counts | None
    """None for a diverged run, which counts as a seed without a correct prediction."""
    test_by_group: dict[str, Counts] = {}
    test_reads: int = Field(ge=0)
    """How often the test split was opened: 1 for a finished run, 0 for a diverged one."""
    operations: Operations | None
    n_parameters: int
    tuning_trials: int = Field(default=0, ge=0)
    """Hyperparameter trials spent on validation data before this run."""
    predictions_sha256: str | None
    checkpoint_sha256: str | None
    environment: Environment
    started_at: str
    """UTC, ISO 8601."""
    wall_s: float
    seconds_per_epoch: float
    history: tuple[EpochFigures, ...] = Field(default=(), exclude_if=_says_nothing)
    """Epoch by epoch, from the first."""
    folds: dict[str, tuple[Counts, ...]] = Field(default={}, exclude_if=_says_nothing)
    """Class B: validation after each epoch, by the speaker left out."""
    latency: tuple[Moment, ...] = Field(default=(), exclude_if=_says_nothing)
    """Latency to decision: accuracy against time seen; the last moment is the whole sample."""
    footprint: Footprint | None = Field(default=None, exclude_if=_says_nothing)
    training_s: float | None = Field(default=None, ge=0, exclude_if=_says_nothing)
    """On the clock, all epochs with their validation, in whichever session they were done; of a stack, this
    seed's share."""
    peak_memory_bytes: int | None = Field(default=None, ge=0, exclude_if=_says_nothing)
    """Of the process that trained, or of the GPU where one was used, in the session that finished the run; of
    a stack, all of it."""
    stack: Stack | None = Field(default=None, exclude_if=_says_nothing)
    """None of a seed that was trained alone."""

    def heard_before(self) -> dict[str, Counts]:
        """Test counts of speakers who are heard in training or validation, and of those who are not.

        Keys `seen` and `unseen`, each only where there are such speakers; empty without test.
        """
        known = {*self.data.groups.get("train", ()), *self.data.groups.get("valid", ())}
        parts = {
            "seen": pooled(self.test_by_group, known),
            "unseen": pooled(self.test_by_group, self.test_by_group.keys() - known),
        }
        return {name: counts for name, counts in parts.items() if counts}


class Entry(_Schema):
    """A leaderboard row's cover sheet."""

    schema_version: Literal["snnbench-entry/1"] = "snnbench-entry/1"
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    task: str
    model: str
    authors: list[str] = Field(min_length=1)
    code: str = ""
    paper: str = ""
    licence: str = "GPL-3.0-or-later"
    note: str = ""
    provisional: bool = False
    """Made from a checkout with uncommitted changes, or of seeds with gaps: shown, never ranked."""


class Predictions(NamedTuple):
    """Test predictions in file order, each of shape (sample,)."""

    labels: NDArray[np.uint16]
    predictions: NDArray[np.uint16]
    groups: NDArray[np.uint16]
    """Index into `RunRecord.data.groups["test"]`."""


def labels_sha256(
    labels: NDArray[np.integer], groups: NDArray[np.integer], names: list[str]
) -> str:
    """Digest of test labels and groups (indices into `names`) in file order."""
    digest = hashlib.sha256(json.dumps(names).encode())
    for array in (labels, groups):
        digest.update(np.ascontiguousarray(array, dtype="<u2").tobytes())
    return digest.hexdigest()


def sha256_of(data: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(data).hexdigest()


def write_record(path: Path, record: RunRecord) -> None:
    """Write a record as indented JSON with its seal, whole or not at all."""
    data = sealed(record.model_dump(mode="json"))
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def read_record(path: Path) -> RunRecord:
    """Read and validate a record.

    Types have to be the schema's own (no "1" for 1) and no key may stand twice, so that every reader of JSON
    sees the same record.

    Raises
    ------
    SnnbenchError
        Naming the file and the key that does not fit, or a record that is not what was written.
    """
    text = json.dumps(_load(path, sealed_json))
    return _validated(RunRecord.model_validate_json, text, RunRecord, path)


_SEAL = "sha256"


def sealed(data: dict[str, Any]) -> dict[str, Any]:
    """JSON data with the key `sha256`: of all other keys in canonical JSON.

    It is taken of the values as they stand in the file, so that a later version of the schema, which may
    know more keys, finds the same. It protects against accidents, not against forgers.
    """
    data = {key: value for key, value in data.items() if key != _SEAL}
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return {**data, _SEAL: sha256_of(text.encode())}


def sealed_json(text: str) -> Any:
    """What was sealed, parsed and without the seal; ValueError where it is not what was sealed.

    Files of snnbench 0.1 have no seal and are taken as they are.
    """
    data = json.loads(text, object_pairs_hook=_once)
    if not isinstance(data, dict) or _SEAL not in data:
        return data
    right = sealed(data)[_SEAL]
    if (seal := data.pop(_SEAL)) != right:
        raise ValueError(
            f"it was changed or damaged: its {_SEAL} is {seal!r}, that of the other keys {right}"
        )
    return data


def write_predictions(path: Path, predictions: Predictions) -> str:
    """Write predictions as a compressed npz and return the sha256 of the file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{k: v.astype("<u2") for k, v in predictions._asdict().items()})
    write_bytes(path, buffer.getvalue())
    return sha256_of(buffer.getvalue())


_MOST_BYTES = 1 << 28
"""Of unpacked predictions: 45 million samples. A small file may claim to hold more, and fill the memory."""


def read_predictions(path: Path, sha256: str | None = None) -> Predictions:
    """Read predictions.

    Parameters
    ----------
    sha256 : what the file's sha256 has to be, as its record says; None asks for none.

    Raises
    ------
    SnnbenchError
        The file is not what `write_predictions` makes, or another one than the record's.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise SnnbenchError(f"{path}: no such predictions file") from None
    except OSError as error:
        raise SnnbenchError(f"{path}: cannot read: {error.strerror or error}") from None
    if sha256 is not None and (found := sha256_of(content)) != sha256:
        raise SnnbenchError(f"{path}: sha256 {found} is not the record's, {sha256}")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            if (size := sum(member.file_size for member in archive.zip.infolist())) > _MOST_BYTES:
                raise ValueError(f"unpacked it has {size:,} bytes, more than {_MOST_BYTES:,}")
            if sorted(archive.files) != sorted(Predictions._fields):
                raise ValueError(f"holds {', '.join(archive.files)}")
            arrays = {name: archive[name] for name in Predictions._fields}
    except Exception as error:  # a damaged zip raises nearly anything
        raise SnnbenchError(f"{path}: not a predictions file: {error}") from None
    n = len(arrays["labels"])
    for name, array in arrays.items():
        if array.dtype != np.uint16 or array.shape != (n,):
            raise SnnbenchError(
                f"{path}: {name} has type {array.dtype} and shape {array.shape}, expected uint16 ({n},)"
            )
    return Predictions(**arrays)


def read_entry(path: Path) -> Entry:
    """Read and validate an entry.toml."""
    return _validated(Entry.model_validate, _load(path, tomllib.loads), Entry, path)


def _load(path: Path, parse: Any) -> Any:
    try:
        return parse(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise SnnbenchError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SnnbenchError(f"{path}: cannot be read: {error}") from None


_S = TypeVar("_S", bound=BaseModel)


def _validated(validate: Callable[..., _S], data: Any, kind: type[_S], path: Path) -> _S:
    try:
        return validate(data, strict=True)
    except ValidationError as error:
        raise SnnbenchError(describe_validation_error(kind, error, str(path))) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no key stands twice."""
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)}: more than once in one object")
    return dict(pairs)
