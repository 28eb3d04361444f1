"""The order of the demonstration."""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.atomic import make_folder, write_bytes
from edge_sdk.demo.bundling import BUNDLE, make_bundle, signing_key
from edge_sdk.demo.config import DemoConfig
from edge_sdk.demo.figures import write_montage
from edge_sdk.demo.report import summarise, write_json, write_report
from edge_sdk.demo.streaming import stream_real, stream_simulated
from edge_sdk.demo.volume import reconstruct
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.recipe import effective_yaml
from edge_sdk.recipe_run import RecipeOutcome, make_student
from edge_sdk.stages import Stages

__all__ = ["outcome_of", "run_demo"]

COPIES = {
    "bundle": (BUNDLE,),
    "stream-real": ("overlay.webm", "contact.png", "results.jsonl"),
    "volume": ("volume.nrrd", "slices.png"),
}


def run_demo(out: Path, config: DemoConfig | None = None, progress: Progress = ignore_progress) -> dict[str, Any]:
    """Run every stage that is not done yet, write the report, and return the summary.

    `out` receives `demo.edge`, its public key, `volume.nrrd`, the overlay video, the contact sheet, `summary.json`,
    `report.html`, and `stages/`, from which an interrupted run goes on. Raises what the stages raise (`EdgeError`).
    """
    began = time.perf_counter()
    config = config or DemoConfig()
    make_folder(out)
    write_bytes(out / "recipe.effective.yaml", effective_yaml(config.recipe).encode())
    private, public = signing_key(out)
    stages = Stages(out / "stages", progress)
    outcome = outcome_of(out, config, stages)
    _show_frames(out, outcome)
    bundle = make_bundle(stages, config, outcome, private)
    edge = bundle.folder / BUNDLE
    facts: dict[str, Any] = {
        "training": outcome.report,
        "bundle": bundle.record.result,
        "stream_real": stream_real(stages, config, edge, public).record.result,
        "stream_simulated": stream_simulated(stages, config, edge, public).record.result,
        "volume": reconstruct(stages, config).record.result,
    }
    facts["stages"] = {name: {"seconds": s.record.seconds, "cached": s.cached} for name, s in stages.results.items()}
    facts["seconds"] = round(time.perf_counter() - began, 1)
    facts["finished"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    for stage, names in COPIES.items():
        for name in names:
            write_bytes(out / name, (stages.results[stage].folder / name).read_bytes())
    machine = _machine()
    summary = summarise(config, facts, machine)
    write_report(out, config, facts, machine, stages.results)
    write_json(out / "summary.json", summary)
    return summary


def outcome_of(out: Path, config: DemoConfig, stages: Stages | None = None) -> RecipeOutcome:
    """Teacher and student of the demonstration in `out`, from its cache where nothing has changed."""
    return make_student(config.recipe, base=Path.cwd(), stages=stages or Stages(out / "stages"))


def _show_frames(out: Path, outcome: RecipeOutcome) -> None:
    held_out = outcome.data.held_out
    write_montage(out / "frames.png", np.stack([f.image for f in held_out.frames[:18]]), np.stack(held_out.masks[:18]))


def _machine() -> dict[str, str]:
    names = ("pocus-edge-sdk", "torch", "numpy", "onnx", "onnxruntime", "opencv-python-headless", "pydicom", "numba")
    versions = {name: version(name) for name in names}
    return {
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "load at the end": f"{os.getloadavg()[0]:.2f}",
        "Python": platform.python_version(),
        **versions,
    }
