"""Evaluation: what a plan keeps of the dense model's quality, suite by suite, with intervals."""

from __future__ import annotations

from moa_tools.evaluate.plans import EvalPlan, parse_plans
from moa_tools.evaluate.runner import Outcome, Run, evaluate

__all__ = ["EvalPlan", "Outcome", "Run", "evaluate", "parse_plans"]
