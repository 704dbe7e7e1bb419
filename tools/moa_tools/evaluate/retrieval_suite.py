"""The suites passkey, lines, kv and needles: share of right answers by length and depth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from moa_tools.evaluate import plots
from moa_tools.evaluate.engines import EnginePool
from moa_tools.evaluate.generation import ask, ask_exactly
from moa_tools.evaluate.intervals import bootstrap_mean, bootstrap_ratio, wilson
from moa_tools.evaluate.items import Grid, Item, digest
from moa_tools.evaluate.plans import DENSE, EvalPlan
from moa_tools.evaluate.prompts import Kit
from moa_tools.evaluate.retrieval import GENERATORS, make_items
from moa_tools.evaluate.suite import Record, Results, Section, Task, Work, chunked, nothing
from moa_tools.evaluate.tables import cells, mean, number, rounded, table, with_interval


class RetrievalSuite:
    """One of `retrieval.GENERATORS` over a grid of lengths and depths."""

    def __init__(
        self, name: str, kit: Kit, grid: Grid, lengths: Sequence[int], task_tokens: int
    ) -> None:
        self.name = name
        self.longest = max(lengths)
        self._grid, self._lengths, self._task_tokens = (
            grid,
            tuple(sorted(set(lengths))),
            task_tokens,
        )
        self.items = {n: make_items(name, kit, grid, n) for n in self._lengths}

    def lengths(self) -> Sequence[int]:
        """Token budgets, ascending."""
        return self._lengths

    def identity(self) -> dict[str, Any]:
        """The grid and a digest of every prompt."""
        return {
            "depths": self._grid.depths,
            "facts": 1 if self.name == "passkey" else self._grid.facts,
            "items_sha256": {str(n): digest(items) for n, items in self.items.items()},
            "samples": self._grid.samples,
            "seed": self._grid.seed,
            "task_tokens": self._task_tokens,
            "teacher_forced": self._grid.teacher_forced,
        }

    def tasks(self, plan: EvalPlan) -> list[Task]:
        """A few prompts each, shortest lengths first."""
        return [
            Task(plan, f"{self.name}/{length}/{index}", len(part), partial(self.run, plan, part))
            for length in self._lengths
            for index, part in enumerate(chunked(self.items[length], length, self._task_tokens))
        ]

    def run(self, plan: EvalPlan, items: Sequence[Item], engines: EnginePool) -> list[Record]:
        """The records of some questions."""
        engine = engines.current(plan)
        if self._grid.teacher_forced:
            return ask_exactly(engine, items)
        generator = GENERATORS[self.name]
        return ask(engine, items, generator.grade, generator.stop)

    def follow_up(self, plans: Sequence[EvalPlan]) -> Work:
        """None."""
        return nothing()

    def summary(self, plans: Sequence[EvalPlan], results: Results) -> Section:
        """Rows by plan and length, a line plot over lengths and a heat map over depths."""
        rows = [
            row
            for plan in plans
            for length in self._lengths
            if (row := self._row(plan, length, results)) is not None
        ]
        data = {"rows": rows, **self.identity()}
        labels = [plan.label for plan in plans if any(r["plan"] == plan.label for r in rows)]
        return Section(
            data,
            self._markdown(labels, rows),
            {
                f"{self.name}-depth.png": partial(
                    plots.depth_maps, self.name, labels, self._lengths, rows
                ),
                f"{self.name}.png": partial(
                    plots.lines, f"{self.name}: score by length", labels, rows, "score"
                ),
            },
        )

    def _scores(self, label: str, length: int, results: Results) -> list[Record]:
        done = results.get(label, {})
        prefix = f"{self.name}/{length}/"
        return [record for key, part in done.items() if key.startswith(prefix) for record in part]

    def _row(self, plan: EvalPlan, length: int, results: Results) -> dict[str, Any] | None:
        records = self._scores(plan.label, length, results)
        base = {r["id"]: r["score"] for r in self._scores(DENSE, length, results)}
        if len(records) < self._grid.samples:
            return None
        scores = [record["score"] for record in records]
        rate = all(score in (0.0, 1.0) for score in scores)
        row: dict[str, Any] = {
            "by_depth": self._by_depth(records),
            "density": plan.density(length),
            "interval": wilson(sum(scores), len(scores)) if rate else bootstrap_mean(scores),
            "interval_kind": "wilson" if rate else "bootstrap",
            "length": length,
            "plan": plan.label,
            "relative": None,
            "relative_interval": None,
            "samples": len(scores),
            "score": mean(scores),
        }
        if len(base) == len(records) and sum(base.values()) > 0:
            paired = [base[record["id"]] for record in records]
            row["relative"] = rounded(sum(scores) / sum(paired))
            row["relative_interval"] = bootstrap_ratio(scores, paired)
        return row

    def _by_depth(self, records: Sequence[Record]) -> list[dict[str, float]]:
        depths = sorted({record["depth"] for record in records})
        groups = [[r["score"] for r in records if r["depth"] == depth] for depth in depths]
        return [
            {"depth": depth, "samples": len(group), "score": mean(group)}
            for depth, group in zip(depths, groups, strict=True)
        ]

    def _markdown(self, labels: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
        header = ["plan", "length", "density", "score [95 %]", "of dense [95 %]", "worst depth"]
        lines = []
        for label in labels:
            for length in self._lengths:
                row = cells(rows, label, length)
                if row is None:
                    continue
                worst = min(row["by_depth"], key=lambda entry: entry["score"])
                lines.append(
                    [
                        label,
                        str(length),
                        number(row["density"]),
                        with_interval(row["score"], row["interval"]),
                        with_interval(row["relative"], row["relative_interval"]),
                        f"{number(worst['score'], 2)} at {worst['depth']:.2f}",
                    ]
                )
        how = "teacher-forced, " if self._grid.teacher_forced else ""
        facts = "" if self.name == "passkey" else f", {self._grid.facts or 'as many as fit'} facts"
        return (
            f"{how}{self._grid.samples} questions a length, {self._grid.depths} depths{facts}, "
            f"seed {self._grid.seed}; the same for every plan.\n\n" + table(header, lines)
        )
