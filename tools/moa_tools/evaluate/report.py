"""Result files: results.json, results.md and the plots, each there whole or as it was before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moa_tools.evaluate.overview import overview
from moa_tools.evaluate.plans import EvalPlan
from moa_tools.evaluate.suite import Section
from moa_tools.files import write_atomic
from moa_tools.strict_json import dump

RESULTS, MARKDOWN, TIMINGS = "results.json", "results.md", "timings.jsonl"
SCHEMA = 1


def _plain(value: Any) -> Any:
    """Tuples as lists, so that what is written equals what is read again."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value


def write(
    directory: Path,
    identity: Mapping[str, Any],
    plans: Sequence[EvalPlan],
    sections: Mapping[str, Section],
    missing: Sequence[str],
) -> None:
    """Writes everything; results.json last, so it never speaks of plots that are not there."""
    for section in sections.values():
        for name, draw in section.plots.items():
            write_atomic(directory / name, draw())
    write_atomic(
        directory / MARKDOWN, _markdown(identity, plans, sections, missing).encode("utf-8")
    )
    data = {
        "complete": not missing,
        "missing": list(missing),
        "plans": [{"kind": p.kind, "label": p.label, "sha256": p.digest} for p in plans],
        **identity,
        "suites": {name: section.data for name, section in sections.items()},
    }
    write_atomic(directory / RESULTS, dump(_plain(data)))


def _markdown(
    identity: Mapping[str, Any],
    plans: Sequence[EvalPlan],
    sections: Mapping[str, Section],
    missing: Sequence[str],
) -> str:
    parts = [
        f"# Evaluation of {identity['model']}\n",
        f"Model fingerprint {identity['fingerprint'][:16]}, device {identity['device']}, "
        f"type {identity['dtype']}, moa_rt {identity['moa_rt']}. Intervals are 95 %: Wilson for "
        "rates, bootstrap (2,000 resamples) for means and for ratios to dense, paired.\n",
    ]
    if missing:
        parts.append(f"**Not complete**: {', '.join(missing)} are not done yet.\n")
    glance = overview([plan.label for plan in plans], sections)
    if glance:
        parts.append(f"## At a glance\n\n{glance}")
    for name, section in sections.items():
        parts.append(f"## {name}\n\n{section.markdown}")
        parts.extend(f"![{plot}]({plot})\n" for plot in section.plots)
    return "\n".join(parts)
