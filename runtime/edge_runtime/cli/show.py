"""What `inspect` and `verify` say about a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.bundle import Bundle
from edge_runtime.loading import every_pair, runner_ladder, self_test
from edge_runtime.runners import available_runners, create_runner

__all__ = ["bundle_facts", "bundle_text", "check_bundle"]


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """The manifest and the signature's key id, as JSON values."""
    return {
        "schema": "edge-runtime.inspect/1",
        "sha256": bundle.sha256,
        "signed_by": bundle.signature.key_id if bundle.signature is not None else "",
        "manifest": msgspec.to_builtins(bundle.manifest),
    }


def bundle_text(facts: dict[str, Any]) -> str:
    """A page for a person."""
    m = facts["manifest"]
    signed = f"key {facts['signed_by']} (not checked; see `edge-runtime verify --trust KEY`)"
    sizes = {member["path"]: member["size"] for member in m["members"]}
    lines = [
        f"{m['name']} {m['version']}, {m['task']}, made {m['created']} by {m['producer']}",
        f"identity     {facts['sha256']}",
        f"signature    {signed if facts['signed_by'] else 'none'}",
        f"intended use {m['intended_use']}",
        f"input        {m['input']['name']} {m['input']['dtype']} {_shape(m['input']['shape'])}",
        "preprocess   " + ", ".join(_step(step) for step in m["preprocess"]["steps"]),
    ]
    lines += [
        f"output       {o['name']} {o['kind']} {_shape(o['shape'])}, classes {', '.join(o['classes']) or '-'}"
        + _reading(o)
        for o in m["outputs"]
    ]
    for v in m["variants"]:
        scores = ", ".join(f"{name} {value:.4f}" for name, value in v["scores"].items()) or "no scores"
        lines.append(
            f"variant      {v['id']}: {v['precision']}, opset {v['opset']}, {v['macs'] / 1e6:.1f} M multiply-adds, "
            f"{sizes[v['model']]:,} bytes, {scores}"
        )
    lines += [f"ladder       {target}: {' > '.join(ids)}" for target, ids in m["ladders"].items()]
    lines.append(f"members      {len(sizes)}, {sum(sizes.values()):,} bytes; {len(m['golden'])} golden samples")
    lines += [f"evidence     {entry['title']} ({entry['path']})" for entry in m["evidence"]]
    return "\n".join(lines) + "\n"


def _reading(output: dict[str, Any]) -> str:
    """How an output is read beyond its plain form."""
    told = [f"{name} {output[name]:g}" for name in ("temperature", "smoothing") if output.get(name, 1.0) != 1.0]
    told += ["largest region"] if output.get("keep", "all") == "largest" else []
    told += [f"{what['label']}: {', '.join(what['quantities'])}" for what in output.get("measure", ())]
    told += [f"rule {rule['name']!r}" for rule in output.get("rules", ())]
    if gate := output.get("gate"):
        told.append(
            f"gate of {gate['score']} at {gate['threshold']:.4g}, {100 * gate['false_alarm']:.2g} % of {gate['over']}"
        )
    return "".join(f", {text}" for text in told)


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _step(step: dict[str, Any]) -> str:
    rest = ", ".join(f"{key} {value}" for key, value in step.items() if key != "step")
    return f"{step['step']}({rest})" if rest else str(step["step"])


def check_bundle(
    path: Path, trust: Sequence[Path], *, run: bool, runner: str | None = None, provider: str | None = None
) -> dict[str, Any]:
    """Check every member by its hash and its role; with `run`, the variants on the golden samples.

    Without `runner` every variant runs on ONNX Runtime; with one, the variants of its ladder on it; with "auto", on
    every runner of this machine those of its ladder. With `trust` the file must be signed by one of these keys. Raises
    `BundleError` and its kin, and `ConfigError` for a runner or ladder that there is not.
    """
    with Bundle.open(path, trust=list(trust), require_signature=bool(trust)) as bundle:
        bundle.verify_contents()
        pairs = _to_test(bundle, runner) if run else []
        tests = [self_test(bundle, create_runner(bundle, name, runner=on, provider=provider)) for on, name in pairs]
        signature = bundle.signature
        return {
            "schema": "edge-runtime.verify/1",
            "sha256": bundle.sha256,
            "members": len(bundle.manifest.members),
            "signed_by": "" if signature is None else signature.key_id,
            "trusted": signature is not None and signature.trusted,
            "self_tests": msgspec.to_builtins(tests),
        }


def _to_test(bundle: Bundle, runner: str | None) -> list[tuple[str, str]]:
    """Pairs of runner and variant."""
    if runner is None:
        return [("onnxruntime", variant.id) for variant in bundle.manifest.variants]
    if runner != "auto":
        return runner_ladder(bundle, runner)
    reasons = available_runners()
    return [(on, name) for on, name in every_pair(bundle) if reasons[on] is None]
