"""A data file by its fingerprint: where the coordinator has it, or in this machine's own folder."""

from __future__ import annotations

import platform
from pathlib import Path

from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError
from snnbench.paths import data_dir


def locate_data(path: Path, fingerprint: str) -> Path:
    """The file at `path`, else one in this machine's data folder, with this fingerprint.

    Raises
    ------
    SnnbenchError
        There is none; names this host and what was looked at.
    """
    looked = []
    for candidate in (path, *sorted(data_dir().glob("*.h5"))):
        try:
            with SpikeDataset.open(candidate) as dataset:
                dataset.require(fingerprint)
                return candidate
        except SnnbenchError as error:
            looked.append(str(error))
    found = "\n".join(f"  {line}" for line in looked)
    raise SnnbenchError(
        f"host {platform.node()}: no data file with fingerprint {fingerprint} at {path} or in"
        f" {data_dir()}; copy it there. Looked at:\n{found}"
    )
