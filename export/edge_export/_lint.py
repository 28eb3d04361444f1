"""Lint an ONNX file against what a device target reads: rules as data, findings with the fix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import onnx

from edge_export._rules import RULES, TARGETS, Context, LintTarget, Rule
from edge_export._rules.base import ALL, NVIDIA
from edge_runtime.errors import ConfigError, LoweringError

__all__ = ["Finding", "LintTarget", "lint", "require_clean", "rule_markdown", "rule_table", "target_markdown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One complaint: the rule's id, `error` (the target refuses or is wrong) or `warning`, the node, what, the fix."""

    rule: str
    severity: Literal["error", "warning"]
    node: str
    message: str
    fix: str

    def to_dict(self) -> dict[str, str]:
        """JSON form."""
        return asdict(self)


def lint(model: onnx.ModelProto | bytes, target: LintTarget) -> list[Finding]:
    """Every finding of the rules that hold for `target`, in the order of the table, then of the graph.

    It reads the file only; TensorRT is not needed. Raises `ConfigError` on an unknown target and `LoweringError`
    when the bytes are not an ONNX model.
    """
    if target not in TARGETS:
        raise ConfigError(f"target is {target!r}; choose one of {sorted(TARGETS)}")
    context = Context.of(_parse(model), TARGETS[target])
    return [finding for rule in RULES if target in rule.targets for finding in _apply(rule, context)]


def require_clean(model: onnx.ModelProto | bytes, target: LintTarget) -> list[Finding]:
    """The warnings of `lint`. Raises `LoweringError` with the first errors when there are any."""
    findings = lint(model, target)
    errors = [item for item in findings if item.severity == "error"]
    if errors:
        shown = "; ".join(f"{e.rule} at {e.node or 'model'}: {e.message} Fix: {e.fix}" for e in errors[:3])
        raise LoweringError(f"{len(errors)} lint error(s) for {target}: {shown}")
    return findings


def rule_table() -> list[dict[str, Any]]:
    """The rules as data (id, severity, targets, reason, fix), for documentation."""
    return [
        {"id": r.id, "severity": r.severity, "targets": list(r.targets), "reason": r.reason, "fix": r.fix}
        for r in RULES
    ]


def rule_markdown() -> str:
    """The rules as the table of `docs/lint.md`."""
    rows = [["rule", "severity", "targets", "why", "what to do"]]
    for rule in RULES:
        targets = "all" if rule.targets == ALL else "NVIDIA" if rule.targets == NVIDIA else ", ".join(rule.targets)
        rows.append([f"`{rule.id}`", rule.severity, targets, rule.reason, rule.fix])
    return _table(rows)


def target_markdown() -> str:
    """The targets as the table of `docs/lint.md`."""
    rows = [["target", "newest opset", "why that one"]]
    return _table(rows + [[f"`{t.name}`", str(t.max_opset), t.reason] for t in TARGETS.values()])


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _apply(rule: Rule, context: Context) -> Iterator[Finding]:
    for node, message in rule.check(context):
        yield Finding(rule=rule.id, severity=rule.severity, node=node, message=message, fix=rule.fix)


def _parse(model: onnx.ModelProto | bytes) -> onnx.ModelProto:
    if isinstance(model, onnx.ModelProto):
        return model
    try:
        return onnx.load_model_from_string(model)
    except Exception as error:
        raise LoweringError(f"the bytes are not an ONNX model ({error}); give the file written by export") from error
