"""`moa-tools pipeline`: calibrate, cost curves, search, validate, plots and a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moa_rt import AttentionPlan, ModelConfig

from moa_tools import strict_json
from moa_tools.calibrate.build import calibrate
from moa_tools.calibrate.options import CalibrateOptions
from moa_tools.calibrate.samples import MANIFEST, SAMPLES, load_samples
from moa_tools.files import io_errors, write_atomic
from moa_tools.pipeline import curves as curve_step
from moa_tools.pipeline import report as report_step
from moa_tools.pipeline import step_options
from moa_tools.pipeline.checks import check, warnings
from moa_tools.pipeline.options import PipelineOptions, complete
from moa_tools.pipeline.pick import pick_plans
from moa_tools.pipeline.steps import Steps, file_hash
from moa_tools.progress import Reporter
from moa_tools.search.run import load_curves, search_to_directory
from moa_tools.validate.run import ValidateOptions, validate

REPORT = "report.json"
_VALIDATION = "validation.json"


def pipeline(
    model_dir: str | Path, out: str | Path, options: PipelineOptions, reporter: Reporter
) -> dict[str, Any]:
    """Makes plans for the budgets and returns the report, which is also `out`/report.json.

    In `out`: plan-<budget>.json for each budget with its measured quality, report.json, PNG plots,
    and what each step made. A step whose inputs are the same as last time is not repeated; one
    that was interrupted goes on.

    Raises what the steps raise; StateError if another process runs in `out`.
    """
    model, place = Path(model_dir), Path(out)
    config = ModelConfig.load(str(model))
    options = complete(options, config)
    check(options, config)
    for warning in warnings(options):
        reporter.warning(warning)
    with Steps(place, reporter) as steps:
        runner = _Runner(model, place, config, options, steps, reporter)
        calibration = runner.calibrate()
        curves = runner.curves(calibration)
        fronts = {budget: runner.search(budget, curves) for budget in options.budgets}
        refined = {}
        if options.refine:
            refined = {b: runner.refine(b, calibration, made) for b, made in fronts.items()}
        validation = runner.validate(calibration, fronts, refined)
        runner.report(validation)
        return strict_json.load_object(place / REPORT, 1 << 26)


def budget_name(budget: float) -> str:
    """As it stands in file names: 0.5, 0.25, 0.125."""
    return f"{budget:.6f}".rstrip("0")


class _Runner:
    """The steps, each with what it depends on."""

    def __init__(
        self,
        model: Path,
        place: Path,
        config: ModelConfig,
        options: PipelineOptions,
        steps: Steps,
        reporter: Reporter,
    ) -> None:
        self._model, self._place, self._config = model, place, config
        self._options, self._steps, self._reporter = options, steps, reporter
        self._curve_file = place / f"curves-{options.method}"

    @property
    def _device(self) -> str:
        return self._options.device

    def calibrate(self) -> str:
        """OUT/calibration."""
        wanted = step_options.for_calibrate(self._options)
        inputs = asdict(wanted)
        inputs["sources"] = [file_hash(path) for path in wanted.sources]
        inputs = {key: list(v) if isinstance(v, tuple) else v for key, v in inputs.items()}
        place = self._place / "calibration"
        return self._steps.run(
            "calibrate",
            {"fingerprint": self._config.fingerprint, **inputs},
            [place / SAMPLES, place / MANIFEST],
            lambda: self._calibrate(place, wanted),
        )

    def _calibrate(self, place: Path, wanted: CalibrateOptions) -> None:
        calibrate(self._model, place, wanted, self._reporter, overwrite=True)

    def curves(self, calibration: str) -> str:
        """OUT/curves-<method>.json and .safetensors."""
        files = curve_step.files(self._curve_file)
        return self._steps.run(
            f"curves by {self._options.method}",
            {"calibration": calibration, **curve_step.settings(self._options)},
            files,
            lambda: curve_step.make(
                self._options,
                self._model,
                self._place / "calibration",
                self._curve_file,
                self._reporter,
            ),
        )

    def search(self, budget: float, curves: str) -> str:
        """OUT/search/<budget>: a Pareto front."""
        place = self._front(budget)
        with io_errors(place.parent, "create"):
            place.parent.mkdir(exist_ok=True)
        found = load_curves([curve_step.files(self._curve_file)[0]], self._config)
        limits = step_options.budgets_of(self._options, found, budget)
        settings = step_options.for_search(self._options)

        def work() -> None:
            search_to_directory(found, self._config, limits, settings, place, overwrite=True)

        inputs = {"curves": curves, "budget": limits.describe(), "settings": asdict(settings)}
        return self._steps.run(f"search {budget_name(budget)}", inputs, [place], work)

    def _front(self, budget: float) -> Path:
        return self._place / "search" / budget_name(budget)

    def _refined(self, budget: float) -> Path:
        return self._place / "refined" / f"{budget_name(budget)}.json"

    def refine(self, budget: float, calibration: str, front: str) -> str:
        """OUT/refined/<budget>.json: the best plan of the front, made better by its true loss."""
        options = self._options
        target = self._refined(budget)
        with io_errors(target.parent, "create"):
            target.parent.mkdir(exist_ok=True)
        settings = step_options.for_refine(options, budget)

        def work() -> None:
            from moa_tools.refine.run import refine

            starts = pick_plans(self._front(budget), options.plans or 1)
            refine(
                self._model, self._place / "calibration", starts, target, settings, self._reporter
            )

        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
        inputs = {
            "calibration": calibration,
            "front": front,
            "plans": options.plans,
            "settings": plain,
        }
        return self._steps.run(f"refine {budget_name(budget)}", inputs, [target], work)

    def validate(
        self, calibration: str, fronts: Mapping[float, str], refined: Mapping[float, str]
    ) -> str:
        """OUT/candidates/*.json with their quality, and OUT/validation.json."""
        options = self._options
        inputs = {
            "calibration": calibration,
            "fronts": {budget_name(budget): made for budget, made in fronts.items()},
            "refined": {budget_name(budget): made for budget, made in refined.items()},
            "length": options.validate_length,
            "plans": options.plans,
            "agreement": options.agreement,
            "device": self._device,
        }
        place = self._place / "candidates"
        outputs = [place, self._place / _VALIDATION]
        return self._steps.run("validate", inputs, outputs, lambda: self._validate(place))

    def _validate(self, place: Path) -> None:
        options = self._options
        with io_errors(place, "create"):
            place.mkdir(exist_ok=True)
            for old in place.glob("*.json"):
                old.unlink()
        files: list[Path] = []
        for budget in options.budgets:
            name = budget_name(budget)
            for source in pick_plans(self._front(budget), options.plans or 1):
                target = place / f"{name}-{source.name}"
                write_atomic(target, source.read_bytes())
                files.append(target)
            if options.refine:
                files.append(place / f"{name}-{report_step.REFINED}")
                write_atomic(files[-1], self._refined(budget).read_bytes())
            uniform = AttentionPlan.uniform(self._config, budget)
            uniform.fingerprint = self._config.fingerprint
            uniform.provenance = {"method": "every head keeps the same share"}
            files.append(place / f"{name}-{report_step.UNIFORM}")
            uniform.save(str(files[-1]))
        validate(
            self._model,
            self._place / "calibration",
            files,
            self._place / _VALIDATION,
            ValidateOptions(options.validate_length, options.agreement, self._device),
            self._reporter,
        )

    def report(self, validation: str) -> None:
        """OUT/plan-<budget>.json, OUT/report.json and the plots."""
        names = [budget_name(budget) for budget in self._options.budgets]
        plans = [self._place / f"plan-{name}.json" for name in names]
        plots = [self._place / name for name in report_step.plot_names(names)]
        settings = self._settings()
        self._steps.run(
            "report",
            {"validation": validation, "settings": settings},
            [*plans, self._place / REPORT, *plots],
            lambda: self._report(names, plans, settings),
        )

    def _settings(self) -> dict[str, Any]:
        settings = asdict(self._options)
        settings["sources"] = [path.name for path in self._options.sources]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}

    def _report(
        self, names: Sequence[str], plans: Sequence[Path], settings: Mapping[str, Any]
    ) -> None:
        curves = load_curves([curve_step.files(self._curve_file)[0]], self._config)
        found = strict_json.load_object(self._place / _VALIDATION, 1 << 26)
        chosen = report_step.choose(found, names)
        for name, plan in zip(names, plans, strict=True):
            source = self._place / "candidates" / chosen[name]["name"]
            write_atomic(plan, source.read_bytes())
        made = {name: AttentionPlan.load(str(p)) for name, p in zip(names, plans, strict=True)}
        calibration = load_samples(self._place / "calibration", config=self._config)
        report_step.write_plots(self._place, curves, made, found, self._options)
        report = report_step.make(
            self._config, calibration, curves, made, chosen, found, settings, self._steps.seconds()
        )
        write_atomic(self._place / REPORT, strict_json.dump(report))
