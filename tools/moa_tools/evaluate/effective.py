"""Effective context: the longest input at which a plan still finds what the dense model finds.

Lengths of a ladder are tried from the shortest on. A plan holds a length if its retrieval there is
at least `threshold` of the dense plan's; its effective context is the last length before the first
that it does not hold. After two lengths in a row that it does not hold it is not tried further.

A plan file covers the lengths of its range only: outside it the runtime is dense or refuses, which
says nothing of the plan, so such a length is neither held nor failed, and the report names it.

Without a mean span every plan is taken as it is, at its own density. With a mean span of M tokens
(the cache's size is fixed, the input grows) there are two families: `uniform` keeps M tokens in
every head, and `plans` is at each length that of the given files which keeps the most tokens, but
on average no more than M (and one percent, for rounding). So both have the same bytes at most,
whatever the length. A length that no file covers within these bytes is left out.

An effective context is null where nothing could be compared; `reason` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

from moa_rt import ArgumentError, ModelConfig

from moa_tools.evaluate import plots
from moa_tools.evaluate.engines import EnginePool
from moa_tools.evaluate.generation import ask, ask_exactly
from moa_tools.evaluate.intervals import bootstrap_ratio
from moa_tools.evaluate.items import Grid, Item, digest
from moa_tools.evaluate.plans import DENSE, EvalPlan, dense, fixed_span
from moa_tools.evaluate.prompts import Kit
from moa_tools.evaluate.retrieval import GENERATORS, make_items
from moa_tools.evaluate.suite import Record, Results, Section, Task, Work, chunked
from moa_tools.evaluate.tables import mean, number, rounded, table, with_interval

NAME = "effective-context"
_STEPS = (1.0, 1.125, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # lengths in mean spans
_FAILURES = 2  # in a row, then a plan is not tried further
_DENSE_LEAST = 0.5  # of all questions; where dense finds less there is nothing to compare with
_SLACK = 0.01  # a plan made for this density may miss it by so little
_ROUND = 64  # spans are multiples of it


@dataclass(frozen=True)
class Rules:
    """What effective context means here."""

    retrieval: str = "passkey"
    threshold: float = 0.9
    mean_span: int | None = None
    ladder: tuple[int, ...] = ()  # empty: made from the mean span, or doublings from 512


@dataclass(frozen=True)
class _Subject:
    """A plan, or a family of them with one member for each length."""

    name: str
    member: Callable[[int], EvalPlan | None]  # None: no plan of the family fits at that length


def _as_it_is(plan: EvalPlan, length: int) -> EvalPlan | None:
    return plan if plan.covers(length) else None


def _too_weak(base: Sequence[float]) -> bool:
    """Whether the dense model finds so little that nothing can be compared with it."""
    return sum(base) < _DENSE_LEAST * len(base)


def ladder_of(rules: Rules, longest: int) -> tuple[int, ...]:
    """The lengths to try, ascending and at most `longest`.

    Raises ArgumentError if a length that was asked for is longer, or none is left.
    """
    if rules.ladder:
        lengths = sorted(set(rules.ladder))
        if lengths[-1] > longest:
            raise ArgumentError(f"{NAME}: ladder: got {lengths[-1]}, the model ends at {longest}")
    elif rules.mean_span is not None:
        lengths = sorted({int(rules.mean_span * s) // _ROUND * _ROUND for s in _STEPS})
    else:
        lengths = [length for i in range(3, 15) for length in (64 << i, 96 << i)]
    if rules.mean_span is not None and (rules.mean_span % _ROUND or rules.mean_span < 2 * _ROUND):
        raise ArgumentError(
            f"{NAME}: mean span: got {rules.mean_span}, want a multiple of {_ROUND} from "
            f"{2 * _ROUND} on"
        )
    kept = tuple(length for length in lengths if length <= longest)
    if not kept:
        raise ArgumentError(f"{NAME}: got no length of at most {longest} tokens, want some")
    return kept


class EffectiveSuite:
    """Retrieval along a ladder of lengths, for each plan or each family of plans."""

    def __init__(
        self,
        kit: Kit,
        grid: Grid,
        config: ModelConfig,
        plans: Sequence[EvalPlan],
        rules: Rules,
        *,
        longest: int,
        task_tokens: int,
    ) -> None:
        if rules.retrieval not in GENERATORS:
            raise ArgumentError(
                f"{NAME}: retrieval: got {rules.retrieval!r}, want one of {sorted(GENERATORS)}"
            )
        if not 0.0 < rules.threshold <= 1.0:
            raise ArgumentError(f"{NAME}: threshold: got {rules.threshold}, want 0 < it <= 1")
        self.name = NAME
        self._grid, self._config, self._rules = grid, config, rules
        self._ladder = ladder_of(rules, longest)
        self.longest = self._ladder[-1]
        self._task_tokens = task_tokens
        self._items = {n: make_items(rules.retrieval, kit, grid, n) for n in self._ladder}
        self._dense = dense(config)
        self._subjects = self._make_subjects(plans)

    def _make_subjects(self, plans: Sequence[EvalPlan]) -> list[_Subject]:
        if self._rules.mean_span is None:
            chosen = [plan for plan in plans if plan.kind != "dense"]
            if not chosen:
                raise ArgumentError(
                    f"{NAME}: --plans: got none, want at least one beside dense, or --mean-span"
                )
            return [_Subject(plan.label, partial(_as_it_is, plan)) for plan in chosen]
        files = [plan for plan in plans if plan.kind == "file"]
        subjects = [_Subject("uniform", self._uniform_member)]
        if files:
            subjects.append(_Subject("plans", partial(self._file_member, files)))
        return subjects

    def _uniform_member(self, length: int) -> EvalPlan:
        span = self._rules.mean_span or length
        return self._dense if span >= length else fixed_span(self._config, span)

    def _file_member(self, files: Sequence[EvalPlan], length: int) -> EvalPlan | None:
        """The plan that keeps the most tokens and no more than the uniform one of the family."""
        uniform = self._uniform_member(length)
        if uniform.kind == "dense":
            return uniform
        bound = uniform.density(length) * (1 + _SLACK)
        covering = [plan for plan in files if plan.covers(length)]
        fitting = [plan for plan in covering if plan.density(length) <= bound]
        return max(fitting, key=lambda plan: plan.density(length), default=None)

    def lengths(self) -> Sequence[int]:
        """None to be checked for every plan: each is used only at lengths that it covers."""
        return ()

    def identity(self) -> dict[str, Any]:
        """The ladder, the rules and a digest of every prompt."""
        return {
            "facts": 1 if self._rules.retrieval == "passkey" else self._grid.facts,
            "items_sha256": {str(n): digest(items) for n, items in self._items.items()},
            "ladder": list(self._ladder),
            "mean_span": self._rules.mean_span,
            "retrieval": self._rules.retrieval,
            "samples": self._grid.samples,
            "seed": self._grid.seed,
            "task_tokens": self._task_tokens,
            "teacher_forced": self._grid.teacher_forced,
            "threshold": self._rules.threshold,
        }

    def tasks(self, plan: EvalPlan) -> list[Task]:
        """None is known beforehand: each length depends on the one before."""
        return []

    def _ask(self, plan: EvalPlan, length: int) -> Iterator[Task]:
        for index, part in enumerate(chunked(self._items[length], length, self._task_tokens)):
            key = f"{NAME}/{length}/{index}"
            yield Task(plan, key, len(part), partial(self._run, plan, part))

    def _run(self, plan: EvalPlan, items: Sequence[Item], engines: EnginePool) -> list[Record]:
        engine = engines.current(plan)
        if self._grid.teacher_forced:
            return ask_exactly(engine, items)
        generator = GENERATORS[self._rules.retrieval]
        return ask(engine, items, generator.grade, generator.stop)

    def _measure(self, plan: EvalPlan, length: int) -> Any:
        scores: list[float] = []
        for task in self._ask(plan, length):
            records = yield task
            scores += [record["score"] for record in records]
        return scores

    def follow_up(self, plans: Sequence[EvalPlan]) -> Work:
        """Length by length: the dense plan first, then whoever has not failed twice in a row."""
        failures = {subject.name: 0 for subject in self._subjects}
        for length in self._ladder:
            trying = [s for s in self._subjects if failures[s.name] < _FAILURES]
            members = {s.name: plan for s in trying if (plan := s.member(length)) is not None}
            if not members:
                continue
            base = yield from self._measure(self._dense, length)
            if _too_weak(base):
                return
            for name, plan in members.items():
                scores = base
                if plan.kind != "dense":
                    scores = yield from self._measure(plan, length)
                held = sum(scores) >= self._rules.threshold * sum(base)
                failures[name] = 0 if held else failures[name] + 1

    def _scores(self, label: str, length: int, results: Results) -> list[float] | None:
        done = results.get(label, {})
        keys = [task.key for task in self._ask(self._dense, length)]
        if any(key not in done for key in keys):
            return None
        return [record["score"] for key in keys for record in done[key]]

    def summary(self, plans: Sequence[EvalPlan], results: Results) -> Section:
        """The ladder of every subject and how far it held."""
        rows: list[dict[str, Any]] = []
        reach: list[dict[str, Any]] = []
        for subject in self._subjects:
            mine = list(self._rows(subject, results))
            rows += mine
            reach.append(self._reach(subject, mine, results))
        base = next((entry["effective"] for entry in reach if entry["plan"] == "uniform"), None)
        for entry in reach:
            known = base and entry["effective"] is not None
            entry["of_uniform"] = rounded(entry["effective"] / base) if known else None
        plot = partial(
            plots.lines,
            "retrieval relative to dense, by length",
            [subject.name for subject in self._subjects],
            rows,
            "relative",
            level=self._rules.threshold,
        )
        data = {"effective": reach, "rows": rows, **self.identity()}
        return Section(data, self._markdown(reach, rows), {"effective-context.png": plot})

    def _reach(
        self, subject: _Subject, rows: Sequence[dict[str, Any]], results: Results
    ) -> dict[str, Any]:
        """How far a subject held, and the lengths that say nothing of it."""
        held = [row["length"] for row in takewhile(lambda row: row["held"], rows)]
        return {
            "effective": (held[-1] if held else 0) if rows else None,
            "longest_tried": rows[-1]["length"] if rows else None,
            "not_covered": [n for n in self._ladder if subject.member(n) is None],
            "plan": subject.name,
            "reason": None if rows else self._why_nothing(subject, results),
        }

    def _why_nothing(self, subject: _Subject, results: Results) -> str:
        """Why a subject has no row."""
        if all(subject.member(length) is None for length in self._ladder):
            return "no length of the ladder is one that it covers"
        for length in self._ladder:
            base = self._scores(DENSE, length, results)
            if base is not None and _too_weak(base):
                return (
                    f"the dense model itself finds {mean(base):.3f} at {length} tokens, want at "
                    f"least {_DENSE_LEAST}"
                )
        return "not measured yet"

    def _rows(self, subject: _Subject, results: Results) -> Iterator[dict[str, Any]]:
        for length in self._ladder:
            plan = subject.member(length)
            if plan is None:
                continue
            base = self._scores(DENSE, length, results)
            if base is None or _too_weak(base):
                return
            scores = self._scores(plan.label, length, results)
            if scores is None:
                return
            yield {
                "density": plan.density(length),
                "dense_score": mean(base),
                "held": sum(scores) >= self._rules.threshold * sum(base),
                "length": length,
                "mean_span": round(plan.plan.density(length) * length),
                "member": plan.label,
                "plan": subject.name,
                "relative": rounded(sum(scores) / sum(base)),
                "relative_interval": bootstrap_ratio(scores, base),
                "score": mean(scores),
            }

    def _markdown(self, reach: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> str:
        fixed = self._rules.mean_span
        what = "each plan as it is" if fixed is None else f"a fixed mean span of {fixed} tokens"
        ends = [
            [
                entry["plan"],
                number(entry["effective"], 0),
                number(entry["of_uniform"], 2),
                number(entry["longest_tried"], 0),
                ", ".join(map(str, entry["not_covered"])) or "-",
            ]
            for entry in reach
        ]
        reasons = [
            f"{entry['plan']}: no effective context: {entry['reason']}.\n\n"
            for entry in reach
            if entry["reason"] is not None
        ]
        missing = "not covered by its range" if fixed is None else "not covered by any plan"
        header = ["plan", "length", "used", "density", "mean span", "dense", "score", "of dense"]
        lines = [
            [
                row["plan"],
                str(row["length"]),
                row["member"],
                number(row["density"]),
                str(row["mean_span"]),
                number(row["dense_score"]),
                number(row["score"]),
                with_interval(row["relative"], row["relative_interval"]),
            ]
            for row in rows
        ]
        return (
            f"Longest length with at least {self._rules.threshold:g} of dense retrieval "
            f"({self._rules.retrieval}, {self._grid.samples} questions a length), at {what}.\n\n"
            + table(["plan", "effective context", "of uniform", "longest tried", missing], ends)
            + "\n"
            + "".join(reasons)
            + table(header, lines)
        )
