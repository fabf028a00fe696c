"""Basilar membrane: sound to the velocity of the membrane at every place.

The model is the shallow-water cochlea of Sieroka, Dosch & Rupp (2006), solved in the frequency
domain by the WKB (Liouville-Green) method. Each place is one complex transfer function V(w, c). With
c the distance from the base in cm and w the angular frequency:

    S(c)    = s0 exp(-alpha c) - a                        stiffness
    R(c)    = delta sqrt(s0 m) exp(-alpha c / 2)          damping
    xi(w,c) = S(c) - m w^2 - j w R(c)
    g(w,c)  = w sqrt(rho / (h xi))                        local wave number
    Phi     = (2/alpha) g(w,0) + integral of g from 0 to c
    p(w,c)  = sqrt(Phi / g) H0(Phi)                       pressure, H0 the Hankel function of kind one
    V(w,c)  = (2 w / xi) Z(w) p(w,c) / p(w,0)             Z: impedance at the stapes

Place 0 is the base and hears the highest frequencies.

`transfer_function` is the model itself, in double precision. `MembraneFilter` is what makes many
recordings fast: V sampled once on a logarithmic frequency grid, from which the values at the bins of
any recording are interpolated, whatever its length or rate (`cochlea_filterbank`).

Sieroka, Dosch & Rupp: Semirealistic models of the cochlea. J. Acoust. Soc. Am. 120, 297-304 (2006),
doi:10.1121/1.2204438.
"""

from __future__ import annotations

import hashlib
import logging
import math
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveFloat, model_validator

from snnbench.errors import SnnbenchError
from snnbench.paths import data_dir, whole_file

log = logging.getLogger(__name__)

CHANNELS_AT_ONCE = 16
"""Channels computed side by side: one or two vector registers of float32."""

_TABLE_VERSION = 1
_POINTS_PER_OCTAVE = 128  # interpolation error below 1e-4 of V with 4 points, 1e-10 with 12
_LOWEST_HZ = 0.98  # just below 1 Hz, the frequency at which the lowest bin is evaluated
_OCTAVES = 16  # to 64 kHz
# of a channel's peak |V|: beyond the last frequency above it V is taken as zero
_NEGLIGIBLE = 1e-6
_NEGLIGIBLE_EXACT = 1e-9
_MANTISSA_BITS = 14


