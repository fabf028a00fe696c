"""Fibres drawn one by one, with NumPy's own random numbers: what makes the exact mode exact.

In the exact mode (`cochlea.cochlea_spikes`) the whole chain runs in double precision, with the
recording's own transform length, and every fibre compares one uniform number with the spike
probability in every time step. The numbers are those of NumPy's legacy generator, the Mersenne
Twister MT19937, in the order in which lauscher 1.0.1 takes them: channel by channel, and in a channel
row by row of `numpy.random.rand(time, fibre)`. So the spikes are lauscher's after
`numpy.random.seed(s)`, spike for spike.

NumPy makes the generator's first state; its recurrence (Matsumoto & Nishimura, ACM TOMACS 8, 3-30,
1998, doi:10.1145/272991.272995) is stepped here, because nearly all of the 672 million numbers in a
second of sound need not be finished: a number u is made of two words of the generator, its upper 27
bits from the first, and these alone tell that u is not below P in more than 99 of 100 cases.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from snnbench.errors import UsageError

_WORDS, _SHIFT = 624, 397  # n and m of MT19937
_NUMBERS = _WORDS // 2  # uniform numbers in one state


class MersenneTwister(NamedTuple):
    """State of the generator; changed by drawing.

    Attributes
    ----------
    words
        Shape (624,), uint32.
    upper
        Upper 27 bits of the uniform numbers that the words give, shape (312,), uint32.
    used
        How many of these are used up, shape (1,).
    """

    words: NDArray[np.uint32]
    upper: NDArray[np.uint32]
    used: NDArray[np.int64]


def mersenne_twister(seed: int, key: str | int | None) -> MersenneTwister:
    """The generator after `numpy.random.seed`.

    Without a key the seed is NumPy's. With one, which gives each recording of a data set random
    numbers of its own, NumPy's seed is the first four bytes, little end first, of the BLAKE2b hash
    (of 8 bytes) of "seed:key".

    Raises
    ------
    UsageError
        The seed is not below 2^32, as NumPy needs it.
    """
    if key is not None:
        digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
        seed = int.from_bytes(digest[:4], "little")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed {seed}: the exact mode takes seeds from 0 to {2**32 - 1}")
    words = np.random.RandomState(seed).get_state(legacy=False)["state"]["key"]
    return MersenneTwister(
        words.astype(np.uint32), np.empty(_NUMBERS, np.uint32), np.array([_NUMBERS])
    )


def fibre_spikes_exact(
    probability: NDArray[np.float64],
    n_lanes: int,
    generator: MersenneTwister,
    n_fibres: int,
    dead_steps: int,
) -> None:
    """Replace the spike probability of a block of channels by the number of fibres that fire.

    Parameters
    ----------
    probability
        Shape (time, CHANNELS_AT_ONCE), per fibre and time step; overwritten.
    n_lanes
        Channels in this block; the others draw no numbers.
    generator
        Goes on from block to block.
    dead_steps
        Shortest distance of two spikes of a fibre, in time steps.
    """
    _run(probability, n_lanes, *generator, n_fibres, dead_steps)


@njit(cache=True, error_model="numpy")
def _run(
    rows: NDArray[np.float64],
    n_lanes: int,
    words: NDArray[np.uint32],
    upper: NDArray[np.uint32],
    used: NDArray[np.int64],
    n_fibres: int,
    dead_steps: int,
) -> None:
    last = np.empty(n_fibres, np.int64)
    new = np.empty_like(words)
    number = used[0]
    for lane in range(n_lanes):
        last[:] = -dead_steps
        for t in range(len(rows)):
            p = rows[t, lane]
            highest = np.uint32(min(p, 1.0) * 2**27)
            count, fibre = 0, 0
            while fibre < n_fibres:
                if number == _NUMBERS:
                    _next_state(words, new, upper)
                    number = 0
                n = min(n_fibres - fibre, _NUMBERS - number)
                some = 0
                for bits in upper[number : number + n]:
                    some += bits <= highest
                if some:
                    for i in range(n):
                        if upper[number + i] <= highest:
                            u = _uniform(upper[number + i], words[2 * (number + i) + 1])
                            if u < p and t - last[fibre + i] >= dead_steps:
                                last[fibre + i] = t
                                count += 1
                number += n
                fibre += n
            rows[t, lane] = count
    used[0] = number


@njit(cache=True)
def _next_state(
    words: NDArray[np.uint32], new: NDArray[np.uint32], upper: NDArray[np.uint32]
) -> None:
    """Step all words of the generator, and make the upper bits of their numbers.

    `new` is working space: plain loops from one array to another go through vector registers.
    """
    before = _WORDS - _SHIFT
    for i in range(before):
        new[i] = words[i + _SHIFT] ^ _twisted(words[i], words[i + 1])
    for i in range(_SHIFT - 1):
        new[i + before] = new[i] ^ _twisted(words[i + before], words[i + before + 1])
    new[_WORDS - 1] = new[_SHIFT - 1] ^ _twisted(words[_WORDS - 1], new[0])
    for i in range(_NUMBERS):
        upper[i] = _tempered(new[2 * i]) >> np.uint32(5)
    for i in range(_WORDS):
        words[i] = new[i]


@njit(inline="always")
def _twisted(word: np.uint32, following: np.uint32) -> np.uint32:
    joined = (word & np.uint32(0x80000000)) | (following & np.uint32(0x7FFFFFFF))
    odd = np.uint32(0) - (following & np.uint32(1))
    return np.uint32((joined >> np.uint32(1)) ^ (odd & np.uint32(0x9908B0DF)))


@njit(inline="always")
def _tempered(word: np.uint32) -> np.uint32:
    word = np.uint32(word ^ (word >> np.uint32(11)))
    word = np.uint32(word ^ ((word << np.uint32(7)) & np.uint32(0x9D2C5680)))
    word = np.uint32(word ^ ((word << np.uint32(15)) & np.uint32(0xEFC60000)))
    return np.uint32(word ^ (word >> np.uint32(18)))


@njit(inline="always")
def _uniform(upper: np.uint32, word: np.uint32) -> np.float64:
    """NumPy's double in [0, 1): 27 bits of one word and 26 of the next."""
    return (upper * 67108864.0 + (_tempered(word) >> np.uint32(6))) / 9007199254740992.0
