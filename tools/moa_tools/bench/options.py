"""What a GPU run is asked to do; travels to the section processes as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moa_rt import ArgumentError, AttentionPlan

from moa_tools.bench import shapes
from moa_tools.bench.attention_cases import load_plan
from moa_tools.bench.end_to_end import SETTINGS

PLANS = ("dense", "uniform 50%", "uniform 25%", "mixed 50%")


@dataclass(frozen=True)
class GpuOptions:
    """`plans` are (shape, path) of published plans; `memory_bytes` 0 means what is free.

    Random weights stay in `weights_dir` between runs; without one they go with `work_dir`.
    """

    device: str = "cuda"
    models: tuple[str, ...] = ("llama-2-7b", "llama-3-8b")
    settings: tuple[str, ...] = ("3k+1k", "6k+2k", "12k+4k")
    engine_plans: tuple[str, ...] = PLANS
    plans: tuple[tuple[str, str], ...] = ()
    bench_dir: str = ""
    work_dir: str = ""
    weights_dir: str = ""
    steps: int = 128
    quick: bool = False
    memory_bytes: int = 0

    def __post_init__(self) -> None:
        for name in self.models:
            shapes.find(name)
        for name, _ in self.plans:
            shapes.find(name)
        if not self.settings or set(self.settings) - set(SETTINGS):
            raise ArgumentError(
                f"setting: got {', '.join(self.settings) or 'none'}, want some of "
                f"{', '.join(SETTINGS)}"
            )
        if not 4 <= self.steps <= 4096:
            raise ArgumentError(f"steps: got {self.steps}, want 4..4096")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> GpuOptions:
        """The options that `to_json` gave."""
        fields = dict(value)
        for name in ("models", "settings", "engine_plans"):
            fields[name] = tuple(fields[name])
        fields["plans"] = tuple((shape, path) for shape, path in fields["plans"])
        return GpuOptions(**fields)

    def budgets(self) -> dict[str, int]:
        """Token budget of each setting."""
        return {name: SETTINGS[name] for name in self.settings}

    def published(self, model: str | None = None) -> dict[str, AttentionPlan]:
        """The published plans by file name, for one shape or for all. Raises on a bad file."""
        out = {}
        for name, path in self.plans:
            if model in (None, name):
                shape = shapes.find(name)
                plan = load_plan(Path(path), shape.num_key_value_heads)
                out[Path(path).stem] = plan
        return out
