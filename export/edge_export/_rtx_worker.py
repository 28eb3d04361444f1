"""Child process of `edge_export.gate.rtx_gate`: model on stdin, one line of JSON on stdout."""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

__all__: list[str] = []


def _make_logger(rtx: Any, messages: list[str]) -> Any:
    class Collector(rtx.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            rtx.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in (rtx.ILogger.ERROR, rtx.ILogger.INTERNAL_ERROR):
                messages.append(text)

    return Collector()


def _parser_errors(parser: Any) -> list[dict[str, str]]:
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        found.append(
            {
                "code": str(error.code()),
                "node": error.node_name() or "",
                "operator": error.node_operator() or "",
                "text": error.desc() or "",
            }
        )
    return found


def judge(model: bytes, capabilities: list[str]) -> dict[str, Any]:
    """Parse and build `model` for the compute capabilities named; the fields of `GateReport`."""
    rtx = importlib.import_module("tensorrt_rtx_bindings")
    messages: list[str] = []
    logger = _make_logger(rtx, messages)
    builder = rtx.Builder(logger)
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.OnnxParser(network, logger)
    begin = time.monotonic()
    answer: dict[str, Any] = {"status": "refused", "version": rtx.__version__, "errors": []}
    if not parser.parse(model):
        answer["errors"] = _parser_errors(parser)
        answer["reason"] = "the parser refuses the graph"
    else:
        answer["layers"] = network.num_layers
        config = builder.create_builder_config()
        config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            config.set_compute_capability(getattr(rtx.ComputeCapability, name), index)
        plan = builder.build_serialized_network(network, config)
        answer["engine_bytes"] = 0 if plan is None else plan.nbytes
        answer["status"] = "refused" if plan is None else "accepted"
        answer["reason"] = "; ".join(messages)[:500] if plan is None else ""
    answer["seconds"] = time.monotonic() - begin
    return answer


if __name__ == "__main__":
    sys.stdout.write(json.dumps(judge(sys.stdin.buffer.read(), sys.argv[1:])) + "\n")
