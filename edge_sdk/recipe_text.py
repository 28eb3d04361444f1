"""What a finished recipe says to people."""

from __future__ import annotations

from typing import Any

__all__ = ["report_lines"]


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
    return lines


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
