"""Triton kernels of attention mixed over spans; see `mixture.py` for the formula.

A program works on a tile of queries (or of keys) of one query head. Pairs of a tile differ in
distance by less than both sides of the tile together, so they lie in a few bands that follow each
other: which, depends on the tile's offset from the diagonal alone and is looked up in `first` and
`last`. `edges` holds the distance at which each band begins. Scores are in base 2; statistics and
sums are float32. Layouts: q and what is like it (B * Hq, N, D), k and v (B * Hkv, N, D), numbers
of a row for each span (B * Hq, K, N), all contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load(base, rows, columns, length, dim):
    """A tile of a matrix (length, dim); nothing beyond its ends is read."""
    inside = (rows[:, None] < length) & (columns[None, :] < dim)
    return tl.load(base + rows[:, None] * dim + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store(base, rows, columns, length, dim, values):
    inside = (rows[:, None] < length) & (columns[None, :] < dim)
    place = base + rows[:, None] * dim + columns[None, :]
    tl.store(place, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _column(table, spans, index):
    """One column of a table (rows, spans), kept in registers."""
    return tl.sum(tl.where(spans[None, :] == index, table, 0.0), 1)


@triton.jit
def _band_sums(x, distance, keys, edges, low, high, sink, first_key, spans, bands: tl.constexpr):
    """Sums of x over the keys of every band: (rows, spans)."""
    rest = x
    total = tl.zeros([x.shape[0], spans.shape[0]], tl.float32)
    if first_key < sink:
        rest = tl.where(keys[None, :] < sink, 0.0, x)
        sinks = tl.sum(x - rest, 1)
        total += tl.where(spans[None, :] == 0, sinks[:, None], 0.0)
    for i in tl.static_range(bands):
        j = low + i
        if j <= high:
            inside = (distance >= tl.load(edges + j)) & (distance < tl.load(edges + j + 1))
            part = tl.sum(tl.where(inside, rest, 0.0), 1)
            total += tl.where(spans[None, :] == j, part[:, None], 0.0)
    return total


@triton.jit
def _by_band(table, distance, keys, edges, low, high, sink, first_key, spans, bands: tl.constexpr):
    """For each pair of a tile its band's number in a table (rows, spans)."""
    factor = tl.broadcast_to(_column(table, spans, low)[:, None], distance.shape)
    for i in tl.static_range(1, bands):
        j = low + i
        if j <= high:
            beyond = distance >= tl.load(edges + j)
            factor = tl.where(beyond, _column(table, spans, j)[:, None], factor)
    if first_key < sink:
        factor = tl.where(keys[None, :] < sink, _column(table, spans, 0)[:, None], factor)
    return factor


@triton.jit
def _by_band_of(
    place, rows, length, distance, keys, edges, low, high, sink, first_key, bands: tl.constexpr
):
    """The same, keys first and queries second, from a table (spans, length) in memory."""
    inside = rows < length
    column = tl.load(place + low * length + rows, mask=inside, other=0.0)
    factor = tl.broadcast_to(column[None, :], distance.shape)
    for i in tl.static_range(1, bands):
        j = low + i
        if j <= high:
            column = tl.load(place + j * length + rows, mask=inside, other=0.0)
            factor = tl.where(distance >= tl.load(edges + j), column[None, :], factor)
    if first_key < sink:
        column = tl.load(place + rows, mask=inside, other=0.0)
        factor = tl.where(keys[:, None] < sink, column[None, :], factor)
    return factor


