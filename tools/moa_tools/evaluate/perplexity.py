"""Perplexity of unseen text by position: long context must not cost language."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from moa_rt import ArgumentError, NumericError, Tokenizer

from moa_tools.evaluate import plots
from moa_tools.evaluate.engines import EnginePool, Ids, as_ids
from moa_tools.evaluate.intervals import bootstrap_exp_mean
from moa_tools.evaluate.plans import DENSE, EvalPlan
from moa_tools.evaluate.suite import Record, Results, Section, Task, Work, nothing
from moa_tools.evaluate.tables import number, rounded, table, with_interval
from moa_tools.text import Document

NAME = "perplexity"
_BUCKETS = 8


def cut(tokenizer: Tokenizer, documents: Sequence[Document], length: int, count: int) -> list[Ids]:
    """Up to `count` texts of exactly `length` tokens, with the tokenizer's BOS if it has one.

    Documents are run together, one after the other, and cut without overlap. Raises ArgumentError
    if they do not make one text.
    """
    start = tokenizer.encode("")
    room = length - len(start)
    ids: list[int] = []
    for document in documents:
        if len(ids) >= count * room:
            break
        ids += tokenizer.encode(document.text.strip() + "\n\n", add_special=False)
    texts = [ids[i : i + room] for i in range(0, len(ids) - room + 1, room)][:count]
    if not texts:
        raise ArgumentError(
            f"{NAME}: length {length}: got {len(ids)} tokens of text, want at least {room}"
        )
    return [as_ids([*start, *text]) for text in texts]


class PerplexitySuite:
    """`Engine.score` over texts of one length, losses summed in buckets of positions."""

    def __init__(
        self, tokenizer: Tokenizer, documents: Sequence[Document], length: int, count: int
    ) -> None:
        self.name = NAME
        self.longest = length
        self.texts = cut(tokenizer, documents, length, count)
        self._edges = [1 + (length - 1) * i // _BUCKETS for i in range(_BUCKETS + 1)]

    def lengths(self) -> Sequence[int]:
        """One."""
        return (self.longest,)

    def identity(self) -> dict[str, Any]:
        """The texts by digest, and the buckets."""
        total = hashlib.sha256()
        for text in self.texts:
            total.update(text.tobytes())
        return {
            "edges": self._edges,
            "length": self.longest,
            "texts": len(self.texts),
            "texts_sha256": total.hexdigest(),
        }

    def tasks(self, plan: EvalPlan) -> list[Task]:
        """One text each."""
        return [
            Task(plan, f"{NAME}/{index}", 1, partial(self._run, plan, text))
            for index, text in enumerate(self.texts)
        ]

    def _run(self, plan: EvalPlan, text: Ids, engines: EnginePool) -> list[Record]:
        losses = -np.asarray(engines.current(plan).score(text), dtype=np.float64)
        if not np.isfinite(losses).all():
            raise NumericError(f"{NAME}: plan {plan.label}: a loss is not finite")
        # Entry i is the loss of the token at position i + 1.
        sums = [
            float(losses[low - 1 : high - 1].sum())
            for low, high in zip(self._edges, self._edges[1:], strict=False)
        ]
        return [{"losses": [rounded(value) for value in sums]}]

    def follow_up(self, plans: Sequence[EvalPlan]) -> Work:
        """None."""
        return nothing()

    def _losses(self, label: str, results: Results) -> list[list[float]] | None:
        done = results.get(label, {})
        keys = [f"{NAME}/{index}" for index in range(len(self.texts))]
        if any(key not in done for key in keys):
            return None
        return [done[key][0]["losses"] for key in keys]

    def summary(self, plans: Sequence[EvalPlan], results: Results) -> Section:
        """Perplexity of the whole and of every bucket, with its ratio to the dense plan's."""
        base = self._losses(DENSE, results)
        rows = []
        for plan in plans:
            losses = self._losses(plan.label, results)
            if losses is not None:
                rows.append(self._row(plan, losses, base))
        labels = [row["plan"] for row in rows]
        points = [
            {"plan": row["plan"], "length": b["end"], "ratio": b["ratio"]}
            for row in rows
            for b in row["buckets"]
        ]
        title = "perplexity over the dense plan's, by position"
        plot = partial(plots.lines, title, labels, points, "ratio", x_label="position")
        return Section(
            {"rows": rows, **self.identity()},
            self._markdown(rows),
            {"perplexity.png": plot} if base is not None else {},
        )

    def _row(
        self, plan: EvalPlan, losses: list[list[float]], base: list[list[float]] | None
    ) -> dict[str, Any]:
        widths = [b - a for a, b in zip(self._edges, self._edges[1:], strict=False)]
        buckets = []
        for index, width in enumerate(widths):
            mine = sum(text[index] for text in losses) / (width * len(losses))
            entry: dict[str, Any] = {
                "end": self._edges[index + 1],
                "perplexity": rounded(math.exp(mine)),
                "ratio": None,
                "start": self._edges[index],
            }
            if base is not None:
                dense = sum(text[index] for text in base) / (width * len(base))
                entry["ratio"] = rounded(math.exp(mine - dense))
            buckets.append(entry)
        totals = [sum(text) for text in losses]
        counts = [self.longest - 1] * len(totals)
        whole = math.exp(sum(totals) / sum(counts))
        row: dict[str, Any] = {
            "buckets": buckets,
            "density": plan.density(self.longest),
            "length": self.longest,
            "perplexity": rounded(whole),
            "perplexity_interval": bootstrap_exp_mean(totals, counts),
            "plan": plan.label,
            "ratio": None,
            "ratio_interval": None,
        }
        if base is not None:
            dense_totals = [sum(text) for text in base]
            row["ratio"] = rounded(math.exp((sum(totals) - sum(dense_totals)) / sum(counts)))
            row["ratio_interval"] = bootstrap_exp_mean(totals, counts, dense_totals)
        return row

    def _markdown(self, rows: Sequence[dict[str, Any]]) -> str:
        ends = [str(end) for end in self._edges[1:]]
        header = ["plan", "density", "perplexity [95 %]", "of dense [95 %]"]
        lines = [
            [
                row["plan"],
                number(row["density"]),
                with_interval(row["perplexity"], row["perplexity_interval"]),
                with_interval(row["ratio"], row["ratio_interval"]),
            ]
            for row in rows
        ]
        by_bucket = [
            [row["plan"], *(number(bucket["perplexity"], 2) for bucket in row["buckets"])]
            for row in rows
        ]
        return (
            f"{len(self.texts)} texts of {self.longest} tokens; intervals by bootstrap over "
            "texts.\n\n"
            + table(header, lines)
            + "\nBy position, up to:\n\n"
            + table(["plan", *ends], by_bucket)
        )
