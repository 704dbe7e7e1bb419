"""One engine, one batch, from prompts to a steady decode: the end-to-end protocol.

Real prefill of every prompt, sampled tokens, EOS ignored; the first 16 decode steps of the whole
batch are dropped, those after them are timed one by one as a caller sees them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from moa_rt import AttentionPlan, Engine, InternalError, Session, TokenEvent

from moa_tools.bench.end_rows import rates, rounds_of
from moa_tools.bench.roofline import step_cache_bytes, step_weight_bytes
from moa_tools.bench.statistics import Rounds

STEPS = 128
DROPPED = 16
SAMPLING: Mapping[str, Any] = {"temperature": 0.8, "top_p": 0.95, "seed": 1, "ignore_eos": True}
GREEDY: Mapping[str, Any] = {"ignore_eos": True}


@dataclass(frozen=True)
class Setting:
    """`prompt` tokens in, a budget of `prompt + room` tokens; `steps` of decode, timed but 16."""

    batch: int
    prompt: int
    room: int
    steps: int = STEPS

    @property
    def budget(self) -> int:
        """N: what fixes the spans and the cache."""
        return self.prompt + self.room

    @property
    def dropped(self) -> int:
        """Steps that only warm up; a short run keeps at least half of its steps."""
        return min(DROPPED, self.steps // 2)


@dataclass(frozen=True)
class Decode:
    """What one run gave: seconds of every timed step, tokens of each sequence at its middle."""

    setting: Setting
    step_seconds: tuple[float, ...]
    length: int
    prefill_seconds: float

    @property
    def rounds(self) -> Rounds:
        """Three thirds of the steps, in order."""
        third = max(1, len(self.step_seconds) // 3)
        parts = [self.step_seconds[i : i + third] for i in range(0, 3 * third, third)]
        return Rounds(tuple(part for part in parts if part))

    @property
    def mean_step_seconds(self) -> float:
        """What a caller who waits for all steps gets."""
        return fmean(self.step_seconds)


def random_prompts(vocab: int, count: int, length: int, seed: int = 1) -> list[list[int]]:
    """Random ids, another prompt for every sequence."""
    ids = np.random.default_rng(seed).integers(3, vocab, (count, length))
    return [list(map(int, row)) for row in ids]


def _finish(engine: Engine, requests: list[int]) -> None:
    """Steps until none of them is left."""
    for request in requests:
        engine.cancel(request)
    while engine.has_work:
        engine.step()


def _check(events: list[TokenEvent]) -> int:
    """How many tokens these events bring. Raises what a request failed with."""
    for event in events:
        if event.error is not None:
            raise event.error
    return sum(event.token is not None for event in events)


def _prefill(engine: Engine, session: Session, prompt: list[int]) -> None:
    engine.submit(prompt, session=session.id, max_new_tokens=0)
    while engine.has_work:
        _check(engine.step())


def run(
    engine: Engine,
    setting: Setting,
    clock: Callable[[], float] = time.perf_counter,
    sampling: Mapping[str, Any] = SAMPLING,
) -> Decode:
    """Runs the protocol on an engine that holds no other request.

    Sequences are sessions: every prompt is read before the first token is sampled, so that the
    decode steps that are timed all have the whole batch and equal lengths.
    """
    vocab = engine.config.vocab_size
    prompts = random_prompts(vocab, setting.batch, setting.prompt)
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(engine.open_session(setting.budget)) for _ in range(setting.batch)
        ]
        begin = clock()
        for session, prompt in zip(sessions, prompts, strict=True):
            _prefill(engine, session, prompt[:-1])
        prefilled = clock() - begin
        requests = [
            engine.submit(prompt[-1:], session=s.id, max_new_tokens=setting.room, **sampling)
            for s, prompt in zip(sessions, prompts, strict=True)
        ]
        times = _decode(engine, setting, clock)
        _finish(engine, requests)
    length = setting.prompt + setting.steps // 2
    return Decode(setting, tuple(times[setting.dropped :]), length, prefilled)


def _decode(engine: Engine, setting: Setting, clock: Callable[[], float]) -> list[float]:
    """Seconds from each step with a token for every sequence to the next such step."""
    times: list[float] = []
    last, tokens = clock(), 0
    while len(times) < setting.steps:
        if not engine.has_work:
            raise InternalError(f"bench: the batch ended after {len(times)} steps")
        tokens += _check(engine.step())
        if tokens >= setting.batch:
            now = clock()
            times.append(now - last)
            last, tokens = now, tokens - setting.batch
    return times


def first_token_seconds(
    engine: Engine,
    setting: Setting,
    clock: Callable[[], float] = time.perf_counter,
    repeats: int = 2,
) -> float:
    """Shortest time from a whole prompt to its first sampled token, alone on an idle engine."""
    prompt = random_prompts(engine.config.vocab_size, 1, setting.prompt)[0]
    times = []
    for _ in range(repeats):
        with engine.open_session(setting.budget) as session:
            begin = clock()
            request = engine.submit(prompt, session=session.id, max_new_tokens=1, **SAMPLING)
            while not _check(engine.step()):
                pass
            times.append(clock() - begin)
            _finish(engine, [request])
    return min(times)


def step_bytes(engine: Engine, plan: AttentionPlan, decode: Decode) -> int:
    """Weights and kept keys and values that a step at the middle of the run reads."""
    dtype = engine.options.dtype
    budget = decode.setting.budget
    lengths = [decode.length] * decode.setting.batch
    cache = step_cache_bytes(plan, engine.config, dtype, budget, lengths)
    return step_weight_bytes(engine.config, dtype) + cache


def figures(engine: Engine, decode: Decode, read_bytes_a_second: float) -> dict[str, float]:
    """The figures of a row; shares of the roofline at the measured read bandwidth."""
    size = step_bytes(engine, engine.plan, decode)
    setting = decode.setting
    memory = engine.memory
    kept = engine.plan.cache_bytes(setting.budget, engine.options.dtype, engine.config)
    rounds = rounds_of(decode.rounds.seconds)
    out = rates(setting.batch, rounds, size, read_bytes_a_second) | {
        "weights_GiB": memory.weights / 2**30,
        "cache_GiB": memory.kv_cache_peak / 2**30,
        "scratch_GiB": memory.scratch / 2**30,
        # Allocated over the sum of the spans: 1 when not a byte is wasted.
        "cache_over_spans": memory.kv_cache_peak / (setting.batch * kept),
    }
    prompt_tokens = setting.batch * (setting.prompt - 1)
    if prompt_tokens > 0:
        out["prefill_tok_s"] = prompt_tokens / decode.prefill_seconds
    return out
