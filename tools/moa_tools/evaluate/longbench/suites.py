"""The suites longbench and lveval: published files, our engine, scores by dataset and length."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from moa_rt import ArgumentError, Tokenizer

from moa_tools.evaluate import plots
from moa_tools.evaluate.engines import EnginePool, Ids, as_ids
from moa_tools.evaluate.generation import answers
from moa_tools.evaluate.intervals import bootstrap_mean, bootstrap_ratio
from moa_tools.evaluate.longbench.data import DataFile, Entry, load_directory, load_settings
from moa_tools.evaluate.longbench.tasks import LONGBENCH as LONGBENCH_DATASETS
from moa_tools.evaluate.longbench.tasks import LVEVAL as LVEVAL_DATASETS
from moa_tools.evaluate.longbench.tasks import Dataset
from moa_tools.evaluate.plans import DENSE, EvalPlan
from moa_tools.evaluate.prompts import frame_of
from moa_tools.evaluate.suite import Record, Results, Section, Task, Work, chunked, nothing
from moa_tools.evaluate.tables import mean, number, rounded, table, with_interval

LONGBENCH, LVEVAL = "longbench", "lveval"
_KEPT = 2000  # characters of an answer that go into the records
# Upper ends of LongBench-E's buckets, by the "length" field.
_BUCKETS = ((4000, "0-4k"), (8000, "4-8k"), (1 << 62, "8k+"))
_ALL = "all"


@dataclass(frozen=True)
class Settings:
    """Where the data is and how much of it is used."""

    longbench: Path | None = None
    lveval: Path | None = None
    prompts: Path | None = None
    answer_lengths: Path | None = None
    context: int = 3500  # tokens of a prompt before the chat template; the middle goes
    limit: int | None = None


@dataclass(frozen=True, eq=False)
class _Item:
    file: DataFile
    index: int
    entry: Entry
    prompt_ids: Ids
    dataset: Dataset

    @property
    def bucket(self) -> str:
        if not self.file.by_length:
            return _ALL
        return next(name for end, name in _BUCKETS if self.entry.length < end)


def fill(prompt: str, entry: Entry) -> str:
    """The prompt with the entry's texts; braces in them stay as they are."""
    parts = prompt.split("{context}")
    texts = [part.replace("{input}", entry.question) for part in parts]
    return entry.context.join(texts)


def truncate_middle(ids: Sequence[int], room: int) -> list[int]:
    """At most `room` ids: the first and last halves of a longer prompt, as both benchmarks do."""
    if len(ids) <= room:
        return list(ids)
    half = room // 2
    return [*ids[:half], *ids[len(ids) - (room - half) :]]


def make(name: str, settings: Settings, tokenizer: Tokenizer, task_tokens: int) -> BenchmarkSuite:
    """The suite of that name over the user's files. Raises ArgumentError if none are given."""
    known = LONGBENCH_DATASETS if name == LONGBENCH else LVEVAL_DATASETS
    place = settings.longbench if name == LONGBENCH else settings.lveval
    if place is None:
        raise ArgumentError(f"--{name}: got nothing, want the directory of its JSONL files")
    if settings.context < 64:
        raise ArgumentError(f"--context: got {settings.context}, want at least 64 tokens")
    if settings.limit is not None and settings.limit < 1:
        raise ArgumentError(f"--limit: got {settings.limit}, want at least 1")
    datasets = _customised(known, settings)
    files = load_directory(place, known, settings.limit)
    return BenchmarkSuite(name, files, datasets, settings, tokenizer, task_tokens)


def _customised(known: Mapping[str, Dataset], settings: Settings) -> dict[str, Dataset]:
    prompts = load_settings(settings.prompts, str) if settings.prompts else {}
    lengths = load_settings(settings.answer_lengths, int) if settings.answer_lengths else {}
    return {
        name: replace(
            dataset,
            prompt=prompts.get(name, dataset.prompt),
            answer_tokens=lengths.get(name, dataset.answer_tokens),
        )
        for name, dataset in known.items()
    }


