"""Attention kernels of others, each on the inputs that suit it best.

A peer is a function (inputs) -> work; what it cannot run raises, and the caller names it missing.
Peers that know nothing of spans (SDPA) run the dense case and are compared with it; flex_attention
and the packed kernels run the plan itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

from moa_tools.bench.attention_cases import AttentionCase

Work = Callable[[], Any]


@dataclass(frozen=True)
class Inputs:
    """Random tensors of a case: q (B, H, T, D), k and v (B, KV, N, D); T is 1 in decode."""

    case: AttentionCase
    q: Any
    k: Any
    v: Any


def make_inputs(case: AttentionCase, decode: bool, device: str, dtype: Any) -> Inputs:
    """Fresh random inputs."""
    import torch

    rows = 1 if decode else case.tokens
    q = torch.randn(case.batch, case.query_heads, rows, case.head_dim, device=device, dtype=dtype)
    size = (case.batch, case.kv_heads, case.tokens, case.head_dim)
    k, v = (torch.randn(size, device=device, dtype=dtype) for _ in range(2))
    return Inputs(case, q, k, v)


def _sdpa(backend: str) -> Callable[[Inputs], Work]:
    def prepare(inputs: Inputs) -> Work:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        case = inputs.case
        if not case.dense:
            raise NotImplementedError("has no mask per head")
        causal = inputs.q.shape[2] > 1
        grouped = case.group > 1

        def work() -> Any:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return torch.nn.functional.scaled_dot_product_attention(
                    inputs.q, inputs.k, inputs.v, is_causal=causal, enable_gqa=grouped
                )

        return work

    return prepare


def _mask(case: AttentionCase, decode: bool, device: str) -> Callable[..., Any]:
    """The per-head mask of a plan as flex_attention takes it."""
    import torch

    heads = [case.spans[h // case.group] for h in range(case.query_heads)]
    sink = torch.tensor([head.sink for head in heads], device=device)
    window = torch.tensor([head.window for head in heads], device=device)
    first = case.tokens - 1 if decode else 0

    def visible(_batch: Any, head: Any, row: Any, key: Any) -> Any:
        query = row + first
        return (key <= query) & ((key < sink[head]) | (query - key < window[head]))

    return visible


@lru_cache(maxsize=1)
def _block_mask(case: AttentionCase, rows: int, device: str) -> Any:
    """One for all inputs of a case: another one would be compiled again."""
    from torch.nn.attention.flex_attention import create_block_mask

    visible = _mask(case, rows == 1, device)
    return create_block_mask(visible, None, case.query_heads, rows, case.tokens, device=device)


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _flex(inputs: Inputs) -> Work:
    from torch.nn.attention.flex_attention import flex_attention

    case = inputs.case
    device = str(inputs.q.device)
    mask = _block_mask(case, inputs.q.shape[2], device)
    # Without a GPU the dry run checks the mask, not the compiler.
    run: Any = _compiled_flex() if device.startswith("cuda") else flex_attention
    grouped = case.group > 1
    return lambda: run(inputs.q, inputs.k, inputs.v, block_mask=mask, enable_gqa=grouped)


def _packed(inputs: Inputs) -> tuple[Any, Any, Any, Any, int]:
    """Heads flattened into the batch: q (B*KV, group, D), k and v (sum of spans, 1, D).

    Every (sequence, KV head) is a sequence of its own whose keys are exactly those it keeps.
    """
    import torch

    case = inputs.case
    counts = [0]
    keys: list[Any] = []
    values: list[Any] = []
    for b in range(case.batch):
        for h, head in enumerate(case.spans):
            kept = min(head.span, case.tokens)
            start = case.tokens - (kept - min(head.sink, kept))
            for source, parts in ((inputs.k, keys), (inputs.v, values)):
                parts.append(source[b, h, : kept - (case.tokens - start)])
                parts.append(source[b, h, start:])
            counts.append(counts[-1] + kept)
    device = inputs.q.device
    q = inputs.q.reshape(case.batch * case.kv_heads, case.group, case.head_dim)
    ends = torch.tensor(counts, dtype=torch.int32, device=device)
    longest = max(min(head.span, case.tokens) for head in case.spans)
    k, v = (torch.cat(parts).unsqueeze(1).contiguous() for parts in (keys, values))
    return q.contiguous(), k, v, ends, longest


def _varlen(inputs: Inputs) -> Work:
    """FlashAttention-2 over ragged sequences, as torch ships it."""
    import torch
    from torch.nn.attention.varlen import varlen_attn

    if inputs.q.shape[2] != 1:
        raise NotImplementedError("heads share queries in prefill: no ragged form")
    q, k, v, ends, longest = _packed(inputs)
    # One query row for each query head of the group; they see the same keys.
    rows = q.reshape(-1, 1, inputs.case.head_dim)
    group = inputs.case.group
    starts = torch.arange(q.shape[0] + 1, dtype=torch.int32, device=q.device) * group
    shape = inputs.q.shape

    def work() -> Any:
        out: Any = varlen_attn(rows, k, v, starts, ends, group, longest)
        return out.reshape(shape)

    return work


def _flashinfer(inputs: Inputs) -> Work:
    """FlashInfer's paged decode with heads flattened into the batch: pages of 64 tokens."""
    flashinfer: Any = import_module("flashinfer")
    import torch

    if inputs.q.shape[2] != 1:
        raise NotImplementedError("heads share queries in prefill: no ragged form")
    q, k, v, ends, _ = _packed(inputs)
    page = 64
    device = q.device
    counts = ends.diff().cpu()
    if bool((counts % page).any()):
        raise NotImplementedError(f"spans are no multiples of its page of {page}")
    cache = torch.stack([k.view(-1, page, 1, q.shape[2]), v.view(-1, page, 1, q.shape[2])], dim=1)
    pages = torch.cat([torch.zeros(1, dtype=torch.int32), (counts // page).cumsum(0).int()])
    workspace = torch.empty(128 << 20, dtype=torch.uint8, device=device)
    indices = torch.arange(cache.shape[0], dtype=torch.int32, device=device)
    last = torch.full((q.shape[0],), page, dtype=torch.int32, device=device)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        workspace,
        "NHD",
        use_cuda_graph=True,
        use_tensor_cores=inputs.case.group > 1,
        paged_kv_indptr_buffer=pages.to(device),
        paged_kv_indices_buffer=indices,
        paged_kv_last_page_len_buffer=last,
    )
    wrapper.plan(
        pages.to(device),
        indices,
        last,
        q.shape[1],
        1,
        q.shape[2],
        page,
        q_data_type=q.dtype,
        kv_data_type=q.dtype,
    )
    shape = inputs.q.shape
    return lambda: wrapper.run(q, cache).reshape(shape)


Peers = dict[str, Callable[[Inputs], Work]]
# In groups that run apart: what is compiled for a case can take minutes or fail.
GROUPS: dict[str, Peers] = {
    "attention": {
        "SDPA FlashAttention-2": _sdpa("FLASH_ATTENTION"),
        "SDPA cuDNN": _sdpa("CUDNN_ATTENTION"),
        "FlashAttention-2 ragged, heads as sequences": _varlen,
    },
    "attention-flex": {"flex_attention": _flex},
    "attention-flashinfer": {"FlashInfer, heads as sequences": _flashinfer},
}
# What runs without a GPU, for dry runs.
CPU_GROUPS: dict[str, Peers] = {
    "attention": {"SDPA math": _sdpa("MATH")},
    "attention-flex": {"flex_attention": _flex},
    "attention-flashinfer": GROUPS["attention-flashinfer"],
}
# Modules that torch does not bring.
NEEDS = {"attention-flashinfer": "flashinfer"}


def reference_error(inputs: Inputs, out: Any, samples: int = 16) -> float:
    """Relative error ||out - ref|| / ||ref|| over some rows against float32 from the definition."""
    import torch

    case = inputs.case
    rows = inputs.q.shape[2]
    picks = torch.linspace(0, rows - 1, min(samples, rows)).long().tolist()
    visible = _mask(case, rows == 1, str(inputs.q.device))
    keys = torch.arange(case.tokens, device=inputs.q.device)
    wrong = total = 0.0
    for h in range(case.query_heads):
        for row in picks:
            k, v = (t[0, h // case.group].float() for t in (inputs.k, inputs.v))
            scores = k @ inputs.q[0, h, row].float() / case.head_dim**0.5
            scores[~visible(0, h, row, keys)] = float("-inf")
            want = torch.softmax(scores, 0) @ v
            wrong += float((out[0, h, row].float() - want).square().sum())
            total += float(want.square().sum())
    return float((wrong / total) ** 0.5)
