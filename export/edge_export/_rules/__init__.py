"""The lint rules as data, one table for all targets."""

from __future__ import annotations

from edge_export._rules import model, numbers, operators, quantized
from edge_export._rules.base import TARGETS, Context, LintTarget, Rule, TargetSpec

__all__ = ["RULES", "TARGETS", "Context", "LintTarget", "Rule", "TargetSpec"]

RULES: tuple[Rule, ...] = (*model.RULES, *numbers.RULES, *operators.RULES, *quantized.RULES)
