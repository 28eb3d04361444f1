"""The demonstration's end, for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["summary_text"]


def summary_text(summary: dict[str, Any], out: Path) -> str:
    """Figures with their goals, the real cine's latency, and where to look."""
    lines = [""]
    for figure in summary["figures"]:
        mark = "ok    " if figure["met"] else "MISSED"
        lines.append(f"{mark} {figure['label']}: {figure['value']} (goal {figure['goal']})")
    lines += ["", "real cine:", *("  " + line for line in summary["stream_real"]["text"].splitlines())]
    stages = ", ".join(f"{name} {stage['seconds']:.0f} s" for name, stage in summary["stages"].items())
    lines += ["", f"stages: {stages}", f"whole command: {summary['seconds']} s", ""]
    lines += [f"{out / name}" for name in ("report.html", "demo.edge", "volume.nrrd", "overlay.webm", "summary.json")]
    return "\n".join(lines) + "\n"