@triton.jit
def forward(
    q, k, v, probs, edges, first, last, out, top, sums, length, groups, kv_heads, sink, scale,
    count: tl.constexpr, dim: tl.constexpr, rows_of: tl.constexpr, keys_of: tl.constexpr,
    padded: tl.constexpr, wide: tl.constexpr, bands: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Outputs, the maximum of each row's scores and the sums Z_r of exponentials.

    First all keys for the sums, then once more for the products with the values.
    """
    step: tl.constexpr = min(rows_of, keys_of)
    first_row = (tl.num_programs(0) - 1 - tl.program_id(0)) * rows_of
    head = tl.program_id(1).to(tl.int64)
    rows = first_row + tl.arange(0, rows_of)
    columns = tl.arange(0, wide)
    spans = tl.arange(0, padded)
    stop = tl.minimum(first_row + rows_of, length)
    k += head // groups * length * dim
    v += head // groups * length * dim
    query = _load(q + head * length * dim, rows, columns, length, dim)

    highest = tl.full([rows_of], -float("inf"), tl.float32)
    z = tl.zeros([rows_of, padded], tl.float32)
    for first_key in range(0, stop, keys_of):
        keys = first_key + tl.arange(0, keys_of)
        key = _load(k, keys, columns, length, dim)
        scores = tl.dot(query, tl.trans(key), input_precision=precision) * scale
        distance = rows[:, None] - keys[None, :]
        scores = tl.where(distance >= 0, scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        e = tl.exp2(scores - higher[:, None])
        tile = (first_row - first_key + rows_of) // step
        low, high = tl.load(first + tile), tl.load(last + tile)
        z = z * tl.exp2(highest - higher)[:, None]
        z += _band_sums(e, distance, keys, edges, low, high, sink, first_key, spans, bands)
        highest = higher

    z = tl.maximum(tl.cumsum(z, 1), 1e-30)
    chance = tl.load(probs + head // groups % kv_heads * count + spans, spans < count, 0.0)
    weights = tl.cumsum(chance[None, :] / z, 1, reverse=True)
    inside = (rows[:, None] < length) & (spans[None, :] < count)
    place = sums + head * count * length + spans[None, :] * length + rows[:, None]
    tl.store(place, z, mask=inside)
    tl.store(top + head * length + rows, highest, mask=rows < length)

    result = tl.zeros([rows_of, wide], tl.float32)
    for first_key in range(0, stop, keys_of):
        keys = first_key + tl.arange(0, keys_of)
        key = _load(k, keys, columns, length, dim)
        value = _load(v, keys, columns, length, dim)
        scores = tl.dot(query, tl.trans(key), input_precision=precision) * scale
        distance = rows[:, None] - keys[None, :]
        e = tl.exp2(tl.where(distance >= 0, scores - highest[:, None], -float("inf")))
        tile = (first_row - first_key + rows_of) // step
        low, high = tl.load(first + tile), tl.load(last + tile)
        e *= _by_band(weights, distance, keys, edges, low, high, sink, first_key, spans, bands)
        result = tl.dot(e.to(value.dtype), value, result, input_precision=precision)
    _store(out + head * length * dim, rows, columns, length, dim, result)


@triton.jit
def backward_queries(
    q, k, v, probs, edges, first, last, grad, top, sums, grad_q, grad_probs, weights_out,
    shares_out, length, groups, kv_heads, sink, scale, factor,
    count: tl.constexpr, dim: tl.constexpr, rows_of: tl.constexpr, keys_of: tl.constexpr,
    padded: tl.constexpr, wide: tl.constexpr, bands: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Gradients of queries and probabilities; what `backward_keys` needs of each row.

    The derivative by a score is e (c_band dO . v - d_band) with d_j = sum_{r >= j} p_r / Z_r
    dO . o(s_r): first all keys for dO . o(s_r), which is also the derivative by p_r, then again.
    """
    step: tl.constexpr = min(rows_of, keys_of)
    first_row = (tl.num_programs(0) - 1 - tl.program_id(0)) * rows_of
    head = tl.program_id(1).to(tl.int64)
    rows = first_row + tl.arange(0, rows_of)
    columns = tl.arange(0, wide)
    spans = tl.arange(0, padded)
    stop = tl.minimum(first_row + rows_of, length)
    k += head // groups * length * dim
    v += head // groups * length * dim
    query = _load(q + head * length * dim, rows, columns, length, dim)
    above = _load(grad + head * length * dim, rows, columns, length, dim)
    highest = tl.load(top + head * length + rows, mask=rows < length, other=0.0)

    gain = tl.zeros([rows_of, padded], tl.float32)
    for first_key in range(0, stop, keys_of):
        keys = first_key + tl.arange(0, keys_of)
        key = _load(k, keys, columns, length, dim)
        value = _load(v, keys, columns, length, dim)
        scores = tl.dot(query, tl.trans(key), input_precision=precision) * scale
        slope = tl.dot(above, tl.trans(value), input_precision=precision)
        distance = rows[:, None] - keys[None, :]
        e = tl.exp2(tl.where(distance >= 0, scores - highest[:, None], -float("inf")))
        tile = (first_row - first_key + rows_of) // step
        low, high = tl.load(first + tile), tl.load(last + tile)
        gain += _band_sums(
            e * slope, distance, keys, edges, low, high, sink, first_key, spans, bands
        )

    inside = (rows[:, None] < length) & (spans[None, :] < count)
    offset = head * count * length + spans[None, :] * length + rows[:, None]
    z = tl.load(sums + offset, mask=inside, other=1.0)
    gain = tl.cumsum(gain, 1) / z
    chance = tl.load(probs + head // groups % kv_heads * count + spans, spans < count, 0.0)
    share = chance[None, :] / z
    weights = tl.cumsum(share, 1, reverse=True)
    shares = tl.cumsum(share * gain, 1, reverse=True)
    tl.store(weights_out + offset, weights, mask=inside)
    tl.store(shares_out + offset, shares, mask=inside)
    place = grad_probs + (head * tl.num_programs(0) + tl.program_id(0)) * count + spans
    tl.store(place, tl.sum(gain, 0), mask=spans < count)

    result = tl.zeros([rows_of, wide], tl.float32)
    for first_key in range(0, stop, keys_of):
        keys = first_key + tl.arange(0, keys_of)
        key = _load(k, keys, columns, length, dim)
        value = _load(v, keys, columns, length, dim)
        scores = tl.dot(query, tl.trans(key), input_precision=precision) * scale
        slope = tl.dot(above, tl.trans(value), input_precision=precision)
        distance = rows[:, None] - keys[None, :]
        e = tl.exp2(tl.where(distance >= 0, scores - highest[:, None], -float("inf")))
        tile = (first_row - first_key + rows_of) // step
        low, high = tl.load(first + tile), tl.load(last + tile)
        slope *= _by_band(weights, distance, keys, edges, low, high, sink, first_key, spans, bands)
        slope -= _by_band(shares, distance, keys, edges, low, high, sink, first_key, spans, bands)
        slope *= e
        result = tl.dot(slope.to(key.dtype), key, result, input_precision=precision)
    _store(grad_q + head * length * dim, rows, columns, length, dim, result * factor)


@triton.jit
def backward_keys(
    q, k, v, edges, first, last, grad, top, weights, shares, grad_k, grad_v,
    length, groups, sink, scale, factor,
    count: tl.constexpr, dim: tl.constexpr, rows_of: tl.constexpr, keys_of: tl.constexpr,
    wide: tl.constexpr, bands: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """What one query head adds to the gradients of its keys and values; tiles are (keys, rows)."""
    step: tl.constexpr = min(rows_of, keys_of)
    first_key = tl.program_id(0) * keys_of
    head = tl.program_id(1).to(tl.int64)
    keys = first_key + tl.arange(0, keys_of)
    columns = tl.arange(0, wide)
    q += head * length * dim
    grad += head * length * dim
    top += head * length
    weights += head * count * length
    shares += head * count * length
    key = _load(k + head // groups * length * dim, keys, columns, length, dim)
    value = _load(v + head // groups * length * dim, keys, columns, length, dim)

    key_result = tl.zeros([keys_of, wide], tl.float32)
    value_result = tl.zeros([keys_of, wide], tl.float32)
    for first_row in range(first_key // rows_of * rows_of, length, rows_of):
        rows = first_row + tl.arange(0, rows_of)
        query = _load(q, rows, columns, length, dim)
        above = _load(grad, rows, columns, length, dim)
        highest = tl.load(top + rows, mask=rows < length, other=0.0)
        scores = tl.dot(key, tl.trans(query), input_precision=precision) * scale
        slope = tl.dot(value, tl.trans(above), input_precision=precision)
        distance = rows[None, :] - keys[:, None]
        e = tl.exp2(tl.where(distance >= 0, scores - highest[None, :], -float("inf")))
        tile = (first_row - first_key + rows_of) // step
        low, high = tl.load(first + tile), tl.load(last + tile)
        weight = _by_band_of(
            weights, rows, length, distance, keys, edges, low, high, sink, first_key, bands
        )
        share = _by_band_of(
            shares, rows, length, distance, keys, edges, low, high, sink, first_key, bands
        )
        kept = (e * weight).to(above.dtype)
        value_result = tl.dot(kept, above, value_result, input_precision=precision)
        slope = (e * (slope * weight - share)).to(query.dtype)
        key_result = tl.dot(slope, query, key_result, input_precision=precision)
    _store(grad_k + head * length * dim, keys, columns, length, dim, key_result * factor)
    _store(grad_v + head * length * dim, keys, columns, length, dim, value_result)
