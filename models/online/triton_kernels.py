"""Loops over the steps of a block, as Triton's: what `snnbench.models.online.kernels` does, on a GPU.

Rows are steps; seeds and units lie side by side, `n_units` of them. A program has a chunk of UNITS of them
and goes through all steps by itself, with its state in registers: units of a layer do not meet within a
block, so no program waits for another. What comes from outside is fetched one step ahead.

The statements are those of the numba kernels, one for one, and names and shapes of arguments are theirs.
Numbers are written out with their type where something is compared with them: there Triton would round them
to float32.

Functions are plain here: `snnbench.models.online.triton_engine` decorates them, since Triton decides then
whether a kernel is compiled or interpreted.
"""

from __future__ import annotations

import triton.language as tl


def lif(
    drive: tl.tensor, voltage: tl.tensor, current: tl.tensor, waits: tl.tensor,
    membranes: tl.tensor, spikes: tl.tensor, n_steps: tl.tensor, n_units: tl.tensor,
    EULER: tl.constexpr, DECAY: tl.constexpr, REST: tl.constexpr, THRESHOLD: tl.constexpr,
    HOLD: tl.constexpr, UNITS: tl.constexpr,
) -> None:  # fmt: skip
    """A layer of LIF neurons: steps 1 to 4.

    drive (time, unit): W times the spikes that arrive in each step, delay included. voltage, current and
    waits (unit,) are state. membranes (time, unit) after reset, and spikes, likewise, uint8, are written.
    """
    units = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    there = units < n_units
    u = tl.load(voltage + units, mask=there, other=0.0)
    i = tl.load(current + units, mask=there, other=0.0)
    r = tl.load(waits + units, mask=there, other=0)
    rest, threshold = tl.full((UNITS,), REST, u.dtype), tl.full((UNITS,), THRESHOLD, u.dtype)
    arriving, trace, out = drive + units, membranes + units, spikes + units
    coming = tl.load(arriving, mask=there & (n_steps > 0), other=0.0)
    for t in range(n_steps):
        now = coming
        arriving += n_units
        coming = tl.load(arriving, mask=there & (t + 1 < n_steps), other=0.0)
        free = u + EULER * ((rest - u) + i)  # (1)
        held = r > 0
        v = tl.where(held, rest, free)
        fires = v > threshold  # (2)
        u = tl.where(fires, rest, v)
        r = tl.where(fires, HOLD, tl.where(held, r - 1, 0))
        tl.store(trace, u, mask=there)
        tl.store(out, fires.to(tl.uint8), mask=there)
        i = i * DECAY + now  # (3), (4)
        trace += n_units
        out += n_units
    tl.store(voltage + units, u, mask=there)
    tl.store(current + units, i, mask=there)
    tl.store(waits + units, r, mask=there)


def trace(
    spikes: tl.tensor, first: tl.tensor, second: tl.tensor, out: tl.tensor,
    n_steps: tl.tensor, n_units: tl.tensor,
    DECAY: tl.constexpr, EULER: tl.constexpr, CUTOFF: tl.constexpr, UNITS: tl.constexpr,
) -> None:  # fmt: skip
    """Presynaptic traces: `second` relaxes towards `first`, which jumps by 1 with a spike and decays (8)."""
    units = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    there = units < n_units
    a = tl.load(first + units, mask=there, other=0.0)
    b = tl.load(second + units, mask=there, other=0.0)
    cutoff = tl.full((UNITS,), CUTOFF, a.dtype)
    sent, row = spikes + units, out + units
    coming = tl.load(sent, mask=there & (n_steps > 0), other=0)
    for t in range(n_steps):
        now = coming.to(a.dtype)
        sent += n_units
        coming = tl.load(sent, mask=there & (t + 1 < n_steps), other=0)
        tl.store(row, tl.where(b > cutoff, b, 0.0), mask=there)
        b += EULER * (a - b)
        a = a * DECAY + now
        row += n_units
    tl.store(first + units, a, mask=there)
    tl.store(second + units, b, mask=there)


