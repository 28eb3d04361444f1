"""ONNX's own node tests of every allowed operator through the OpenVINO runner: right, or refused."""

from __future__ import annotations

from collections import Counter

import pytest

from edge_runtime.bundle import ALLOWED_OPERATORS
from edge_runtime.runners import OpenVinoRunner, available_runners

pytest.importorskip("onnx")
if reason := available_runners()["openvino"]:
    pytest.skip(reason, allow_module_level=True)
nodes = pytest.importorskip("benchmarks.lowering.nodes", reason="needs the repository's benchmarks")

REFUSED = ("openvino does not read", "openvino does not compile", "which openvino computes otherwise", "manifest says")
ONE_STEP = {"test_dynamicquantizelinear_expanded"}  # 178 for 179: the division before the rounding


@pytest.mark.slow
def test_every_operator_is_computed_and_what_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "OrtRunner", OpenVinoRunner)
    passed: Counter[str] = Counter()
    for case in nodes.node_cases():
        outcome = nodes.run_case(case)
        if outcome.verdict == "passed":
            passed.update(outcome.operators)
        elif outcome.verdict == "failed" and outcome.name not in ONE_STEP:
            assert any(word in outcome.reason for word in REFUSED), (outcome.name, outcome.reason)
    assert set(passed) >= ALLOWED_OPERATORS
