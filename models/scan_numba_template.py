# ruff: noqa: F401, F821, F841
# mypy: ignore-errors
"""The scan of one kind of neuron for numba: all time steps forward, and the adjoint backward.

A template: `snnbench.models.scan_numba` puts the statements of a neuron's step and its adjoint, which come
from `snnbench.models.derivation`, where a comment names them after an @, and compiles what comes out. It is
the same algorithm as scan_kernel.cpp, where each step of it is explained.

All arrays are flat; their shapes stand at the structs. A missing one is empty. What the loops over units read
and write besides the caller's arrays lies in blocks of BLOCK units, (..., block, part, unit of the block): at
fixed distances the compiler sees that parts do not overlap, and makes vector instructions.
"""

import math

import numpy as np
from numba import njit

from snnbench.models.scan_numba_rows import (
    INLINE,
    OPTIONS,
    WITHIN,
    add_rows,
    add_weighted_rows,
    aligned_zeros,
    copy,
    find_nonzero,
    from_bits,
    product,
    to_bits,
    view,
)

# @constants
BLOCK = 128


@njit(**INLINE)
def _fire(state, parameters, gate, sent):
    for i in range(len(sent)):
        # @load_parameters
        # @load_state
        # @distance
        sent_ = gate[i] if distance_ > real(0) else real(0)
        sent[i] = sent_
        state[N_STATES * BLOCK + i] += sent_


@njit(**INLINE)
def _find_peak(state, peak, peak_step, step):
    for i in range(len(peak)):
        membrane = state[MEMBRANE * BLOCK + i]
        higher = not membrane <= peak[i]  # nan is, so that it shows
        peak[i] = membrane if higher else peak[i]
        peak_step[i] = step if higher else peak_step[i]


@njit(**INLINE)
def _on_peak(out, on_membrane, on_peak, peak_step, step):
    for i in range(len(out)):
        out[i] = on_membrane[i] + (on_peak[i] if peak_step[i] == step else real(0))


@njit(**INLINE)
def _advance(state, parameters, drive):
    for i in range(len(drive)):
        # @load_parameters
        # @load_state
        # @spike
        drive_ = drive[i]
        # @next_state
        # @store_state


@njit(**INLINE)
def _send_back(adjoint, parameters, kept, row, back):
    n = len(back)
    # @kept_rows
    for i in range(n):
        # @load_parameters
        # @load_kept
        # @load_adjoint
        # @spike
        # @grad_drive
        back[i] = grad_drive_


@njit(**INLINE)
def _pull_back(adjoint, parameters, kept, row, received, gate, on_membrane, slope_):
    n = len(received)
    # @kept_rows
    for i in range(n):
        # @load_parameters
        # @load_kept
        # @load_adjoint
        # @spike
        grad_spike_ = received[i] * gate[i]
        grad_membrane_ = on_membrane[i]
        # @grad_distance
        # @grad_state
        # @store_adjoint
        # @add_gradients


@njit(**INLINE)
def _add(to, at, source, start, n):
    """to[at : at + n] += source[start : start + n]."""
    a, b = view(to, at, n), view(source, start, n)
    for i in range(n):
        a[i] += b[i]


@njit(**WITHIN)
def _to_blocks(blocks, at, n_blocked, parts, start, stride, n_parts, n):
    """Parts of n units, one from parts[start + k * stride] on, into the blocks that begin at `at`.

    Each block has room for `n_blocked` parts, of which the first n_parts are filled.
    """
    for c in range(0, n, BLOCK):
        for k in range(n_parts):
            to = at + c * n_blocked + k * BLOCK
            copy(blocks, to, parts, start + k * stride + c, min(BLOCK, n - c))


@njit(**WITHIN)
def _from_blocks(parts, start, stride, n_parts, n, blocks, at, n_blocked, first):
    """The way back, from part `first` of each block on."""
    for c in range(0, n, BLOCK):
        for k in range(n_parts):
            source = at + c * n_blocked + (first + k) * BLOCK
            copy(parts, start + k * stride + c, blocks, source, min(BLOCK, n - c))