class BenchmarkSuite:
    """Greedy answers to every entry, graded by its dataset's scorer against every gold answer."""

    def __init__(
        self,
        name: str,
        files: Sequence[DataFile],
        datasets: Mapping[str, Dataset],
        settings: Settings,
        tokenizer: Tokenizer,
        task_tokens: int,
    ) -> None:
        self.name = name
        self._files, self._settings, self._task_tokens = files, settings, task_tokens
        self._datasets = {file.dataset: datasets[file.dataset] for file in files}
        self._frame = frame_of(tokenizer)
        self._items = {file.name: self._make_items(file, tokenizer) for file in files}
        self.longest = max(
            len(item.prompt_ids) + item.dataset.answer_tokens
            for items in self._items.values()
            for item in items
        )

    def _make_items(self, file: DataFile, tokenizer: Tokenizer) -> list[_Item]:
        dataset = self._datasets[file.dataset]
        items = []
        for index, entry in enumerate(file.entries):
            text = fill(dataset.prompt, entry)
            ids = tokenizer.encode(text, add_special=not dataset.chat)
            ids = truncate_middle(ids, self._settings.context)
            if dataset.chat:
                ids = [*self._frame.before, *ids, *self._frame.after]
            items.append(_Item(file, index, entry, as_ids(ids), dataset))
        return items

    def lengths(self) -> Sequence[int]:
        """The longest prompt with its answer."""
        return (self.longest,)

    def identity(self) -> dict[str, Any]:
        """Data, prompts and answer lengths."""
        datasets = {
            name: {
                "answer_tokens": dataset.answer_tokens,
                "prompt_sha256": hashlib.sha256(dataset.prompt.encode("utf-8")).hexdigest(),
            }
            for name, dataset in self._datasets.items()
        }
        return {
            "context": self._settings.context,
            "datasets": datasets,
            "files_sha256": {file.name: file.sha256 for file in self._files},
            "limit": self._settings.limit,
            "own_prompts": self._settings.prompts is None,
            "task_tokens": self._task_tokens,
        }

    def tasks(self, plan: EvalPlan) -> list[Task]:
        """A few entries each, file by file."""
        return [
            Task(plan, f"{self.name}/{name}/{index}", len(part), partial(self._run, plan, part))
            for name, items in self._items.items()
            for index, part in enumerate(chunked(items, self._settings.context, self._task_tokens))
        ]

    def _run(self, plan: EvalPlan, items: Sequence[_Item], engines: EnginePool) -> list[Record]:
        options: list[dict[str, object]] = []
        for item in items:
            option: dict[str, object] = {"max_new_tokens": item.dataset.answer_tokens}
            if item.file.dataset == "samsum":  # it would go on to invent dialogues
                option |= {"stop": ["\n"], "min_new_tokens": 1}
            options.append(option)
        made = answers(engines.current(plan), [item.prompt_ids for item in items], options)
        return [
            {
                "answer": answer.text[:_KEPT],
                "bucket": item.bucket,
                "index": item.index,
                "score": rounded(score(item.dataset, item.entry, answer.text)),
            }
            for item, answer in zip(items, made, strict=True)
        ]

    def follow_up(self, plans: Sequence[EvalPlan]) -> Work:
        """None."""
        return nothing()

    def summary(self, plans: Sequence[EvalPlan], results: Results) -> Section:
        """Mean score by file, by length bucket, and the mean over files."""
        rows = [
            row
            for plan in plans
            for name, items in self._items.items()
            for row in self._rows(plan.label, name, len(items), results)
        ]
        averages = self._averages(plans, rows)
        bars = partial(plots.bars, f"{self.name}: mean of the datasets", averages, ["score"])
        data = {"averages": averages, "rows": rows, **self.identity()}
        return Section(data, self._markdown(averages, rows), {f"{self.name}.png": bars})

    def _records(self, label: str, name: str, results: Results) -> list[Record]:
        prefix = f"{self.name}/{name}/"
        done = results.get(label, {})
        return [record for key, part in done.items() if key.startswith(prefix) for record in part]

    def _rows(self, label: str, name: str, total: int, results: Results) -> list[dict[str, Any]]:
        records = self._records(label, name, results)
        if len(records) < total:
            return []
        base = {r["index"]: r["score"] for r in self._records(DENSE, name, results)}
        rows = []
        present = {record["bucket"] for record in records}
        for bucket in (_ALL, *(bucket for _, bucket in _BUCKETS)):
            if bucket not in present:
                continue
            mine = [record for record in records if record["bucket"] == bucket]
            scores = [record["score"] for record in mine]
            dense = [base[r["index"]] for r in mine] if len(base) == total else []
            rows.append(
                {
                    "bucket": bucket,
                    "file": name,
                    "interval": bootstrap_mean(scores),
                    "plan": label,
                    "relative": rounded(sum(scores) / sum(dense)) if sum(dense) else None,
                    "relative_interval": bootstrap_ratio(scores, dense) if sum(dense) else None,
                    "samples": len(scores),
                    "score": mean(scores),
                }
            )
        return rows

    def _averages(
        self, plans: Sequence[EvalPlan], rows: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The mean over files and buckets, each counting once, for plans that have them all."""
        averages = []
        for plan in plans:
            mine = [row for row in rows if row["plan"] == plan.label]
            if {row["file"] for row in mine} != set(self._items):
                continue
            count = len(mine)
            # Independent means: their half widths add as squares.
            half = (
                sum(((r["interval"][1] - r["interval"][0]) / 2) ** 2 for r in mine) ** 0.5 / count
            )
            score_ = mean([row["score"] for row in mine])
            averages.append(
                {
                    "plan": plan.label,
                    "score": score_,
                    "score_interval": (rounded(score_ - half), rounded(score_ + half)),
                }
            )
        return averages

    def _markdown(self, averages: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> str:
        own = "our own prompts" if self._settings.prompts is None else "the prompts given"
        lines = [
            [
                row["file"],
                row["bucket"],
                row["plan"],
                str(row["samples"]),
                with_interval(100 * row["score"], [100 * v for v in row["interval"]], 2),
                with_interval(row["relative"], row["relative_interval"]),
            ]
            for row in sorted(rows, key=lambda row: (row["file"], row["bucket"]))
        ]
        header = ["file", "length", "plan", "entries", "score [95 %]", "of dense [95 %]"]
        return (
            f"Prompts cut in the middle to {self._settings.context} tokens, {own}; scores in "
            "percent. With our own prompts, and with Chinese compared by character, scores are "
            "not comparable digit by digit with published ones.\n\n"
            + table(
                ["plan", "mean of all rows"],
                [
                    [
                        entry["plan"],
                        f"{number(100 * entry['score'], 2)} ± "
                        f"{number(50 * (entry['score_interval'][1] - entry['score_interval'][0]))}",
                    ]
                    for entry in averages
                ],
            )
            + "\n"
            + table(header, lines)
        )


def score(dataset: Dataset, entry: Entry, answer: str) -> float:
    """The best score over the gold answers."""
    if dataset.first_line:
        answer = answer.lstrip("\n").split("\n")[0]
    return max(dataset.scorer(answer, gold, entry.case) for gold in entry.answers)
