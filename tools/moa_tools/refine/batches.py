"""Calibration samples as batches, with what the dense model says where a plan's loss is taken.

Only tokens that have to be looked up count of an answer: those that heads with a short window get
wrong. The rest of an answer ("The tag reads ...") any plan gets right, and its small divergences
would drown the others. Of plain text every position counts, as it does in a perplexity.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from moa_tools.gates.objective import dense_attention, spread_positions, token_batch
from moa_tools.hf.attention import hidden_states, layer_attention
from moa_tools.refine.attention import span_attention

if TYPE_CHECKING:
    from torch import Tensor

    from moa_tools.calibrate.samples import Sample

ANSWERS, TEXT, SUMMARY = "answers", "text", "summary"
# Positions whose logits are in memory at a time.
_ROWS = 256
# Tokens that a short window sees; and from how many nats on a token had to be looked up.
_SHORT, _LOOKED_UP = 256, 0.5
# The first positions of a text are next to nothing but the sink.
_FIRST = 32


@dataclass(eq=False)
class Batch:
    """Samples of one part and length.

    ids (B, T); `at` (rows,) into B * T, of `owner` (rows,), with the dense final states `teacher`
    (rows, hidden) and the tokens `following` (rows,) that come next.
    """

    part: str
    length: int
    count: int
    ids: Tensor
    at: Tensor
    owner: Tensor
    teacher: Tensor
    following: Tensor

    @property
    def name(self) -> str:
        """As losses are named: "answers@2048"."""
        return f"{self.part}@{self.length}"


def part_of(sample: Sample) -> str:
    """Which part of the loss a sample is in."""
    return {"text": TEXT, "summary": SUMMARY}.get(sample.task, ANSWERS)


def row_losses(head: Any, student: Tensor, batch: Batch, rows: slice) -> tuple[Tensor, Tensor]:
    """KL(dense || plan) (rows,) in nats, and how much less likely the tokens that follow are."""
    with torch.no_grad():
        want = torch.log_softmax(head(batch.teacher[rows]).float(), -1)
    got = torch.log_softmax(head(student).float(), -1)
    next_ = batch.following[rows, None]
    lost = (want.gather(-1, next_) - got.gather(-1, next_))[:, 0]
    return (want.exp() * (want - got)).sum(-1), lost


def rows_of(batch: Batch) -> list[slice]:
    """The batch's rows, a few at a time."""
    return [slice(a, a + _ROWS) for a in range(0, len(batch.at), _ROWS)]


def _positions(sample: Sample, limit: int) -> Tensor:
    """Where the tokens are predicted that count; if there are more than `limit`, some of them."""
    start, count = len(sample.prompt_ids) - 1, len(sample.answer_ids)
    if part_of(sample) == TEXT:
        first = min(_FIRST, start)
        start, count = first, start + count - first
    return spread_positions(start, count, limit)


@torch.no_grad()
def _batch(model: Any, samples: Sequence[Sample], at: Sequence[Tensor]) -> Batch:
    ids = token_batch(samples, model.device)
    width = ids.shape[1]
    rows = torch.cat([each + i * width for i, each in enumerate(at)]).to(model.device)
    owner = torch.cat([torch.full((len(each),), i) for i, each in enumerate(at)])
    with layer_attention(model, dense_attention):
        hidden = hidden_states(model, ids).flatten(0, 1)
    return Batch(
        part_of(samples[0]),
        samples[0].length,
        len(samples),
        ids,
        rows,
        owner.to(model.device),
        hidden[rows].clone(),
        ids.flatten()[rows + 1],
    )


@torch.no_grad()
def _looked_up(model: Any, batch: Batch, kv_heads: int, sink: int) -> Tensor:
    """Which rows a short window in all heads gets wrong: (rows,)."""
    spans = torch.full((kv_heads,), max(_SHORT, sink + 1), dtype=torch.int32, device=model.device)

    def attention(_: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        return span_attention(q, k, v, spans, sink, scale)

    with layer_attention(model, attention):
        hidden = hidden_states(model, batch.ids).flatten(0, 1)[batch.at]
    losses = [row_losses(model.lm_head, hidden[rows], batch, rows)[0] for rows in rows_of(batch)]
    return torch.cat(losses) > _LOOKED_UP


def batch_size(length: int, tokens: int) -> int:
    """Samples of `length` in a batch of at most `tokens` tokens: one at least."""
    return max(1, tokens // length)


def make_batches(
    model: Any,
    samples: Sequence[Sample],
    kv_heads: int,
    sink: int,
    tokens: int,
    limit: int,
) -> list[Batch]:
    """Batches of at most `tokens` tokens, or of one sample; at most `limit` rows of a sample.

    In a shuffled order that is always the same, so that every third batch is a fair choice.
    """
    groups: dict[tuple[str, int], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((part_of(sample), sample.length), []).append(sample)
    found = []
    for (part, length), same in sorted(groups.items()):
        random.Random(f"refine/{part}/{length}").shuffle(same)
        size = batch_size(length, tokens)
        rows = [_positions(sample, limit) for sample in same]
        if part == ANSWERS:
            rows = _only_looked_up(model, same, rows, size, kv_heads, sink)
        kept = [(sample, at) for sample, at in zip(same, rows, strict=True) if len(at)]
        for begin in range(0, len(kept), size):
            chosen = kept[begin : begin + size]
            found.append(_batch(model, [s for s, _ in chosen], [at for _, at in chosen]))
    return found


def _only_looked_up(
    model: Any,
    samples: Sequence[Sample],
    rows: Sequence[Tensor],
    size: int,
    kv_heads: int,
    sink: int,
) -> list[Tensor]:
    kept: list[Tensor] = []
    for begin in range(0, len(samples), size):
        at = rows[begin : begin + size]
        batch = _batch(model, samples[begin : begin + size], at)
        hard = _looked_up(model, batch, kv_heads, sink).cpu()
        parts = torch.split(hard, [len(each) for each in at])
        kept += [each[own] for each, own in zip(at, parts, strict=True)]
    return kept
