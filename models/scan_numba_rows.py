# mypy: ignore-errors
# (what stands here is typed by numba, which gives intrinsics and kernels other signatures than Python sees)
"""Rows of numbers for numba: sums of rows kept in registers, and the gradient of a weight.

Numba's compiler turns a loop over one row into vector instructions by itself, but it does not keep a sum of
many rows in registers while it walks through them: it would fetch and store the sum once for each row. So
there is a type here, `Piece`, for some neighbouring numbers of a row; to add two pieces takes one instruction
for each register that they fill.

Everything takes flat arrays and places in them, and checks nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model
from numba.np.arrayobj import populate_array

WIDE, NARROW = 512, 128
"""Bytes of a row that are summed at once: eight registers of the widest processors, or two."""

# contract: a product and a sum may round once. No other liberty: nan stays nan, and sums keep their order.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
# called by kernels only, never from Python
WITHIN = OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
INLINE = WITHIN | {"forceinline": True}


class Piece(types.Type):
    """Some neighbouring numbers of a row."""

    def __init__(self, dtype: types.Float, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(f"Piece({dtype}, {lanes})")


@register_model(Piece)
class _PieceModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Piece) -> None:
        scalar = ir.FloatType() if kind.dtype is types.float32 else ir.DoubleType()
        super().__init__(manager, kind, ir.VectorType(scalar, kind.lanes))


def _piece_of(n_bytes: types.IntegerLiteral, array: types.Array) -> Piece:
    return Piece(array.dtype, n_bytes.literal_value * 8 // array.dtype.bitwidth)


def _place(context: Any, builder: Any, kind: Any, array: Any, at: Any, target: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at], inbounds=True), target.as_pointer())


@intrinsic
def view(typing: Any, array: Any, at: Any, n: Any) -> Any:
    """array[at : at + n], which must lie within the array, without checks or a count of its users."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        itemsize = context.get_constant(types.intp, array.dtype.bitwidth // 8)
        out = context.make_array(array)(context, builder)
        data = context.make_array(array)(context, builder, values[0]).data
        place = builder.gep(data, [values[1]], inbounds=True)
        populate_array(out, place, [values[2]], [itemsize], itemsize, meminfo=None)
        return out._getvalue()

    return array(array, types.int64, types.int64), code