def errors(
    impulses: tl.tensor, first: tl.tensor, second: tl.tensor, out: tl.tensor,
    n_steps: tl.tensor, n_units: tl.tensor,
    RISE: tl.constexpr, FALL: tl.constexpr, UNITS: tl.constexpr,
) -> None:  # fmt: skip
    """Error traces: impulses of one step, relaxed twice (8); `out` has one row more."""
    units = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    there = units < n_units
    a = tl.load(first + units, mask=there, other=0.0)
    b = tl.load(second + units, mask=there, other=0.0)
    sent, row = impulses + units, out + units
    coming = tl.load(sent, mask=there & (n_steps > 0), other=0.0)
    for t in range(n_steps):
        now = coming
        sent += n_units
        coming = tl.load(sent, mask=there & (t + 1 < n_steps), other=0.0)
        tl.store(row, b, mask=there)
        b += FALL * (a - b)
        a += RISE * (now - a)
        row += n_units
    tl.store(row, b, mask=there)
    tl.store(first + units, a, mask=there)
    tl.store(second + units, b, mask=there)


def credit(
    third: tl.tensor, factor: tl.tensor, out: tl.tensor,
    n_steps: tl.tensor, n_history: tl.tensor, n_units: tl.tensor,
    FALL: tl.constexpr, DECAY: tl.constexpr, CUTOFF: tl.constexpr, UNITS: tl.constexpr,
) -> None:  # fmt: skip
    """The eligibility's adjoint backwards over the block and its history, times `factor`."""
    units = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    there = units < n_units
    eligibility = tl.full((UNITS,), 0.0, third.dtype.element_ty)
    raw = eligibility
    keep = 1.0 - tl.full((UNITS,), FALL, third.dtype.element_ty)
    cutoff = tl.full((UNITS,), CUTOFF, third.dtype.element_ty)
    # the last row may lie further than 32 bits of offset reach
    last = tl.cast(n_steps - 1, tl.int64) * n_units
    error = third + last + units
    last += tl.cast(n_history, tl.int64) * n_units
    by, row = factor + last + units, out + last + units
    coming = tl.load(error, mask=there & (n_steps > 0), other=0.0)
    coming_by = tl.load(by, mask=there, other=0.0)
    for done in range(n_steps + n_history):
        now, now_by = coming, coming_by
        error -= n_units
        by -= n_units
        # before the block there are no errors
        coming = tl.load(error, mask=there & (done + 1 < n_steps), other=0.0)
        coming_by = tl.load(by, mask=there & (done + 1 < n_steps + n_history), other=0.0)
        eligibility = tl.where(tl.abs(now) > cutoff, now, 0.0) + keep * eligibility
        raw = FALL * eligibility + DECAY * raw
        tl.store(row, raw * now_by, mask=there)
        row -= n_units


def activity(
    spikes: tl.tensor, z: tl.tensor, third: tl.tensor, total: tl.tensor,
    n_steps: tl.tensor, n_units: tl.tensor,
    DECAY: tl.constexpr, EXPONENT: tl.constexpr, TIMES_ERROR: tl.constexpr, UNITS: tl.constexpr,
) -> None:  # fmt: skip
    """Sum over steps of z^EXPONENT; if asked, times the squared error."""
    units = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    there = units < n_units
    level = tl.load(z + units, mask=there, other=0.0)
    summed = tl.full((UNITS,), 0.0, level.dtype)
    sent, error = spikes + units, third + units
    for _ in range(n_steps):
        power = tl.full((UNITS,), 1.0, level.dtype)
        for _ in tl.static_range(EXPONENT):
            power *= level
        if TIMES_ERROR:
            e = tl.load(error, mask=there, other=0.0)
            power = power * e * e
        summed += power
        level = level * DECAY + tl.load(sent, mask=there, other=0).to(level.dtype)
        sent += n_units
        error += n_units
    tl.store(total + units, summed, mask=there)
    tl.store(z + units, level, mask=there)
