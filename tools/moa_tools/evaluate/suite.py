"""What a suite is: units of work for an engine, and a summary of their records."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from moa_tools.evaluate.engines import EnginePool
from moa_tools.evaluate.plans import EvalPlan

Record = dict[str, Any]  # plain JSON; one for each prompt, document or chunk


@dataclass(frozen=True, eq=False)
class Task:
    """What one engine does in one go; its records are kept together or not at all."""

    plan: EvalPlan
    key: str  # unique among the tasks of a plan
    size: int  # prompts, for the progress bar
    run: Callable[[EnginePool], list[Record]]


# What has been measured: label of the plan -> key of the task -> records.
Results = Mapping[str, Mapping[str, Sequence[Record]]]
# Yields a task and is sent its records.
Work = Generator[Task, "list[Record]", None]


@dataclass(frozen=True)
class Section:
    """A suite's part of the report."""

    data: dict[str, Any]  # for results.json
    markdown: str
    plots: dict[str, Callable[[], bytes]] = field(default_factory=dict)  # file name -> PNG


class Suite(Protocol):
    """A named set of measurements, the same for every plan."""

    name: str
    longest: int  # the longest token budget it needs

    def identity(self) -> dict[str, Any]:
        """Everything its results depend on, as JSON: settings and digests of the data."""

    def lengths(self) -> Sequence[int]:
        """The token budgets at which plans are asked to work."""

    def tasks(self, plan: EvalPlan) -> list[Task]:
        """The work that is known beforehand."""

    def follow_up(self, plans: Sequence[EvalPlan]) -> Work:
        """The work that depends on earlier records; none for most suites."""

    def summary(self, plans: Sequence[EvalPlan], results: Results) -> Section:
        """The report over the plans of which every task is done."""


def nothing() -> Work:
    """No follow-up work."""
    yield from ()


def chunked(items: Sequence[Any], tokens_each: int, tokens: int) -> list[Sequence[Any]]:
    """Slices of about `tokens` in all: what is lost at most when a run is interrupted."""
    count = max(1, tokens // max(tokens_each, 1))
    return [items[i : i + count] for i in range(0, len(items), count)]
