"""Whether smoothing, rules, measurements and gates fit the output that they stand at."""

from __future__ import annotations

from edge_runtime.bundle.manifest import OutputSpec
from edge_runtime.bundle.manifest_reading import EnergyGate, MahalanobisGate
from edge_runtime.errors import BundleFormatError

__all__ = ["check_reading"]

_FEATURES = 256  # a gate's numbers grow with the square of its features: 33,000 here
_RULES, _MEANS = 64, 64


def check_reading(output: OutputSpec) -> None:
    """Raise `BundleFormatError` naming the first field that does not fit the output's kind, classes or range."""
    where = f"output {output.name!r}"
    masks, gated = output.kind == "mask_logits", output.kind in ("mask_logits", "class_logits")
    _need(0 < output.smoothing <= 1, f"{where} has smoothing {output.smoothing}; above 0 and at most 1")
    _need(gated or output.smoothing == 1, f"{where} is {output.kind}; smoothing belongs to masks and classes")
    _need(
        masks or (output.keep == "all" and not output.rules and not output.measure),
        f"{where} is {output.kind}; keep, rules and measure belong to masks",
    )
    _check_rules(output, where)
    for measure in output.measure:
        _check_label(output, measure.label, f"{where}: a measure")
        _need(bool(measure.quantities), f"{where} measures nothing of {measure.label!r}; name a quantity")
        _need(
            0 <= measure.spacing_rel < 1,
            f"{where} has spacing_rel {measure.spacing_rel}; a share of the pixel size from 0 to below 1",
        )
    if isinstance(output.gate, EnergyGate):
        _need(gated, f"{where} is {output.kind}; an energy is that of masks and classes")
        _need(output.gate.temperature > 0, f"{where}: its gate has temperature {output.gate.temperature}; above 0")
    if isinstance(output.gate, MahalanobisGate):
        _check_mahalanobis(output, output.gate, where)
    if output.gate is not None:
        rate, n = output.gate.false_alarm, output.gate.n
        _need(0 <= rate <= 1 and n >= 1, f"{where}: its gate was fitted at {rate} on {n} frames; 0 to 1, 1 or more")


def _check_rules(output: OutputSpec, where: str) -> None:
    names = [rule.name for rule in output.rules]
    _need(len(names) <= _RULES, f"{where} has {len(names)} rules, over the cap of {_RULES}")
    _need(len(set(names)) == len(names) and all(names), f"{where}: rules are named {names}; each a name of its own")
    for rule in output.rules:
        _check_label(output, rule.label, f"{where}: rule {rule.name!r}")
        least, most = rule.least, rule.most
        _need(
            (least is not None or most is not None) and (least is None or most is None or least <= most),
            f"{where}: rule {rule.name!r} allows {least} to {most}; at least one end, the least first",
        )


def _check_label(output: OutputSpec, label: str, what: str) -> None:
    known = output.classes if len(output.classes) <= 1 else output.classes[1:]
    _need(label in known, f"{what} is of {label!r}; the classes without the background are {list(known)}")


def _check_mahalanobis(output: OutputSpec, gate: MahalanobisGate, where: str) -> None:
    _need(output.kind == "features", f"{where} is {output.kind}; a Mahalanobis gate belongs to features")
    size = output.shape[1]
    _need(size <= _FEATURES, f"{where} gives {size} features, over the cap of {_FEATURES} for a gate")
    _need(
        1 <= len(gate.means) <= _MEANS and all(len(mean) == size for mean in gate.means),
        f"{where}: the gate's means have {sorted({len(mean) for mean in gate.means})} numbers; 1 to {_MEANS} of {size}",
    )
    _need(
        [len(row) for row in gate.whitening] == list(range(1, size + 1)),
        f"{where}: the gate's whitening is no lower triangle of {size} rows",
    )
    _need(gate.threshold >= 0, f"{where}: the gate's threshold is {gate.threshold}; a distance is 0 or more")


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BundleFormatError(f"manifest.json: {otherwise}")