class MembraneParameters(BaseModel):
    """Constants of the membrane, in the model's units (cm, g, s).

    Stiffness at the base was 1e8 in lauscher before 2021; 1e9 is the value of the article and of
    lauscher since.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    length_cm: PositiveFloat = 3.5
    stiffness_base: PositiveFloat = 1e9
    stiffness_offset: float = 3500.0
    stiffness_decay_per_cm: PositiveFloat = 3.0
    mass_per_area: PositiveFloat = 0.05
    damping: PositiveFloat = 0.15
    fluid_density: PositiveFloat = 1.0
    channel_height_cm: PositiveFloat = 0.1

    @model_validator(mode="after")
    def _stiff_everywhere(self) -> Self:
        at_apex = self.stiffness_base * math.exp(-self.stiffness_decay_per_cm * self.length_cm)
        if at_apex <= self.stiffness_offset:
            raise ValueError(
                f"the membrane's stiffness is not positive at the apex: {at_apex:.4g} (base and"
                f" decay) less {self.stiffness_offset:.4g} (offset)"
            )
        return self


def places_cm(n_channels: int, parameters: MembraneParameters) -> NDArray[np.float64]:
    """Distance from the base of each channel, in cm: evenly spaced, base first. Shape (channel,)."""
    return parameters.length_cm * np.arange(n_channels) / max(n_channels - 1, 1)


def characteristic_frequency_hz(
    place_cm: NDArray[np.float64], parameters: MembraneParameters
) -> NDArray[np.float64]:
    """Resonance frequency of the membrane at `place_cm`; |V| peaks at 0.89 to 1.0 times it."""
    p = parameters
    stiffness = p.stiffness_base * np.exp(-p.stiffness_decay_per_cm * place_cm)
    return np.sqrt((stiffness - p.stiffness_offset) / p.mass_per_area) / (2 * np.pi)


def transfer_function(
    frequency_hz: NDArray[np.float64], place_cm: float, parameters: MembraneParameters
) -> NDArray[np.complex128]:
    """Membrane velocity at one place per unit of sound, V(w, c).

    Parameters
    ----------
    frequency_hz
        Shape (frequency,), each above zero.
    place_cm
        Distance from the base, 0 to the membrane's length.

    Returns
    -------
    Complex gain, shape (frequency,); |V| peaks at 75 to 270 with the default constants.
    """
    return common_factor(frequency_hz, parameters) * place_factor(
        frequency_hz, place_cm, parameters
    )


def common_factor(
    frequency_hz: NDArray[np.float64], p: MembraneParameters
) -> NDArray[np.complex128]:
    """The part of V that all places share: 2 w Z(w) / p(w, 0)."""
    w = 2 * np.pi * frequency_hz
    return 2 * w * _stapes_impedance(w, p) / _pressure(w, 0.0, p)


def place_factor(
    frequency_hz: NDArray[np.float64], place_cm: float, p: MembraneParameters
) -> NDArray[np.complex128]:
    """The part of V that depends on the place: p(w, c) / xi(w, c)."""
    w = 2 * np.pi * frequency_hz
    return _pressure(w, place_cm, p) / _membrane_impedance(w, place_cm, p)


def _membrane_impedance(
    w: NDArray[np.float64], c: float, p: MembraneParameters
) -> NDArray[np.complex128]:
    """xi(w, c)."""
    stiffness = p.stiffness_base * np.exp(-p.stiffness_decay_per_cm * c) - p.stiffness_offset
    resistance = _base_resistance(p) * np.exp(-p.stiffness_decay_per_cm * c / 2)
    return stiffness - p.mass_per_area * w**2 - 1j * w * resistance


def _base_resistance(p: MembraneParameters) -> float:
    return p.damping * float(np.sqrt(p.stiffness_base * p.mass_per_area))


def _wave_number(w: NDArray[np.float64], c: float, p: MembraneParameters) -> NDArray[np.complex128]:
    """g(w, c)."""
    impedance = p.channel_height_cm * _membrane_impedance(w, c, p)
    return np.asarray(w * np.sqrt(p.fluid_density / impedance), np.complex128)


def _phase(w: NDArray[np.float64], c: float, p: MembraneParameters) -> NDArray[np.complex128]:
    """Phi(w, c), the integral in closed form.

    With K = a + m w^2, E = exp(-alpha c / 2) and Q = sqrt(s0 E^2 - K - j w r0 E) the wave number is
    w / (sqrt(h) Q), and d/dc of ln([-Q + j (2 K + j w r0 E) / (2 sqrt K)] / E) is, up to a constant
    factor, 1 / Q. Density is one in this closed form, as in the reference.
    """
    alpha = p.stiffness_decay_per_cm
    k = p.stiffness_offset + p.mass_per_area * w**2

    def antiderivative(c: float) -> NDArray[np.complex128]:
        e = np.exp(-alpha * c / 2)
        loss = 1j * w * _base_resistance(p) * e
        q = np.sqrt(p.stiffness_base * e**2 - k - loss)
        return (-q + 1j * (2 * k + loss) / (2 * np.sqrt(k))) / e

    ratio = antiderivative(0.0) / antiderivative(c)
    integral = -2j * w / (alpha * np.sqrt(p.channel_height_cm * k)) * np.log(ratio)
    return 2 / alpha * _wave_number(w, 0.0, p) + integral


def _pressure(w: NDArray[np.float64], c: float, p: MembraneParameters) -> NDArray[np.complex128]:
    """p(w, c)."""
    from scipy.special import hankel1

    phase = _phase(w, c, p)
    return np.sqrt(phase / _wave_number(w, c, p)) * hankel1(0, phase)


def _stapes_impedance(w: NDArray[np.float64], p: MembraneParameters) -> NDArray[np.complex128]:
    """Z(w)."""
    from scipy.special import j0, j1, y0, y1

    height, stiffness = p.channel_height_cm, p.stiffness_base
    b = 2 * w / p.stiffness_decay_per_cm * np.sqrt(2 / (height * stiffness))
    return np.sqrt(2 * stiffness / height) * (1j * j0(b) + y0(b)) / (j1(b) - 1j * y1(b))


class MembraneFilter(NamedTuple):
    """V on a logarithmic frequency grid, ready for interpolation.

    Attributes
    ----------
    grid_hz
        Frequencies of the grid, shape (grid,).
    table
        Shape (block, grid, 2, CHANNELS_AT_ONCE): real and imaginary part of V; channels beyond the
        last one are zero. float32, rounded so that it is the same on every machine, or float64, not
        rounded, for the exact mode.
    n_used
        Grid points of each block that are not negligible, shape (block,).
    """

    grid_hz: NDArray[np.float64]
    table: NDArray[np.float32] | NDArray[np.float64]
    n_used: NDArray[np.int64]


@lru_cache(maxsize=4)
def membrane_filter(
    n_channels: int, parameters: MembraneParameters, exact: bool = False
) -> MembraneFilter:
    """The filter of `n_channels` places: from memory, from the cache on disk, or computed (~2 s)."""
    path = _cache_path(n_channels, parameters, exact)
    table = _read_table(path)
    if table is None:
        log.info("computing the membrane's transfer functions (once): %s", path)
        table = _compute_table(n_channels, parameters, exact)
        _write_table(path, table)
    used = (table != 0).any(axis=(2, 3))
    n_used = np.array([row.nonzero()[0][-1] + 1 for row in used])
    return MembraneFilter(_grid_hz(), table, n_used)


def _grid_hz() -> NDArray[np.float64]:
    exponent = np.arange(_OCTAVES * _POINTS_PER_OCTAVE) / _POINTS_PER_OCTAVE
    # rounded to float32 so that the last bit of exp2 does not matter
    return (_LOWEST_HZ * np.exp2(exponent)).astype(np.float32).astype(np.float64)


def _compute_table(
    n_channels: int, parameters: MembraneParameters, exact: bool
) -> NDArray[np.float32] | NDArray[np.float64]:
    grid = _grid_hz()
    n_blocks = -(-n_channels // CHANNELS_AT_ONCE)
    shape = (n_blocks, len(grid), 2, CHANNELS_AT_ONCE)
    table = np.zeros(shape, np.float64 if exact else np.float32)
    at_stapes = common_factor(grid, parameters)
    places = places_cm(n_channels, parameters)
    # |V| < 1e-7, 1e-10 of its peak beyond
    highest = (8 if exact else 4) * characteristic_frequency_hz(places, parameters)
    negligible = _NEGLIGIBLE_EXACT if exact else _NEGLIGIBLE
    for channel, place in enumerate(places):
        n = int(np.searchsorted(grid, highest[channel]))
        gain = at_stapes[:n] * place_factor(grid[:n], float(place), parameters)
        magnitude = np.abs(gain)
        n = int(np.nonzero(magnitude > negligible * magnitude.max())[0][-1]) + 1
        gain = gain[:n] if exact else _coarse(gain[:n])
        block, lane = divmod(channel, CHANNELS_AT_ONCE)
        table[block, :n, 0, lane] = gain.real
        table[block, :n, 1, lane] = gain.imag
    return table


def _coarse(gain: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Round both parts to a grid 2^-14 of the magnitude's power of two.

    The last bits of the special functions differ between machines (about 1e-15); after rounding to
    6e-5, some -90 dB, two machines hold the same table.
    """
    _, exponent = np.frexp(np.maximum(np.abs(gain.real), np.abs(gain.imag)))
    step = np.ldexp(1.0, exponent - _MANTISSA_BITS)
    return np.round(gain.real / step) * step + 1j * (np.round(gain.imag / step) * step)


def _cache_path(n_channels: int, parameters: MembraneParameters, exact: bool) -> Path:
    key = f"{_TABLE_VERSION} {n_channels} {parameters.model_dump_json()} {_POINTS_PER_OCTAVE}"
    key += f" {_LOWEST_HZ} {_OCTAVES} {_NEGLIGIBLE} {_MANTISSA_BITS} {CHANNELS_AT_ONCE}"
    if exact:
        key += f" exact {_NEGLIGIBLE_EXACT}"
    digest = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    return data_dir() / "cochlea-tables" / f"membrane-{digest}.npz"


def _write_table(path: Path, table: NDArray[np.floating]) -> None:
    try:
        with whole_file(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, table=table)
    except SnnbenchError as error:  # a cache that cannot be written only costs time
        log.warning("membrane table not cached: %s", error)


def _read_table(path: Path) -> NDArray[Any] | None:
    """The table in the file, or None when there is none or it is damaged."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays["table"]  # the zip archive's own checksum tells of damage
    except FileNotFoundError:
        return None
    except Exception as error:
        log.warning("%s: damaged (%s), computing it again", path, error)
        return None
