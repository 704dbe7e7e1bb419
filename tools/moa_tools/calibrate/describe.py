"""What a calibration set holds, as text."""

from __future__ import annotations

from moa_tools.calibrate.samples import CalibrationSet
from moa_tools.plan.describe import table


def describe(found: CalibrationSet) -> str:
    """A row for every split, length and task: how many were asked, right and kept."""
    rows = []
    for name, tally in found.manifest.get("tally", {}).items():
        right = tally["asked"] - tally["wrong"]
        rows.append(
            [
                *name.split("/"),
                tally["wanted"],
                tally["asked"],
                right,
                tally["repetitive"],
                tally["kept"],
            ]
        )
    header = ["split", "length", "task", "wanted", "asked", "right", "repetitive", "kept"]
    return table(header, rows)
