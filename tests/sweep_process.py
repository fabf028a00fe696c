"""A process that runs a sweep on toy data: what tests start several of, and kill.

They are forked from one process that has PyTorch already, which saves seconds each.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from snnbench.sweep import Progress, run_sweep
from tests.test_sweep import TRAIN, VALID, toy_sweep

SWEEP = toy_sweep(train__epochs=1)
HANGS = "hangs"
"""File in the folder: a process has come to where it hangs."""


def start(
    folder: Path, trials: int, *, storage: str | None = None, wait: bool = False, hang: int = -1
) -> Any:
    """Begin a process; it says what it says in a file of the folder, see `said`.

    With `hang` it stops for ever after the first epoch of its trial of that number, its heart still beating.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.sweep_process"])
    process = context.Process(target=_work, args=(folder, trials, storage, wait, hang), daemon=True)
    process.start()
    return process


def said(folder: Path) -> str:
    """What all processes have said."""
    return "".join(path.read_text() for path in sorted(folder.glob("*.said")))


def _work(folder: Path, trials: int, storage: str | None, wait: bool, hang: int) -> None:
    folder.mkdir(exist_ok=True)
    with open(folder / f"{os.getpid()}.said", "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = file, file
        n_epochs = 0

        def on_progress(progress: Progress) -> None:
            nonlocal n_epochs
            if progress.epoch:
                if n_epochs == hang:
                    (folder / HANGS).touch()
                    time.sleep(3600)
                n_epochs += 1

        run_sweep(
            SWEEP,
            TRAIN,
            VALID,
            folder=folder,
            trials=trials,
            storage=storage,
            wait=wait,
            device=torch.device("cpu"),
            sampler="random",
            on_progress=on_progress,
            heartbeat_s=1,
            grace_s=3,
        )
