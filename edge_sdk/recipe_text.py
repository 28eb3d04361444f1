"""What a finished recipe says to people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.atomic import write_bytes

__all__ = ["report_lines", "write_report"]


def write_report(out_dir: Path, report: dict[str, Any]) -> None:
    """Write `out_dir`/report.json, whole or not at all."""
    write_bytes(out_dir / "report.json", msgspec.json.format(msgspec.json.encode(report), indent=2))


def report_lines(report: dict[str, Any]) -> list[str]:
    """The scores of teacher and student in the report of any task, a line each, and the drop where there is one."""
    lines = [f"{name}: {_score(report[name])}{_cost(report[name])}" for name in ("teacher", "student")]
    if "trivial_ap50" in report:
        name, value = max(report["trivial_ap50"].items(), key=lambda item: item[1])
        lines.insert(0, f"best trivial answer ({name}): AP50 {value:.3f}")
    if "trivial" in report:
        name, scores = max(report["trivial"].items(), key=lambda item: item[1]["psnr"])
        lines.insert(0, f"best plain filter ({name}): PSNR {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.3f}")
    for key, unit in (("dice_drop_points", "Dice points"), ("ap50_drop_points", "AP50 points")):
        if key in report:
            lines.append(f"student against teacher: {-report[key]:+.2f} {unit}")
    if "agreement" in report:
        lines.append(f"student and teacher give the same class on {100 * report['agreement']:.1f} % of the samples")
    if "export" in report:
        lines += [_variant(score) for score in report["export"]["verification"]["scores"]]
        lines.append(_file(report["export"]))
    return lines


def _variant(score: dict[str, Any]) -> str:
    """How far a variant is from the student on one runner."""
    where = f"{score['variant']} on {score['runner']}: "
    if "drop_points" in score:
        points = max(score["drop_points"], score["typed_drop_points"])
        text = f"loses {points:.3f} Dice points (at most {score['allowed_points']:g})"
    elif score["agreement"]:
        text = f"{100 * min(score['agreement'].values()):.2f} % of the decisions are the student's"
    else:
        text = ", ".join("equal" if db is None else f"{db:.1f} dB" for db in score["sqnr_db"].values())
        text += " of signal over noise"
    return where + text + (f"; failed, overridden: {score['override']}" if score["override"] else "")


def _file(export: dict[str, Any]) -> str:
    signed = f"signed by {export['signed_by'][:16]}..." if export["signed_by"] else "not signed: export names no key"
    return f"{export['file']}: {export['bytes'] / 1e6:.2f} MB, {signed}"


def _score(result: dict[str, Any]) -> str:
    if "dice" in result:
        dice = result["dice"]
        return f"Dice {dice['mean']:.4f} +- {dice['std']:.4f} on {dice['n']} held-out frames"
    if "ap50" in result:
        each = ", ".join(f"{name} {value:.3f}" for name, value in result["ap50_by_class"].items())
        return f"AP50 {result['ap50']:.3f} ({each})"
    if "psnr" in result:
        return f"PSNR {result['psnr']:.2f} dB, SSIM {result['ssim']:.3f}"
    scores = result["scores"]
    low, high = scores["interval"]
    patients = sum(scores["patients"])
    accuracy = scores["balanced_accuracy"]
    return f"balanced accuracy {accuracy:.3f} (95 % {low:.3f} to {high:.3f}) over {patients} patients"


def _cost(result: dict[str, Any]) -> str:
    if "parameters" not in result:
        return ""
    return f"; {result['parameters']:,} parameters, {result['macs'] / 1e6:.1f} M multiply-adds"
