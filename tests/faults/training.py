"""A short training with everything that a run has of state, as a process that can be killed.

    python -m tests.faults.training FOLDER

goes on with what FOLDER holds and says on stdout, line by line: `begins EPOCHS_DONE`, `step` after every
step, `epoch N` after every epoch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from snnbench.checkpoint import load_tensors
from snnbench.train import RESUME_FILE, FitResult, fit
from tests.toy_spikes import toy_spec, toy_split

SPEC = toy_spec(
    "rec-lif",
    model__dropout=0.2,
    model__norm="batch",
    train__epochs=6,
    train__batch_size=16,
    train__ema_decay=0.9,
    train__schedule="cosine",
    train__augment={"deletion_p": 0.1, "time_jitter_s": 0.002},
)
TRAIN, VALID = toy_split(90, 1), toy_split(40, 2)
STEPS = 6
"""Of an epoch."""


def say(text: str) -> None:
    """A line that the parent reads at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def train(folder: Path) -> FitResult:
    """Begin, or go on."""
    state = folder / RESUME_FILE
    say(f"begins {len(load_tensors(state).extra['history']) if state.exists() else 0}")
    return fit(
        SPEC,
        TRAIN,
        VALID,
        folder=folder,
        device=torch.device("cpu"),
        resume=True,
        on_batch=lambda report: say("step"),
        on_epoch=lambda report: say(f"epoch {report.epoch}"),
    )


if __name__ == "__main__":
    train(Path(sys.argv[1]))
