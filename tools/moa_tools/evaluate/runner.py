"""Runs suites over plans: one engine for each plan, every task journalled when it is done."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import moa_rt
from moa_rt import ArgumentError, MismatchError, ModelConfig

from moa_tools.evaluate import report
from moa_tools.evaluate.engines import EngineFactory, EnginePool
from moa_tools.evaluate.journal import Journal
from moa_tools.evaluate.plans import EvalPlan
from moa_tools.evaluate.suite import Record, Section, Suite, Task
from moa_tools.files import io_errors
from moa_tools.progress import Reporter
from moa_tools.strict_json import dump


@dataclass(frozen=True)
class Run:
    """What is evaluated, and where the results go."""

    model_name: str
    config: ModelConfig
    plans: tuple[EvalPlan, ...]
    suites: tuple[Suite, ...]
    out: Path
    device: str = "cpu"
    dtype: str = "auto"
    time_limit: float | None = None  # seconds; the run then ends early and can go on later

    def identity(self) -> dict[str, Any]:
        """What all records depend on, whatever the plan and the suite."""
        return {
            "device": self.device,
            "dtype": self.dtype,
            "fingerprint": self.config.fingerprint,
            "moa_rt": moa_rt.__version__,
            "model": self.model_name,
            "schema": report.SCHEMA,
        }


@dataclass(frozen=True)
class Outcome:
    """What a run has done: sections by suite, and the suites that are not complete."""

    sections: Mapping[str, Section]
    missing: tuple[str, ...]


def _digest(value: Any) -> str:
    return hashlib.sha256(dump(value)).hexdigest()


class _OutOfTimeError(Exception):
    """The time limit has passed."""


class _Runner:
    def __init__(self, run: Run, engines: EnginePool, journal: Journal, progress: Reporter) -> None:
        self._run, self._engines, self._journal, self._progress = run, engines, journal, progress
        self._end = None if run.time_limit is None else time.monotonic() + run.time_limit
        self._scopes = {suite.name: _digest(suite.identity()) for suite in run.suites}
        self.records: dict[str, dict[str, list[Record]]] = {}
        self.seconds: dict[str, dict[str, float]] = {}
        self.cut_short: list[str] = []  # suites whose follow-up work is not done

    def do(self, task: Task) -> list[Record]:
        """Looks a task up or runs it. Raises _OutOfTimeError before one that would have to run."""
        label, suite = task.plan.label, task.key.split("/")[0]
        scope = f"{task.plan.digest} {self._scopes[suite]}"
        records = self._journal.get(scope, task.key)
        if records is None:
            if self._end is not None and time.monotonic() >= self._end:
                raise _OutOfTimeError
            begin = time.monotonic()
            records = self._journal.add(scope, task.key, task.run(self._engines))
            spent = self.seconds.setdefault(label, {})
            spent[suite] = round(spent.get(suite, 0.0) + time.monotonic() - begin, 3)
        self.records.setdefault(label, {})[task.key] = records
        return records

    def known_tasks(self) -> None:
        """All suites of one plan before the next plan: weights are loaded once for each."""
        for plan in self._run.plans:
            tasks = [task for suite in self._run.suites for task in suite.tasks(plan)]
            if not tasks:
                continue
            self._progress.start(plan.label, sum(task.size for task in tasks))
            try:
                for task in tasks:
                    with suppress(_OutOfTimeError):  # a later one may have been done before
                        self.do(task)
                    self._progress.advance(task.size)
            finally:
                self._progress.stop()

    def follow_ups(self) -> None:
        """Work that depends on what came before it."""
        for suite in self._run.suites:
            try:
                self._follow_up(suite)
            except _OutOfTimeError:
                self.cut_short.append(suite.name)

    def _follow_up(self, suite: Suite) -> None:
        work = suite.follow_up(self._run.plans)
        task = next(work, None)
        while task is not None:
            self._progress.info(f"{suite.name}: {task.plan.label}: {task.key}")
            try:
                task = work.send(self.do(task))
            except StopIteration:
                task = None


def check(run: Run) -> None:
    """Refuses what could not run to its end, before anything is loaded or written.

    Raises:
        ArgumentError: a suite needs more tokens than the model has positions, or the time limit is
            negative.
        MismatchError: a plan refuses one of the lengths.
    """
    if run.time_limit is not None and not run.time_limit >= 0:
        raise ArgumentError(f"--time-limit: got {run.time_limit:g}, want at least 0 seconds")
    limit = run.config.max_position_embeddings
    for suite in run.suites:
        if suite.longest > limit:
            raise ArgumentError(
                f"{suite.name}: length: got {suite.longest} tokens, want at most {limit}: the "
                "model has no more positions"
            )
        for plan in run.plans:
            for length in suite.lengths():
                try:
                    plan.plan.spans(length)
                except moa_rt.Error as error:
                    raise MismatchError(f"plan {plan.label}: length {length}: {error}") from error


def _outside(run: Run) -> list[str]:
    """Warnings about lengths at which a plan is silently dense."""
    lines = []
    for plan in run.plans:
        lengths = {n for suite in run.suites for n in suite.lengths()}
        plan_range = range(plan.plan.min_length, plan.plan.max_length + 1)
        outside = sorted(n for n in lengths if n not in plan_range)
        if plan.kind == "file" and outside:
            lines.append(
                f"warning: plan {plan.label} is made for {plan_range.start}..{plan_range.stop - 1} "
                f"tokens and is dense at {', '.join(map(str, outside))}"
            )
    return lines


def evaluate(run: Run, factory: EngineFactory, progress: Reporter) -> Outcome:
    """Runs or resumes an evaluation and writes its results to `run.out`.

    Results hold no time and no path: the same run gives the same bytes, in one go or in several.
    Times go to timings.jsonl. With a time limit the results of what is done are written and the
    suites that are not complete are named. A run that fails before its first record leaves nothing.

    Raises what `check`, the journal (another evaluation's directory) and the engine raise; what
    was measured before stays in the journal.
    """
    check(run)
    for line in _outside(run):
        progress.info(line)
    identity = run.identity()
    longest = max(suite.longest for suite in run.suites)
    started = datetime.now(timezone.utc)
    begin = time.monotonic()
    with closing(Journal(run.out, identity)) as journal, EnginePool(factory, longest) as engines:
        runner = _Runner(run, engines, journal, progress)
        try:
            runner.known_tasks()
            runner.follow_ups()
        finally:
            _note_times(run, runner, started, time.monotonic() - begin)
        sections = {s.name: s.summary(run.plans, runner.records) for s in run.suites}
        missing = _missing(run, runner)
        report.write(run.out, identity, run.plans, sections, missing)
    return Outcome(sections, missing)


def _missing(run: Run, runner: _Runner) -> tuple[str, ...]:
    """What is not done: "suite of plan", and then the suites whose follow-up was cut short."""
    names = [
        f"{suite.name} of {plan.label}"
        for plan in run.plans
        for suite in run.suites
        if any(t.key not in runner.records.get(plan.label, {}) for t in suite.tasks(plan))
    ]
    return (*names, *runner.cut_short)


def _note_times(run: Run, runner: _Runner, started: datetime, seconds: float) -> None:
    if not runner.seconds:
        return
    entry = {
        "device": run.device,
        "seconds": round(seconds, 3),
        "started": started.isoformat(timespec="seconds"),
        "tasks": runner.seconds,
    }
    path = run.out / report.TIMINGS
    with io_errors(path, "append"), path.open("ab") as file:
        file.write(dump(entry, compact=True))
