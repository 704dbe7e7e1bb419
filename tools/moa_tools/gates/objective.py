"""The loss of the gates: how far the narrowed model is from the dense one on its own answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from moa_tools.hf.attention import hidden_states, layer_attention

if TYPE_CHECKING:
    from torch import Tensor

    from moa_tools.calibrate.samples import Sample

# Positions whose logits are in memory at a time.
_ROWS = 64
_ALIGNED = 16


@dataclass(frozen=True, eq=False)
class Lesson:
    """A sample with what the dense model thinks where its answer is predicted.

    `positions` (P,) index the tokens, `teacher` (P, hidden) are the dense final states there: the
    logits are made from them when they are needed, and never for all positions at once.
    """

    sample: Sample
    positions: Tensor
    teacher: Tensor


def token_batch(samples: Sequence[Sample], device: torch.device) -> Tensor:
    """Prompts and answers (B, T), padded at the right, where no earlier token sees it.

    T is a multiple of 16: a GPU's kernels are compiled for such lengths once.
    """
    rows = [[*sample.prompt_ids, *sample.answer_ids] for sample in samples]
    width = -(-max(map(len, rows)) // _ALIGNED) * _ALIGNED
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return ids.to(device)


def answer_positions(sample: Sample, limit: int) -> Tensor:
    """Where the answer's tokens are predicted; if there are more than `limit`, some of them."""
    return spread_positions(len(sample.prompt_ids) - 1, len(sample.answer_ids), limit)


def spread_positions(start: int, count: int, limit: int) -> Tensor:
    """`count` positions from `start` on; if there are more than `limit`, so many evenly of them."""
    kept = min(count, limit)
    return start + (torch.arange(kept) * count) // kept


def dense_attention(_: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Of the model as it is, for `layer_attention`."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)


def teach(model: Any, samples: Sequence[Sample], limit: int) -> list[Lesson]:
    """Runs the dense model once over samples of one batch."""
    device = model.device
    with torch.no_grad(), layer_attention(model, dense_attention):
        hidden = hidden_states(model, token_batch(samples, device))
    lessons = []
    for row, sample in zip(hidden, samples, strict=True):
        positions = answer_positions(sample, limit).to(device)
        lessons.append(Lesson(sample, positions, row[positions].clone()))
    return lessons


def _divergence(head: Any, student: Tensor, teacher: Tensor) -> Tensor:
    with torch.no_grad():
        want = torch.log_softmax(head(teacher).float(), -1)
    got = torch.log_softmax(head(student).float(), -1)
    return (want.exp() * (want - got)).sum()


def divergence(model: Any, hidden: Tensor, lesson: Lesson) -> Tensor:
    """Mean KL(dense || gated) in nats over the lesson's positions; hidden (T, hidden)."""
    student = hidden[lesson.positions]
    total = student.new_zeros((), dtype=torch.float32)
    for start in range(0, len(student), _ROWS):
        rows = slice(start, start + _ROWS)
        total = total + checkpoint(
            _divergence, model.lm_head, student[rows], lesson.teacher[rows], use_reentrant=False
        )
    return total / len(student)
