"""Engines with known answers, and what else tests of the evaluation share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from moa_rt import AttentionPlan, ModelConfig, Tokenizer
from moa_tools.evaluate.engines import EngineFactory
from moa_tools.evaluate.items import Grid, Item
from moa_tools.evaluate.plans import EvalPlan, parse_plans
from moa_tools.evaluate.prompts import Kit
from moa_tools.evaluate.retrieval_suite import RetrievalSuite
from moa_tools.evaluate.runner import Outcome, Run, evaluate
from moa_tools.evaluate.suite import Suite
from moa_tools.progress import Silent

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"

SENTENCES = [
    f"The {color} {thing} stood in front of the old house near the river."
    for color in ("green", "white", "heavy", "little")
    for thing in ("cart", "bench", "gate", "statue", "lantern")
]

# Plan and prompt ids -> text and ids of the answer.
Oracle = Callable[[AttentionPlan, tuple[int, ...]], tuple[str, list[int]]]


@dataclass(frozen=True)
class FakeAnswer:
    text: str
    token_ids: list[int]
    error: Exception | None = None


@dataclass
class FakeEngine:
    """Answers by an oracle; after `lives` calls it breaks down."""

    plan: AttentionPlan
    tokenizer: Tokenizer
    oracle: Oracle
    log: list[int]
    lives: list[int]

    def generate(self, prompts: Any, options: Any = None, *, on_token: Any = None) -> Any:
        assert len(prompts) == len(options)
        if self.lives[0] <= 0:
            raise KeyboardInterrupt
        self.lives[0] -= 1
        self.log.append(len(prompts))
        return [FakeAnswer(*self.oracle(self.plan, tuple(map(int, ids)))) for ids in prompts]

    def score(self, token_ids: Any, *, budget: int | None = None) -> Any:
        """Dense: -1 everywhere; else -2 for odd tokens."""
        ids = np.asarray(token_ids)[1:]
        dense = self.plan.density(len(token_ids)) == 1.0
        return np.where((ids % 2 == 1) & (not dense), -2.0, -1.0).astype(np.float32)

    def logits(self, token_ids: Any, *, budget: int | None = None) -> Any:
        raise AssertionError("not asked for")

    def close(self) -> None:
        self.log.append(-1)


@dataclass
class Fakes:
    """A factory of fake engines that shares one log of calls."""

    tokenizer: Tokenizer
    oracle: Oracle
    lives: int = 1 << 30
    log: list[int] = field(default_factory=list)

    def factory(self) -> EngineFactory:
        lives = [self.lives]

        def make(plan: AttentionPlan, _: int) -> FakeEngine:
            return FakeEngine(plan, self.tokenizer, self.oracle, self.log, lives)

        return make


def key_of(items: Sequence[Item], kit: Kit) -> Oracle:
    """The engine that has the answers."""
    golds = {tuple(map(int, item.prompt_ids)): item.gold_ids for item in items}

    def answer(_: AttentionPlan, prompt: tuple[int, ...]) -> tuple[str, list[int]]:
        ids = list(golds[prompt])
        return kit.tokenizer.decode(ids), ids

    return answer


def always_wrong(_: AttentionPlan, __: tuple[int, ...]) -> tuple[str, list[int]]:
    return " I do not know, perhaps 1 or 2.", [5, 6, 7]


def kit_of(directory: Path) -> Kit:
    return Kit(Tokenizer.load(directory), SENTENCES)


def suite_of(name: str, kit: Kit, lengths: Sequence[int] = (512,), **grid: Any) -> RetrievalSuite:
    settings = {"samples": 6, "depths": 3, "facts": 3, **grid}
    return RetrievalSuite(name, kit, Grid(**settings), lengths, task_tokens=1024)


def run_of(
    model: Path, suites: Sequence[Suite], out: Path, plans: Sequence[str] = (), **more: Any
) -> Run:
    config = ModelConfig.load(str(model))
    chosen = parse_plans(plans, config)
    return Run("tiny", config, tuple(chosen), tuple(suites), out, **more)


def go(run: Run, fakes: Fakes) -> Outcome:
    return evaluate(run, fakes.factory(), Silent())


def files(directory: Path) -> dict[str, bytes]:
    """The results: everything but times and the journal."""
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.iterdir())
        if path.is_file() and path.name not in ("timings.jsonl", "journal.jsonl")
    }


def plan_labels(plans: Sequence[EvalPlan]) -> list[str]:
    return [plan.label for plan in plans]
