"""The cochlea's stages, kept while a recording goes through: summed up for pictures, or all of them.

Both keepers are observers (see `cochlea.cochlea_spikes`): they are shown one block of channels at a
time, so that memory does not grow with channels times length.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnbench.data_prep.cochlea import CochleaParameters, Mode, Observer
from snnbench.paths import whole_file

_BIN_S = 1e-3
_MOST_BINS = 1000


class StageSums:
    """Stages summed up in time bins of 1 ms, or longer where that gives more than 1000 bins.

    Attributes
    ----------
    bin_s
        Width of a bin, in s.
    velocity
        Root mean square of the membrane's velocity, shape (bin, channel).
    wanted_hz
        Spikes a second and fibre that the hair cell's probability asks for, shape (bin, channel).
    fibre_hz
        Spikes a second and fibre that came, shape (bin, channel).
    """

    def __init__(self, n_samples: int, sample_rate_hz: int, parameters: CochleaParameters):
        n_steps, self._rate_hz = n_samples // 2 + 1, sample_rate_hz // 2
        self._n_fibres = parameters.n_fibres
        self._bin_steps = max(round(_BIN_S * self._rate_hz), -(-n_steps // _MOST_BINS))
        self.bin_s = self._bin_steps / self._rate_hz
        shape = (n_steps // self._bin_steps + 1, parameters.n_channels)
        self.velocity = np.zeros(shape, np.float32)
        self.wanted_hz = np.zeros(shape, np.float32)
        self.fibre_hz = np.zeros(shape, np.float32)

    def __call__(self, stage: str, first: int, rows: NDArray[np.floating]) -> None:
        """Take in the stage `stage` of the channels from `first` on."""
        channels = slice(first, first + rows.shape[1])
        if stage == "velocity":
            self.velocity[:, channels] = np.sqrt(self._means(rows**2))
        elif stage == "probability":
            self.wanted_hz[:, channels] = self._means(rows) * self._rate_hz
        else:
            self.fibre_hz[:, channels] = self._means(rows) * (self._rate_hz / self._n_fibres)

    def _means(self, rows: NDArray[np.floating]) -> NDArray[np.floating]:
        starts = np.arange(0, len(rows), self._bin_steps)
        lengths = np.diff(np.append(starts, len(rows)))
        means = np.zeros((len(self.velocity), rows.shape[1]), rows.dtype)
        means[: len(starts)] = np.add.reduceat(rows, starts, axis=0) / lengths[:, None]
        return means


def stage_file_bytes(n_samples: int, parameters: CochleaParameters, mode: Mode) -> int:
    """Size of the file that `stage_file` writes, nearly."""
    value = 4 if mode == "fast" else 8
    return (n_samples // 2 + 1) * parameters.n_channels * (2 * value + 2)


@contextmanager
def stage_file(
    path: Path, n_samples: int, parameters: CochleaParameters, mode: Mode
) -> Iterator[Observer]:
    """Yield an observer that keeps every stage; at the end they are in the npz file `path`.

    Arrays `velocity`, `probability` and `fibre_counts`, each of shape (time, channel) at half the
    sound's rate. The file appears whole or not at all; on the way its size is used once more beside it.
    """
    shape = (n_samples // 2 + 1, parameters.n_channels)
    value = np.float32 if mode == "fast" else np.float64
    with whole_file(path) as archive, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        arrays: dict[str, Any] = {
            name: np.lib.format.open_memmap(
                Path(folder, f"{name}.npy"), "w+", dtype=dtype, shape=shape, fortran_order=True
            )
            for name, dtype in (
                ("velocity", value),
                ("probability", value),
                ("fibre_counts", np.uint16),
            )
        }

        def keep(stage: str, first: int, rows: NDArray[np.floating]) -> None:
            arrays[stage][:, first : first + rows.shape[1]] = rows

        yield keep
        with zipfile.ZipFile(archive, "w", allowZip64=True) as file:
            for name, array in arrays.items():
                array.flush()
                file.write(Path(folder, f"{name}.npy"), f"{name}.npy")


def together(observers: list[Observer]) -> Callable[[str, int, NDArray[np.floating]], None]:
    """One observer that shows everything to several."""

    def show(stage: str, first: int, rows: NDArray[np.floating]) -> None:
        for observer in observers:
            observer(stage, first, rows)

    return show
