"""Triton kernel of attention under a plan: each KV head its own span, unseen tiles skipped."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load(base, rows, columns, length, dim):
    inside = (rows[:, None] < length) & (columns[None, :] < dim)
    return tl.load(base + rows[:, None] * dim + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _tile(
    query, k, v, rows, keys, columns, window, sink, limit, highest, total, result, length, dim,
    scale, precision: tl.constexpr,
):  # fmt: skip
    """One tile of keys; those from `limit` on are left out."""
    key = _load(k, keys, columns, length, dim)
    value = _load(v, keys, columns, length, dim)
    scores = tl.dot(query, tl.trans(key), input_precision=precision) * scale
    distance = rows[:, None] - keys[None, :]
    near = (distance < window) | (keys[None, :] < sink)
    seen = (distance >= 0) & near & (keys[None, :] < limit)
    scores = tl.where(seen, scores, -float("inf"))
    higher = tl.maximum(highest, tl.max(scores, 1))
    e = tl.exp2(scores - higher[:, None])
    shrink = tl.exp2(highest - higher)
    total = total * shrink + tl.sum(e, 1)
    result = tl.dot(e.to(value.dtype), value, result * shrink[:, None], input_precision=precision)
    return higher, total, result


@triton.jit
def forward(
    q, k, v, spans, out, length, groups, kv_heads, sink, scale,
    dim: tl.constexpr, wide: tl.constexpr, rows_of: tl.constexpr, keys_of: tl.constexpr,
    precision: tl.constexpr,
):  # fmt: skip
    """For q (B * Hq, N, D), k and v (B * Hkv, N, D), spans int32 (Hkv,); scores in base 2."""
    first_row = (tl.num_programs(0) - 1 - tl.program_id(0)) * rows_of
    head = tl.program_id(1).to(tl.int64)
    rows = first_row + tl.arange(0, rows_of)
    columns = tl.arange(0, wide)
    stop = tl.minimum(first_row + rows_of, length)
    k += head // groups * length * dim
    v += head // groups * length * dim
    query = _load(q + head * length * dim, rows, columns, length, dim)
    window = tl.load(spans + head // groups % kv_heads) - sink
    begin = tl.maximum(first_row - window + 1, 0) // keys_of * keys_of
    highest = tl.full([rows_of], -1e30, tl.float32)
    total = tl.zeros([rows_of], tl.float32)
    result = tl.zeros([rows_of, wide], tl.float32)
    for first_key in range(0, tl.minimum(sink, begin), keys_of):
        keys = first_key + tl.arange(0, keys_of)
        highest, total, result = _tile(
            query, k, v, rows, keys, columns, window, sink, begin, highest, total, result,
            length, dim, scale, precision,
        )  # fmt: skip
    for first_key in range(begin, stop, keys_of):
        keys = first_key + tl.arange(0, keys_of)
        highest, total, result = _tile(
            query, k, v, rows, keys, columns, window, sink, length, highest, total, result,
            length, dim, scale, precision,
        )  # fmt: skip
    result = result / total[:, None]
    inside = (rows[:, None] < length) & (columns[None, :] < dim)
    place = out + head * length * dim + rows[:, None] * dim + columns[None, :]
    tl.store(place, result.to(out.dtype.element_ty), mask=inside)