@njit(**OPTIONS, cache=CACHE)
def forward(
    n_steps, n_batch, n_units, padded, n_inputs, n_outgoing, padded_outgoing, group,
    indptr, channels, rows, weight, recurrent, outgoing, parameters, state, gate,
    bits, spikes, counts, projected, final_state, peaks, peak_steps, kept, first_sample, last_sample,
):  # fmt: skip
    """Run samples `first_sample` to `last_sample` - 1; the fields of struct Forward in scan_kernel.cpp."""
    n_words, n_blocks = (n_units + 63) // 64, (n_units + BLOCK - 1) // BLOCK
    n_parts = N_STATES + 1  # those of the state, and the number of spikes sent
    per_sample = n_blocks * n_parts * BLOCK
    tile, room = max(1, 128 // group), max(n_units, n_inputs)
    states = aligned_zeros(group * per_sample, real)
    constants = aligned_zeros(n_blocks * N_PARAMETERS * BLOCK, real)
    _to_blocks(constants, 0, N_PARAMETERS, parameters, 0, padded, N_PARAMETERS, n_units)
    drives = aligned_zeros(tile * group * padded, real)
    onward, sent_row = aligned_zeros(padded_outgoing, real), aligned_zeros(n_units, real)
    ones = np.ones(n_units, real)
    lists, values = np.empty(group * room, np.uint16), np.empty(group * room, real)
    ends = np.empty(group, np.int64)

    if peaks.size:
        peaks[first_sample * n_units : last_sample * n_units] = real(-np.inf)

    for b0 in range(first_sample, last_sample, group):
        n_rows = min(group, last_sample - b0)
        states[:] = real(0)
        for g in range(n_rows):
            at, start = g * per_sample, (b0 + g) * n_units
            _to_blocks(states, at, n_parts, state, start, n_batch * n_units, N_STATES, n_units)

        for t0 in range(0, n_steps, tile):
            steps = min(tile, n_steps - t0)

            # what comes from below
            if weight.size == 0:
                for t in range(steps):
                    for g in range(n_rows):
                        source = ((b0 + g) * n_steps + t0 + t) * n_units
                        copy(drives, (t * group + g) * padded, rows, source, n_units)
            else:
                drives[:] = real(0)
                if indptr.size:
                    # columns outermost: a block of the weights stays in cache while all rows pass
                    for c in range(0, padded, BLOCK):
                        for g in range(n_rows):
                            for t in range(steps):
                                row = (b0 + g) * n_steps + t0 + t
                                add_rows(
                                    drives, (t * group + g) * padded + c, min(BLOCK, padded - c),
                                    weight, c, padded, channels, indptr[row], indptr[row + 1],
                                )  # fmt: skip
                else:
                    for g in range(n_rows):
                        for t in range(steps):
                            row = ((b0 + g) * n_steps + t0 + t) * n_inputs
                            end = find_nonzero(rows, row, n_inputs, lists, values, 0)
                            add_weighted_rows(
                                drives, (t * group + g) * padded, padded, weight, 0, padded,
                                lists, values, 0, end,
                            )  # fmt: skip

            for t in range(steps):
                for g in range(n_rows):
                    row = (b0 + g) * n_steps + t0 + t
                    for s in range(N_STATES):
                        if kept[s].size:
                            at = g * per_sample + s * BLOCK
                            _from_blocks(
                                kept[s], row * n_units, 0, 1, n_units, states, at, n_parts, 0
                            )
                    if peaks.size:
                        for c in range(0, n_units, BLOCK):
                            at, width = (b0 + g) * n_units + c, min(BLOCK, n_units - c)
                            _find_peak(
                                view(states, g * per_sample + c * n_parts, n_parts * BLOCK),
                                view(peaks, at, width),
                                view(peak_steps, at, width),
                                real(t0 + t),
                            )
                    if SPIKES:
                        sent, sent_at = sent_row, 0
                        if spikes.size:
                            sent, sent_at = spikes, row * n_units
                        for c in range(0, n_units, BLOCK):
                            width = min(BLOCK, n_units - c)
                            gates = view(ones, c, width)
                            if gate.size:
                                gates = view(gate, (b0 + g) * n_units + c, width)
                            _fire(
                                view(states, g * per_sample + c * n_parts, n_parts * BLOCK),
                                view(constants, c * N_PARAMETERS, N_PARAMETERS * BLOCK),
                                gates,
                                view(sent, sent_at + c, width),
                            )
                        to_bits(sent, sent_at, n_units, bits, row * n_words)
                        if recurrent.size or outgoing.size:
                            start = g * room
                            ends[g] = from_bits(bits, row * n_words, 0, n_units, lists, start)
                            for e in range(start, ends[g]):
                                values[e] = sent[sent_at + lists[e]]

                # what the layer tells itself
                if SPIKES and recurrent.size:
                    for c in range(0, padded, BLOCK):
                        for g in range(n_rows):
                            add_weighted_rows(
                                drives, (t * group + g) * padded + c, min(BLOCK, padded - c),
                                recurrent, c, padded, lists, values, g * room, ends[g],
                            )  # fmt: skip

                # and what it tells the next one
                if SPIKES and outgoing.size:
                    for g in range(n_rows):
                        onward[:] = real(0)
                        add_weighted_rows(
                            onward, 0, padded_outgoing, outgoing, 0, padded_outgoing,
                            lists, values, g * room, ends[g],
                        )  # fmt: skip
                        row = (b0 + g) * n_steps + t0 + t
                        copy(projected, row * n_outgoing, onward, 0, n_outgoing)

                for g in range(n_rows):
                    drive = (t * group + g) * padded
                    if kept[N_STATES].size:
                        row = (b0 + g) * n_steps + t0 + t
                        copy(kept[N_STATES], row * n_units, drives, drive, n_units)
                    for c in range(0, n_units, BLOCK):
                        _advance(
                            view(states, g * per_sample + c * n_parts, n_parts * BLOCK),
                            view(constants, c * N_PARAMETERS, N_PARAMETERS * BLOCK),
                            view(drives, drive + c, min(BLOCK, n_units - c)),
                        )

        for g in range(n_rows):
            at, start, stride = g * per_sample, (b0 + g) * n_units, n_batch * n_units
            _from_blocks(final_state, start, stride, N_STATES, n_units, states, at, n_parts, 0)
            if SPIKES:
                _from_blocks(counts, start, 0, 1, n_units, states, at, n_parts, N_STATES)


@njit(**OPTIONS, cache=CACHE)
def backward(
    n_steps, n_batch, n_units, padded, n_outgoing, group, recurrent, outgoing, parameters, gate,
    kept, grad_spikes, grad_counts, grad_projected, grad_membranes, grad_final, grad_peaks,
    peak_steps, slope, grad_drive, grad_state, grad_parameters, first_sample, last_sample,
):  # fmt: skip
    """The adjoint of the same samples; the fields of struct Backward in scan_kernel.cpp."""
    n_blocks = (n_units + BLOCK - 1) // BLOCK
    n_parts = N_STATES + N_GRADIENTS  # adjoints of the state's parts, then sums for the constants
    per_sample, stride = n_blocks * n_parts * BLOCK, n_batch * n_units
    adjoints = aligned_zeros(group * per_sample, real)
    constants = aligned_zeros(n_blocks * N_PARAMETERS * BLOCK, real)
    _to_blocks(constants, 0, N_PARAMETERS, parameters, 0, padded, N_PARAMETERS, n_units)
    back, received = aligned_zeros(group * padded, real), aligned_zeros(group * padded, real)
    ones, nothing = np.ones(n_units, real), np.zeros(n_units, real)
    with_peaks = np.empty(BLOCK, real)

    for b0 in range(first_sample, last_sample, group):
        n_rows = min(group, last_sample - b0)
        adjoints[:] = real(0)
        if grad_final.size:
            for g in range(n_rows):
                at, start = g * per_sample, (b0 + g) * n_units
                _to_blocks(adjoints, at, n_parts, grad_final, start, stride, N_STATES, n_units)

        for t in range(n_steps - 1, -1, -1):
            for g in range(n_rows):
                row = ((b0 + g) * n_steps + t) * n_units
                for c in range(0, n_units, BLOCK):
                    _send_back(
                        view(adjoints, g * per_sample + c * n_parts, n_parts * BLOCK),
                        view(constants, c * N_PARAMETERS, N_PARAMETERS * BLOCK),
                        kept,
                        row + c,
                        view(back, g * padded + c, min(BLOCK, n_units - c)),
                    )
                copy(grad_drive, row, back, g * padded, n_units)

            # from those that received the spikes
            if SPIKES:
                received[:] = real(0)
                for g in range(n_rows):
                    if grad_spikes.size:
                        row = ((b0 + g) * n_steps + t) * n_units
                        _add(received, g * padded, grad_spikes, row, n_units)
                    if grad_counts.size:
                        _add(received, g * padded, grad_counts, (b0 + g) * n_units, n_units)
                if recurrent.size:
                    product(received, padded, back, 0, padded, n_rows, recurrent, n_units)
                if grad_projected.size:
                    product(
                        received, padded, grad_projected, (b0 * n_steps + t) * n_outgoing,
                        n_steps * n_outgoing, n_rows, outgoing, n_outgoing,
                    )  # fmt: skip

            for g in range(n_rows):
                row = ((b0 + g) * n_steps + t) * n_units
                for c in range(0, n_units, BLOCK):
                    width = min(BLOCK, n_units - c)
                    gates, on_membrane = view(ones, c, width), view(nothing, c, width)
                    if gate.size:
                        gates = view(gate, (b0 + g) * n_units + c, width)
                    if grad_membranes.size:
                        on_membrane = view(grad_membranes, row + c, width)
                    if grad_peaks.size:
                        at, total = (b0 + g) * n_units + c, view(with_peaks, 0, width)
                        on_peak = view(grad_peaks, at, width)
                        _on_peak(total, on_membrane, on_peak, view(peak_steps, at, width), real(t))
                        on_membrane = total
                    _pull_back(
                        view(adjoints, g * per_sample + c * n_parts, n_parts * BLOCK),
                        view(constants, c * N_PARAMETERS, N_PARAMETERS * BLOCK),
                        kept,
                        row + c,
                        view(received, g * padded + c, width),
                        gates,
                        on_membrane,
                        slope,
                    )

        for g in range(n_rows):
            at, start = g * per_sample, (b0 + g) * n_units
            _from_blocks(grad_state, start, stride, N_STATES, n_units, adjoints, at, n_parts, 0)
            _from_blocks(
                grad_parameters,
                start,
                stride,
                N_GRADIENTS,
                n_units,
                adjoints,
                at,
                n_parts,
                N_STATES,
            )
