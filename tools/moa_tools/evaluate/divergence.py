"""Divergence from the dense model on the user's own prompts, teacher-forced.

The dense model answers each prompt greedily; then both models read prompt and answer, and every
position's distributions are compared: KL(dense || plan) in nats, and whether the likeliest token
is the same. One prompt's logits at a time are in memory, twice (T, vocab) in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from moa_rt import ArgumentError, NumericError, Tokenizer
from numpy.typing import NDArray

from moa_tools.evaluate import plots
from moa_tools.evaluate.engines import EnginePool, Ids, as_ids
from moa_tools.evaluate.generation import answers
from moa_tools.evaluate.intervals import bootstrap_mean
from moa_tools.evaluate.plans import EvalPlan
from moa_tools.evaluate.suite import Record, Results, Section, Task, Work, nothing
from moa_tools.evaluate.tables import mean, number, rounded, table, with_interval
from moa_tools.text import Document, chat_ids

NAME = "divergence"
_BLOCK = 64  # rows of (T, vocab) in float64 at a time
_PARTS = ("prompt", "answer")


@dataclass(frozen=True)
class Difference:
    """Per position: KL in nats, and 1 where the likeliest token agrees."""

    kl: NDArray[np.float64]
    agree: NDArray[np.float64]


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


def compare(dense: NDArray[np.float32], other: NDArray[np.float32]) -> Difference:
    """KL(dense || other) and top-1 agreement of two (T, vocab) arrays of logits.

    Raises NumericError if a value is NaN or infinite.
    """
    kl = np.empty(len(dense))
    for start in range(0, len(dense), _BLOCK):
        rows = slice(start, start + _BLOCK)
        p, q = _log_softmax(dense[rows]), _log_softmax(other[rows])
        kl[rows] = (np.exp(p) * (p - q)).sum(axis=1)
    if not np.isfinite(kl).all():
        raise NumericError(f"{NAME}: logits are not finite")
    agree = (dense.argmax(axis=1) == other.argmax(axis=1)).astype(np.float64)
    return Difference(np.maximum(kl, 0.0), agree)


class DivergenceSuite:
    """Every plan against the dense one on the same prompts and the dense model's answers."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Sequence[Document],
        dense: EvalPlan,
        *,
        max_tokens: int,
        answer_tokens: int,
    ) -> None:
        self.name = NAME
        self.longest = max_tokens
        if answer_tokens < 1 or answer_tokens >= max_tokens:
            raise ArgumentError(
                f"{NAME}: answer tokens: got {answer_tokens}, want 1 to {max_tokens - 1}"
            )
        self._dense, self._answer_tokens = dense, answer_tokens
        room = max_tokens - answer_tokens
        self._prompts = [_cut_middle(chat_ids(tokenizer, p.text), room) for p in prompts]
        self._answers: dict[int, list[int]] = {}
        if not self._prompts:
            raise ArgumentError(f"{NAME}: got no prompts, want at least one")

    def lengths(self) -> Sequence[int]:
        """The longest prompt with its answer."""
        return (self.longest,)

    def identity(self) -> dict[str, Any]:
        """The prompts by digest."""
        total = hashlib.sha256()
        for prompt in self._prompts:
            total.update(len(prompt).to_bytes(8, "little") + prompt.tobytes())
        return {
            "answer_tokens": self._answer_tokens,
            "max_tokens": self.longest,
            "prompts": len(self._prompts),
            "prompts_sha256": total.hexdigest(),
        }

    def tasks(self, plan: EvalPlan) -> list[Task]:
        """One prompt each; none for the dense plan itself."""
        if plan.kind == "dense":
            return []
        return [
            Task(plan, f"{NAME}/{index}", 1, partial(self._run, plan, index))
            for index in range(len(self._prompts))
        ]

    def _run(self, plan: EvalPlan, index: int, engines: EnginePool) -> list[Record]:
        dense = engines.reference(self._dense)
        prompt = self._prompts[index]
        if index not in self._answers:
            options: dict[str, object] = {"max_new_tokens": self._answer_tokens}
            self._answers[index] = answers(dense, [prompt], [options])[0].token_ids
        ids = as_ids([*prompt.tolist(), *self._answers[index]])
        budget = len(prompt) + self._answer_tokens
        got = compare(
            dense.logits(ids, budget=budget), engines.current(plan).logits(ids, budget=budget)
        )
        # Position i predicts token i + 1: the last prompt position begins the answer.
        border = len(prompt) - 1
        record: Record = {"density": plan.density(budget), "tokens": len(ids)}
        for part, rows in zip(_PARTS, (slice(0, border), slice(border, len(ids) - 1)), strict=True):
            if len(got.kl[rows]):
                record[f"{part}_kl"] = rounded(got.kl[rows].mean())
                record[f"{part}_worst_kl"] = rounded(got.kl[rows].max())
                record[f"{part}_agree"] = rounded(got.agree[rows].mean())
        return [record]

    def follow_up(self, plans: Sequence[EvalPlan]) -> Work:
        """None."""
        return nothing()

    def summary(self, plans: Sequence[EvalPlan], results: Results) -> Section:
        """Means over prompts, of prompt and answer positions apart."""
        rows = []
        for plan in plans:
            done = results.get(plan.label, {})
            keys = [f"{NAME}/{index}" for index in range(len(self._prompts))]
            if plan.kind != "dense" and all(key in done for key in keys):
                rows.append(self._row(plan.label, [done[key][0] for key in keys]))
        bars = partial(
            plots.bars, "KL from the dense model, nats", rows, ["prompt_kl", "answer_kl"]
        )
        return Section(
            {"rows": rows, **self.identity()}, self._markdown(rows), {"divergence.png": bars}
        )

    def _row(self, label: str, records: Sequence[Record]) -> dict[str, Any]:
        row: dict[str, Any] = {
            "density": mean([record["density"] for record in records]),
            "plan": label,
            "records": list(records),
        }
        for part in _PARTS:
            known = [record for record in records if f"{part}_kl" in record]
            for figure in ("kl", "agree"):
                values = [record[f"{part}_{figure}"] for record in known]
                row[f"{part}_{figure}"] = mean(values) if values else None
                row[f"{part}_{figure}_interval"] = bootstrap_mean(values) if values else None
            row[f"{part}_worst_kl"] = max((r[f"{part}_worst_kl"] for r in known), default=None)
        return row

    def _markdown(self, rows: Sequence[dict[str, Any]]) -> str:
        header = ["plan", "density"]
        for part in _PARTS:
            header += [f"{part}: KL [95 %]", "worst", "same token [95 %]"]
        lines = []
        for row in rows:
            line = [row["plan"], number(row["density"])]
            for part in _PARTS:
                line += [
                    with_interval(row[f"{part}_kl"], row[f"{part}_kl_interval"], 4),
                    number(row[f"{part}_worst_kl"]),
                    with_interval(row[f"{part}_agree"], row[f"{part}_agree_interval"]),
                ]
            lines.append(line)
        return (
            f"{len(self._prompts)} prompts of at most {self.longest} tokens with the dense model's "
            f"greedy answers of at most {self._answer_tokens}; KL(dense || plan) in nats, "
            "teacher-forced, bootstrap over prompts.\n\n" + table(header, lines)
        )


def _cut_middle(ids: Sequence[int], room: int) -> Ids:
    """At most `room` ids: the middle of a longer prompt is left out."""
    if len(ids) <= room:
        return as_ids(ids)
    head = room // 2
    return as_ids([*ids[:head], *ids[len(ids) - (room - head) :]])
