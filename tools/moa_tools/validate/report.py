"""What validation found, as a JSON value and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moa_tools.calibrate.samples import Sample
from moa_tools.plan.describe import table
from moa_tools.validate.scores import Score, mean


@dataclass(frozen=True)
class Result:
    """One plan's figures. `excess`: loss above dense, each objective weighing the same, in nats."""

    name: str
    sha256: str
    density: float
    cache_bytes: int
    loss: float
    excess: float
    agreement: float | None
    objectives: Mapping[str, float]
    tasks: Mapping[str, float]


@dataclass(frozen=True)
class Report:
    """All plans' figures, best first, and those of the dense model."""

    model_name: str
    fingerprint: str
    length: int
    samples: int
    calibration: str
    dense: Result
    plans: tuple[Result, ...]

    @property
    def chosen(self) -> Result:
        """The plan with the least excess loss; of equals the smaller one."""
        return self.plans[0]

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the report file."""
        return {"schema": 1, "chosen": self.chosen.name, **asdict(self)}


def summarise(
    name: str,
    sha256: str,
    density: float,
    cache_bytes: int,
    samples: Sequence[Sample],
    scores: Sequence[Score],
    dense: Mapping[str, float] | None,
) -> Result:
    """Means over the samples: of all, of each objective and of each task.

    `dense`: the dense model's loss of each objective; None for the dense model itself.
    """

    def losses(**want: str) -> list[float]:
        pairs = zip(samples, scores, strict=True)
        return [s.loss for x, s in pairs if all(getattr(x, k) == v for k, v in want.items())]

    objectives = {o: mean(losses(objective=o)) for o in sorted({x.objective for x in samples})}
    tasks = {t: mean(losses(task=t)) for t in sorted({x.task for x in samples})}
    same = [float(score.same) for score in scores if score.same is not None]
    excess = mean([objectives[o] - dense[o] for o in objectives]) if dense is not None else 0.0
    return Result(
        name,
        sha256,
        density,
        cache_bytes,
        mean(losses()),
        excess,
        mean(same) if same else None,
        objectives,
        tasks,
    )


def rank(results: Sequence[Result]) -> tuple[Result, ...]:
    """Least excess first, then the fewest bytes, then the name."""
    return tuple(sorted(results, key=lambda r: (r.excess, r.cache_bytes, r.name)))


def quality(result: Result, dense: Result, length: int) -> dict[str, float]:
    """What is written into the plan file: losses in nats a token, with the length in the name."""
    values = {f"loss@{length}": result.loss, f"dense_loss@{length}": dense.loss}
    for objective, loss in result.objectives.items():
        values[f"{objective}_loss@{length}"] = loss
        values[f"{objective}_dense_loss@{length}"] = dense.objectives[objective]
    if result.agreement is not None:
        values[f"agreement@{length}"] = result.agreement
    return values


def as_text(report: Report) -> str:
    """A row for every plan, best first, and the dense model's last."""
    objectives = sorted(report.dense.objectives)
    tasks = sorted(report.dense.tasks)
    header = ["plan", "density", "MB", "excess", *objectives, "same answer", *tasks]
    rows = []
    for result in (*report.plans, report.dense):
        same = "-" if result.agreement is None else f"{result.agreement:.2f}"
        rows.append(
            [
                result.name,
                f"{result.density:.3f}",
                f"{result.cache_bytes / 1e6:.1f}",
                f"{result.excess:.4f}",
                *(f"{result.objectives[o]:.4f}" for o in objectives),
                same,
                *(f"{result.tasks[t]:.3f}" for t in tasks),
            ]
        )
    title = f"{report.model_name} at N = {report.length}, {report.samples} samples, loss in nats"
    return f"{title}\n{table(header, rows)}"