@intrinsic(prefer_literal=True)
def load(typing: Any, n_bytes: Any, array: Any, at: Any) -> Any:
    """The `n_bytes` (a constant) of a flat array that begin at element `at`."""
    piece = _piece_of(n_bytes, array)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = context.get_value_type(piece)
        place = _place(context, builder, array, values[1], values[2], vector)
        return builder.load(place, align=array.dtype.bitwidth // 8)

    return piece(n_bytes, array, types.int64), code


@intrinsic
def store(typing: Any, array: Any, at: Any, piece: Any) -> Any:
    """Write a piece into a flat array, from element `at` on."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = context.get_value_type(piece)
        place = _place(context, builder, array, values[0], values[1], vector)
        builder.store(values[2], place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, piece), code


@intrinsic
def add(typing: Any, left: Any, right: Any) -> Any:
    """The sum of two pieces."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.fadd(*values)

    return left(left, right), code


@intrinsic
def add_scaled(typing: Any, total: Any, factor: Any, piece: Any) -> Any:
    """total + factor * piece, rounded once where the processor can."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = context.get_value_type(piece)
        first = builder.insert_element(
            ir.Constant(vector, ir.Undefined), values[1], ir.Constant(ir.IntType(32), 0)
        )
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), piece.lanes), None)
        factors = builder.shuffle_vector(first, first, everywhere)
        name = f"llvm.fmuladd.v{piece.lanes}f{piece.dtype.bitwidth}"
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), name
        )
        return builder.call(function, [factors, values[2], values[0]])

    return total(total, piece.dtype, piece), code


@intrinsic
def nonzero(typing: Any, array: Any, at: Any) -> Any:
    """Which of the sixteen elements from `at` on are not 0, as bits of a number."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = ir.VectorType(context.get_value_type(array.dtype), 16)
        place = _place(context, builder, array, values[0], values[1], vector)
        piece = builder.load(place, align=array.dtype.bitwidth // 8)
        found = builder.fcmp_unordered("!=", piece, ir.Constant(vector, None))
        return builder.zext(builder.bitcast(found, ir.IntType(16)), ir.IntType(64))

    return types.int64(array, types.int64), code


@intrinsic
def lowest_bit(typing: Any, bits: Any) -> Any:
    """Place of the lowest 1 in a number that is not 0."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), code


@njit(**WITHIN)
def find_nonzero(row, at, n, found, values, out):
    """Write places and values of what is not 0 in row[at : at + n] from element `out` on; their end."""
    whole = n // 16 * 16
    for i in range(0, whole, 16):
        bits = nonzero(row, at + i)
        while bits:
            place = i + lowest_bit(bits)
            found[out], values[out] = place, row[at + place]
            out += 1
            bits &= bits - 1
    for i in range(whole, n):
        if row[at + i] != 0:
            found[out], values[out] = i, row[at + i]
            out += 1
    return out


@njit(**WITHIN)
def to_bits(row, at, n, bits, word):
    """Write one bit for each of row[at : at + n], set where it is not 0, from bits[word] on."""
    for first in range(0, n, 64):
        left = min(64, n - first)
        whole = left // 16 * 16
        found = 0
        for i in range(0, whole, 16):
            found |= nonzero(row, at + first + i) << i
        for i in range(whole, left):
            found |= (1 if row[at + first + i] != 0 else 0) << i
        bits[word + first // 64] = found


@njit(**WITHIN)
def from_bits(bits, word, first, last, found, out):
    """Write the places of set bits `first` to `last` - 1 from found[out] on, counted from `first`; their end.

    Bit 0 is the lowest of bits[word].
    """
    for w in range(first // 64, (last + 63) // 64):
        left = bits[word + w]
        if w * 64 < first:
            left &= -1 << (first - w * 64)
        if last - w * 64 < 64:
            left &= ~(-1 << (last - w * 64))
        while left:
            found[out] = w * 64 + lowest_bit(left) - first
            out += 1
            left &= left - 1
    return out


# below, a view from the first element on spares a check for negative places in the innermost loop
def _adder(n_bytes: int) -> Any:
    @njit(**INLINE)
    def add_rows(out, at, table, column, stride, rows, first, last):
        total, listed = load(n_bytes, out, at), view(rows, first, last - first)
        for e in range(last - first):
            total = add(total, load(n_bytes, table, listed[e] * stride + column))
        store(out, at, total)

    return add_rows


def _weighted_adder(n_bytes: int) -> Any:
    @njit(**INLINE)
    def add_rows(out, at, table, column, stride, rows, values, first, last):
        total, listed = load(n_bytes, out, at), view(rows, first, last - first)
        factors = view(values, first, last - first)
        for e in range(last - first):
            row = load(n_bytes, table, listed[e] * stride + column)
            total = add_scaled(total, factors[e], row)
        store(out, at, total)

    return add_rows


_add_wide, _add_narrow = _adder(WIDE), _adder(NARROW)
_add_wide_weighted, _add_narrow_weighted = _weighted_adder(WIDE), _weighted_adder(NARROW)


@njit(**WITHIN)
def add_rows(out, at, n, table, column, stride, rows, first, last):
    """out[at : at + n] += sum over e = first .. last - 1 of table[rows[e]][column : column + n].

    `n` is a multiple of NARROW bytes; a row of the table has `stride` elements.
    """
    wide, narrow = WIDE // out.itemsize, NARROW // out.itemsize
    c = 0
    while c + wide <= n:
        _add_wide(out, at + c, table, column + c, stride, rows, first, last)
        c += wide
    while c < n:
        _add_narrow(out, at + c, table, column + c, stride, rows, first, last)
        c += narrow


@njit(**WITHIN)
def add_weighted_rows(out, at, n, table, column, stride, rows, values, first, last):
    """As `add_rows`, each row multiplied by values[e]."""
    wide, narrow = WIDE // out.itemsize, NARROW // out.itemsize
    c = 0
    while c + wide <= n:
        _add_wide_weighted(out, at + c, table, column + c, stride, rows, values, first, last)
        c += wide
    while c < n:
        _add_narrow_weighted(out, at + c, table, column + c, stride, rows, values, first, last)
        c += narrow


@njit(**WITHIN)
def product(out, padded, left, first, stride, n_rows, panels, n):
    """out (n_rows, padded) += left times a matrix of n rows, cut into panels as wide as NARROW.

    Row r of `left` is left[first + r * stride], of n elements; each panel, (n, NARROW), is in one piece.
    Every sum runs over the n in order, whatever the number of rows.
    """
    width = NARROW // out.itemsize
    for column in range(0, padded, width):
        panel, whole = column * n, n_rows // 8 * 8
        for r in range(0, whole, 8):
            _add_8_products(
                out, r * padded + column, padded, left, first + r * stride, stride, panels, panel, n
            )
        for r in range(whole, n_rows):
            total = load(NARROW, out, r * padded + column)
            for k in range(n):
                row = load(NARROW, panels, panel + k * width)
                total = add_scaled(total, left[first + r * stride + k], row)
            store(out, r * padded + column, total)


@njit(**INLINE)
def _add_8_products(out, at, padded, left, first, stride, panels, panel, n):
    # eight rows share each piece of the panel that is fetched; 16 of the widest registers hold their sums
    t0, t1 = load(NARROW, out, at), load(NARROW, out, at + padded)
    t2, t3 = load(NARROW, out, at + 2 * padded), load(NARROW, out, at + 3 * padded)
    t4, t5 = load(NARROW, out, at + 4 * padded), load(NARROW, out, at + 5 * padded)
    t6, t7 = load(NARROW, out, at + 6 * padded), load(NARROW, out, at + 7 * padded)
    f0, f1 = view(left, first, n), view(left, first + stride, n)
    f2, f3 = view(left, first + 2 * stride, n), view(left, first + 3 * stride, n)
    f4, f5 = view(left, first + 4 * stride, n), view(left, first + 5 * stride, n)
    f6, f7 = view(left, first + 6 * stride, n), view(left, first + 7 * stride, n)
    for k in range(n):
        row = load(NARROW, panels, panel + k * (NARROW // out.itemsize))
        t0, t1 = add_scaled(t0, f0[k], row), add_scaled(t1, f1[k], row)
        t2, t3 = add_scaled(t2, f2[k], row), add_scaled(t3, f3[k], row)
        t4, t5 = add_scaled(t4, f4[k], row), add_scaled(t5, f5[k], row)
        t6, t7 = add_scaled(t6, f6[k], row), add_scaled(t7, f7[k], row)
    store(out, at, t0)
    store(out, at + padded, t1)
    store(out, at + 2 * padded, t2)
    store(out, at + 3 * padded, t3)
    store(out, at + 4 * padded, t4)
    store(out, at + 5 * padded, t5)
    store(out, at + 6 * padded, t6)
    store(out, at + 7 * padded, t7)


@njit(**WITHIN)
def aligned_zeros(n, dtype):
    """n zeros from the start of a line of cache on: a piece that lies across two costs twice."""
    itemsize = np.zeros(0, dtype).itemsize
    memory = np.zeros(n + 64 // itemsize, dtype)
    start = -memory.ctypes.data % 64 // itemsize
    return memory[start : start + n]


@njit(**INLINE)
def copy(to, at, source, start, n):
    """to[at : at + n] = source[start : start + n], from one array to another."""
    a, b = view(to, at, n), view(source, start, n)
    for i in range(n):
        a[i] = b[i]


@njit(**OPTIONS, cache=True)
def outer(
    n_steps, n_units, n_onward, n_inputs, tile, first_row, last_row, indptr, channels, rows, bits,
    gate, grad, grad_onward, out, out_onward, first, last,
):  # fmt: skip
    """Gradients of weights for inputs `first` to `last` - 1; the fields of struct Outer in scan_kernel.cpp.

    out[input] is the sum of value * grad[row] over the rows `first_row` to `last_row` - 1 (a step of a
    sample) in which the input is not 0, and out_onward the same of grad_onward. As many rows as `tile` are
    taken at a time and what is not 0 in them is sorted by input: so a row of `out` is fetched and stored
    once for each tile and not for each event.
    """
    n = last - first
    sums, table = _sums(grad, n_units, n), _table(grad, n_units, tile)
    sums_onward, table_onward = _sums(grad_onward, n_onward, n), _table(grad_onward, n_onward, tile)
    weighted = indptr.size == 0 and (rows.size > 0 or gate.size > 0)
    stops, ends = np.empty(tile, np.int64), np.empty(n + 1, np.int64)
    room = most_in_a_tile(indptr, first_row, last_row, tile, n)
    found, senders = np.empty(room, np.uint16), np.empty(room, np.uint16)
    room = room if weighted else 0
    values, sorted_values = np.empty(room, out.dtype), np.empty(room, out.dtype)
    for r0 in range(first_row, last_row, tile):
        n_here = min(tile, last_row - r0)
        stop = 0
        for r in range(r0, r0 + n_here):
            start = stop
            if indptr.size:
                stop = _copy_events(channels, indptr[r], indptr[r + 1], first, last, found, start)
            elif rows.size:
                stop = find_nonzero(rows, r * n_inputs + first, n, found, values, start)
            else:
                stop = from_bits(bits, r * ((n_inputs + 63) // 64), first, last, found, start)
                if gate.size:
                    for e in range(start, stop):
                        values[e] = gate[r // n_steps * n_inputs + first + found[e]]
            stops[r - r0] = stop
        _sort_by_input(found, values, stops, n_here, senders, sorted_values, ends, weighted)
        _add_tile(sums, table, grad, n_units, r0, n_here, senders, sorted_values, ends, weighted)
        _add_tile(
            sums_onward, table_onward, grad_onward, n_onward,
            r0, n_here, senders, sorted_values, ends, weighted,
        )  # fmt: skip
    _write_sums(out, first, n, n_units, sums)
    _write_sums(out_onward, first, n, n_onward, sums_onward)


@njit(**INLINE)
def _padded(grad, n_units):
    narrow = NARROW // grad.itemsize
    return (n_units + narrow - 1) // narrow * narrow


@njit(**INLINE)
def _copied(grad, n_units):
    # rows of one wide piece are taken where they are; columns of longer ones would fight for lines of cache
    return n_units != WIDE // grad.itemsize


@njit(**INLINE)
def _sums(grad, n_units, n):
    return aligned_zeros(n * _padded(grad, n_units) if grad.size else 0, grad.dtype)


@njit(**INLINE)
def _table(grad, n_units, tile):
    needed = grad.size and _copied(grad, n_units)
    return aligned_zeros(tile * _padded(grad, n_units) if needed else 0, grad.dtype)


@njit(**WITHIN)
def _add_tile(sums, table, grad, n_units, r0, n_rows, senders, values, ends, weighted):
    # rows r0 to r0 + n_rows - 1 of `grad`; where its rows are copied, `table` has room for them
    if grad.size == 0:
        return
    padded, wide, origin = _padded(grad, n_units), WIDE // grad.itemsize, 0
    if _copied(grad, n_units):
        for r in range(n_rows):
            copy(table, r * padded, grad, (r0 + r) * n_units, n_units)
    else:
        table, origin = grad, r0 * n_units
    for c in range(0, padded, wide):
        width = min(wide, padded - c)
        start = 0
        for m in range(ends.size - 1):
            at, end = m * padded + c, ends[m]
            if end > start and weighted:
                add_weighted_rows(
                    sums, at, width, table, origin + c, padded, senders, values, start, end
                )
            elif end > start:
                add_rows(sums, at, width, table, origin + c, padded, senders, start, end)
            start = end


@njit(**WITHIN)
def _write_sums(out, first, n, n_units, sums):
    if out.size:
        for m in range(n):
            copy(out, (first + m) * n_units, sums, m * (sums.size // n), n_units)


@njit(**OPTIONS)
def most_in_a_tile(indptr, first_row, last_row, tile, n):
    """How much is not 0 in the fullest tile, at most; tiles begin at `first_row`."""
    if indptr.size == 0:
        return min(tile, last_row - first_row) * n
    most = 0
    for r0 in range(first_row, last_row, tile):
        most = max(most, indptr[min(r0 + tile, last_row)] - indptr[r0])
    return most


@njit(**INLINE)
def _copy_events(channels, start, stop, first, last, found, out):
    # a row's channels ascend; some threads work on the first inputs, others on the last
    while start < stop and channels[start] < first:
        start += 1
    while start < stop and channels[stop - 1] >= last:
        stop -= 1
    for e in range(stop - start):
        found[out + e] = channels[start + e] - first
    return out + stop - start


@njit(**WITHIN)
def _sort_by_input(found, values, stops, n_rows, senders, sorted_values, ends, weighted):
    # afterwards senders[ends[m - 1] : ends[m]] are the rows in which input m is not 0
    n_found = stops[n_rows - 1]
    ends[:] = 0
    for e in range(n_found):
        ends[found[e] + 1] += 1
    for m in range(1, ends.size):
        ends[m] += ends[m - 1]
    start = 0
    for r in range(n_rows):
        for e in range(start, stops[r]):
            to = ends[found[e]]
            ends[found[e]] = to + 1
            senders[to] = r
            if weighted:
                sorted_values[to] = values[e]
        start = stops[r]
