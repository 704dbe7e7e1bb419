"""Losses of one plan on the samples of a split, through the runtime's own masks and caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from moa_rt import Engine, NumericError, TokenEvent

from moa_tools.calibrate.samples import Sample


@dataclass(frozen=True)
class Score:
    """Of one sample: mean loss of an answer token in nats; whether the greedy answer is the same.

    `same` is None where it was not asked.
    """

    loss: float
    same: bool | None


def answer_loss(engine: Engine, sample: Sample) -> float:
    """Mean of -log p of the answer's tokens given all before them, with N = the sample's length.

    Raises NumericError if it is not finite, and what `Engine.score` raises.
    """
    ids = [*sample.prompt_ids, *sample.answer_ids]
    logprobs = engine.score(ids, budget=sample.length)
    loss = float(-np.mean(logprobs[len(sample.prompt_ids) - 1 :], dtype=np.float64))
    if not np.isfinite(loss):
        raise NumericError(f"sample {sample.id}: loss: got {loss}, want a finite number")
    return max(loss, 0.0)


def same_answer(engine: Engine, sample: Sample) -> bool:
    """Whether the plan's greedy answer is the dense model's, token by token.

    The request's budget is the sample's length, as for the loss. It ends at the first difference.
    """
    said: list[int] = []

    def on_token(event: TokenEvent) -> bool:
        if event.token is not None:
            said.append(event.token)
        end = len(said)
        return end < len(sample.answer_ids) and said == list(sample.answer_ids[:end])

    room = sample.length - len(sample.prompt_ids)
    engine.generate(
        list(sample.prompt_ids), max_new_tokens=room, temperature=0.0, on_token=on_token
    )
    return said == list(sample.answer_ids)


def score(engine: Engine, sample: Sample, agreement: bool) -> Score:
    """Loss, and for answers of the model (not plain text) agreement if it is asked for."""
    same = same_answer(engine, sample) if agreement and sample.task != "text" else None
    return Score(answer_loss(engine, sample), same)


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean of at least one value."""
    return float(np.mean(np.asarray(values, np.float64)))
