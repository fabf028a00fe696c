"""Pictures of the network in a run folder, whether the run is finished or not.

A finished run has its weights in model.safetensors, and the record says which ones. Of an unfinished or
diverged one the state that training resumes from has the weights of the best epoch so far.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from snnbench.bench import (
    RECORD_FILE,
    before_and_after,
    engine_called,
    engine_of,
    finished_record,
    save_pictures,
)
from snnbench.errors import SnnbenchError
from snnbench.paths import file_sha256

if TYPE_CHECKING:
    import torch

    from snnbench.data_prep.store import SpikeDataset
    from snnbench.models.network_base import Network
    from snnbench.record import RunRecord
    from snnbench.spec import RunSpec


class TrainedRun(NamedTuple):
    """A run's network with the weights of its chosen epoch."""

    network: Network
    """With the run's own engine, where that runs on the device."""
    device: torch.device
    spec: RunSpec
    epoch: int
    remark: str
    """In words why the run is not a finished one; else empty."""


def open_run(folder: Path, device: torch.device) -> TrainedRun:
    """The network in a run folder.

    Raises
    ------
    SnnbenchError
        No run folder; a finished run whose weights are missing or others; an unfinished one without its
        training state; damaged files.
    """
    from snnbench.train import MODEL_FILE, RESUME_FILE

    known = (RECORD_FILE, MODEL_FILE, RESUME_FILE)
    if not any((folder / name).is_file() for name in known):
        raise SnnbenchError(
            f"{folder}: not a run folder, there is no {RECORD_FILE} and no {RESUME_FILE} in it;"
            " name a folder that `snnbench train` or `bench` has made"
        )
    record = finished_record(folder)
    if record is not None and record.status == "finished":
        return _finished(folder, record, device)
    return _unfinished(folder, "unfinished" if record is None else "diverged", device)


def draw_run(run: TrainedRun, dataset: SpikeDataset, out: Path, *, sample: int = 0) -> list[Path]:
    """Draw a run's network before and after training, as SVG and PNG; returns the files written.

    Parameters
    ----------
    run : from `open_run`.
    dataset : the run's data, of which only validation samples are read.
    out : folder for the pictures.
    sample : validation sample that the rasters show.

    Raises
    ------
    SnnbenchError
        Data that are not the run's; no such sample.
    """
    dataset.require(run.spec.data_fingerprint)
    n = dataset.n_samples("valid")
    if not 0 <= sample < n:
        raise SnnbenchError(
            f"--sample {sample}: the validation split of {dataset.path} has {n} samples, 0 to {n - 1}"
        )
    figures = before_and_after(
        run.spec,
        dataset,
        run.network,
        run.device,
        sample=sample,
        matrices=True,
        remark=run.remark,
    )
    return save_pictures(out, figures)


def _finished(folder: Path, record: RunRecord, device: torch.device) -> TrainedRun:
    from snnbench.checkpoint import load_network
    from snnbench.train import MODEL_FILE

    path = folder / MODEL_FILE
    if not path.is_file():
        raise SnnbenchError(
            f"{path}: missing, so there are no weights to draw; copy it from where the run was trained,"
            " or train it again with --overwrite"
        )
    if (digest := file_sha256(path)) != record.checkpoint_sha256:
        raise SnnbenchError(
            f"{path}: sha256 {digest} is not the record's, {record.checkpoint_sha256}"
        )
    network, spec = load_network(path)
    network.engine = engine_of(record, device)
    return TrainedRun(network.to(device), device, spec, record.chosen_epoch or 0, "")


def _unfinished(folder: Path, status: str, device: torch.device) -> TrainedRun:
    from snnbench.checkpoint import build_for_weights
    from snnbench.train import RESUME_FILE, best_so_far

    path = folder / RESUME_FILE
    if not path.is_file():
        raise SnnbenchError(
            f"{folder}: holds a run that is {status}, without its training state ({RESUME_FILE});"
            " train it for an epoch at least, or copy the whole folder"
        )
    best = best_so_far(folder)
    network = build_for_weights(best.spec, best.weights, path)
    network.engine = engine_called(best.engine, device)
    remark = f"{status} run, epoch {best.epoch} is the best of {best.epochs_done}"
    return TrainedRun(network.to(device), device, best.spec, best.epoch, remark)
