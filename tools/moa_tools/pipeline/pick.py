"""Which plans of a front are worth measuring when there is no time for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moa_tools import strict_json
from moa_tools.convert.transaction import MANIFEST


def pick_plans(front: Path, count: int) -> list[Path]:
    """The balanced plan and others evenly along the front, at most `count`, in the file order."""
    manifest: dict[str, Any] = strict_json.load_object(front / MANIFEST, 1 << 24)
    names = [str(plan["file"]) for plan in manifest["plans"]]
    if len(names) <= count:
        return [front / name for name in names]
    balanced = names.index(str(manifest["balanced"]))
    others = [i for i in range(len(names)) if i != balanced]
    # Middles of equal stretches: the ends of a front serve one objective alone.
    spread = [others[(2 * k + 1) * len(others) // (2 * (count - 1))] for k in range(count - 1)]
    return [front / names[i] for i in sorted({balanced, *spread})]
