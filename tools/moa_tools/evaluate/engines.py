"""The engine as the suites see it, and the few of them that are open at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from moa_rt import ArgumentError, AttentionPlan, Engine, Tokenizer
from numpy.typing import NDArray

from moa_tools.evaluate.plans import EvalPlan

Ids = NDArray[np.int32]


class Answer(Protocol):
    """What the suites read of a completion."""

    @property
    def text(self) -> str:
        """The answer as text."""

    @property
    def token_ids(self) -> list[int]:
        """The answer as ids."""

    @property
    def error(self) -> Exception | None:
        """Why this request of a list failed."""


class EvalEngine(Protocol):
    """The part of `moa_rt.Engine` that evaluation uses; tests give one with known answers."""

    def generate(self, prompts: Any, options: Any = None, *, on_token: Any = None) -> Any:
        """Answers to a list of prompts of token ids, in order."""

    def score(self, token_ids: Any, *, budget: int | None = None) -> Any:
        """Natural-log probabilities, float32 (T - 1)."""

    def logits(self, token_ids: Any, *, budget: int | None = None) -> Any:
        """Logits, float32 (T, vocab)."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""

    def close(self) -> None:
        """Frees everything."""


# A plan and the longest token budget -> an open engine.
EngineFactory = Callable[[AttentionPlan, int], EvalEngine]


def engine_factory(
    model_dir: Path, *, device: str, dtype: str, batch: int | None, threads: int | None
) -> EngineFactory:
    """Opens `moa_rt.Engine`s over `model_dir`.

    The engine admits as many sequences as memory holds, so the batch is only an upper bound. A
    prefill chunk of many tokens keeps an accelerator busy and is of no use to a CPU's caches.

    Raises ArgumentError for a batch of less than one.
    """
    if batch is not None and batch < 1:
        raise ArgumentError(f"--batch: got {batch}, want at least 1")
    gpu = device.startswith("cuda")
    max_batch = batch or (64 if gpu else 8)

    def open_engine(plan: AttentionPlan, max_length: int) -> EvalEngine:
        return Engine(
            model_dir,
            plan,
            device=device,
            dtype=dtype,
            max_batch=max_batch,
            max_seq_len=max_length,
            num_threads=threads,
            prefill_chunk=8192 if gpu else 256,
            force_plan=True,  # `parse_plans` has checked it, or was told not to
        )

    return open_engine


class EnginePool:
    """At most two open engines: the plan at hand, and the dense reference where a suite asks."""

    def __init__(self, factory: EngineFactory, max_length: int) -> None:
        self._factory, self._max_length = factory, max_length
        self._open: dict[str, tuple[str, EvalEngine]] = {}

    def _get(self, role: str, plan: EvalPlan) -> EvalEngine:
        held = self._open.get(role)
        if held is not None and held[0] == plan.digest:
            return held[1]
        if held is not None:
            del self._open[role]
            held[1].close()
        engine = self._factory(plan.plan, self._max_length)
        self._open[role] = (plan.digest, engine)
        return engine

    def current(self, plan: EvalPlan) -> EvalEngine:
        """The engine of `plan`; the one of another plan is closed first."""
        return self._get("current", plan)

    def reference(self, plan: EvalPlan) -> EvalEngine:
        """A second engine beside the current one."""
        held = self._open.get("current")
        if held is not None and held[0] == plan.digest:
            return held[1]
        return self._get("reference", plan)

    def close(self) -> None:
        """Closes both."""
        while self._open:
            self._open.popitem()[1][1].close()

    def __enter__(self) -> EnginePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def as_ids(ids: Sequence[int]) -> Ids:
    """Compact, for thousands of long prompts."""
    return np.asarray(ids, dtype=np.int32)
