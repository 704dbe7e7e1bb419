"""One table over all suites: what each plan keeps of the dense model, at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moa_tools.evaluate.plans import DENSE
from moa_tools.evaluate.suite import Section
from moa_tools.evaluate.tables import cells, number, table


def _figure(row: dict[str, Any] | None, value: str) -> str:
    """The dense plan's own figure, and for the others its share of it."""
    if row is None:
        return "-"
    return number(row[value]) if row["plan"] == DENSE else number(row["relative"])


def overview(labels: Sequence[str], sections: Mapping[str, Section]) -> str:
    """Markdown, or nothing if no suite has a figure by plan and length.

    The dense row holds scores and perplexity themselves, the others shares of them.
    """
    columns: list[tuple[str, list[str]]] = []
    densities: dict[str, dict[int, float]] = {label: {} for label in labels}
    for name, section in sections.items():
        rows = section.data.get("rows", [])
        value = "perplexity" if name == "perplexity" else "score"
        # The families of effective-context are no plans, and other suites have no one length.
        if name == "effective-context" or not all("length" in row for row in rows):
            continue
        known = [{**row, "relative": row.get("relative", row.get("ratio"))} for row in rows]
        for row in known:
            densities[row["plan"]][row["length"]] = row["density"]
        for length in sorted({row["length"] for row in known}):
            figures = [_figure(cells(known, label, length), value) for label in labels]
            columns.append((f"{name} {length}", figures))
    if not columns:
        return ""
    lines = []
    for index, label in enumerate(labels):
        kept = sorted(densities[label].values())
        density = "-" if not kept else number(kept[0])
        if kept and kept[0] != kept[-1]:
            density += f" to {number(kept[-1])}"
        lines.append([label, density, *(figures[index] for _, figures in columns)])
    header = ["plan", "density", *(name for name, _ in columns)]
    return (
        "The dense row holds scores and perplexity themselves, the others shares of them.\n\n"
        + table(header, lines)
    )
