"""The `.edge` file at work: a real cine within a budget, and a simulated cine whose areas are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import SourceError
from edge_runtime.result import Result
from edge_runtime.session import RunSettings, run_stream
from edge_runtime.sinks import CallbackSink
from edge_runtime.sources import ArraySource, Source
from edge_sdk.demo.config import DemoConfig
from edge_sdk.demo.figures import plot_areas, plot_latency
from edge_sdk.simulate import (
    Motion,
    ProbeModel,
    Scene,
    SimulatedFrame,
    random_probe,
    random_scene,
    simulate_cine,
    vessel_exam,
)
from edge_sdk.stages import StageResult, Stages, code_sha256
from edge_sdk.unlabelled import open_unlabelled

__all__ = ["area_errors", "open_cine", "simulated_cine", "stream_real", "stream_simulated"]

MIN_AREA_MM2 = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What the plots and the area table need of one result."""

    index: int
    state: str
    arrival_s: float
    latency_ms: float
    pixels: int
    mm2: float | None
    withheld: str


class _Rows:
    """Collects a row of every result."""

    def __init__(self) -> None:
        self.rows: list[_Row] = []

    def __call__(self, result: Result) -> None:
        area = result.areas[0] if result.areas else None
        self.rows.append(
            _Row(
                index=result.frame.index,
                state=result.state,
                arrival_s=result.frame.arrival_ns / 1e9,
                latency_ms=result.latency_ns / 1e6,
                pixels=area.pixels if area else 0,
                mm2=area.mm2 if area else None,
                withheld=area.withheld if area else "no result",
            )
        )

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """One field of all rows."""
        return np.array([getattr(row, name) for row in self.rows], np.float64)


def open_cine(config: DemoConfig) -> Source:
    """The real cine, with the scan area that the settings give it; the caller closes it."""
    return open_unlabelled(config.cine, Path.cwd())


def stream_real(stages: Stages, config: DemoConfig, bundle: Path, public_key: Path) -> StageResult:
    """Stream the real cine at its own rate, looped; times, ledger, overlay video and contact sheet."""
    inputs = {
        "bundle": bundle.parent.name,
        "cine": config.cine,
        "budget_ms": config.budget_ms,
        "stream_s": config.stream_s,
        "threads": config.threads,
        "code": _code(),
    }

    def work(folder: Path) -> dict[str, Any]:
        return _stream(folder, config, bundle, public_key, open_cine(config), config.stream_s)[0]

    return stages.run("stream-real", inputs, work)


def stream_simulated(stages: Stages, config: DemoConfig, bundle: Path, public_key: Path) -> StageResult:
    """Stream a simulated cine once; areas in mm^2 against the truth."""
    inputs = {
        "bundle": bundle.parent.name,
        "frames": config.simulated_frames,
        "fps": config.simulated_fps,
        "shape": config.simulated_shape,
        "seed": config.seed,
        "budget_ms": config.budget_ms,
        "threads": config.threads,
        "code": [_code(), code_sha256("edge_sdk.simulate")],
    }

    def work(folder: Path) -> dict[str, Any]:
        frames = simulated_cine(config)
        source = _as_source(frames, config)
        facts, rows = _stream(folder, config, bundle, public_key, source, None)
        truth = np.array([frames[row.index].anechoic_area_mm2 for row in rows.rows])
        return {**facts, "areas": _areas(folder, config, rows, truth)}

    return stages.run("stream-simulated", inputs, work)


def simulated_cine(config: DemoConfig, exam: bool = True) -> list[SimulatedFrame]:
    """A cine with anechoic regions, one of them pulsating: `vessel_exam`, or else the first random scene from
    `config.seed` up whose true area is large enough to be measured.
    """
    seeds = (config.seed,) if exam else range(config.seed, config.seed + 50)
    for seed in seeds:
        probe, scene = vessel_exam(seed) if exam else _random_exam(seed)
        cine = simulate_cine(
            scene, probe, config.simulated_frames, config.simulated_fps, Motion(), seed, config.simulated_shape
        )
        first = next(cine)
        if first.anechoic_area_mm2 >= MIN_AREA_MM2:
            return [first, *cine]
    raise SourceError(f"no scene of the seeds {seeds} has an anechoic region of {MIN_AREA_MM2} mm^2")


def _random_exam(seed: int) -> tuple[ProbeModel, Scene]:
    rng = np.random.default_rng(seed)
    probe = random_probe(rng)
    return probe, random_scene(rng, probe, anechoic=2, pulsating=True)


def area_errors(bundle: Path, seed: int, *, exam: bool = True, frames: int = 60) -> npt.NDArray[np.float64]:
    """Relative errors (N,) of the total anechoic area of a simulated cine, every frame, without a deadline."""
    config = DemoConfig(seed=seed, simulated_frames=frames)
    cine, rows = simulated_cine(config, exam), _Rows()
    run_stream(bundle, _as_source(cine, config), RunSettings(pace="lossless"), sinks={"rows": CallbackSink(rows)})
    truth = np.array([cine[row.index].anechoic_area_mm2 for row in rows.rows])
    errors: npt.NDArray[np.float64] = np.abs(rows.column("mm2") / truth - 1)
    return errors


def _as_source(cine: list[SimulatedFrame], config: DemoConfig) -> ArraySource:
    images = np.stack([frame.image for frame in cine])
    return ArraySource(images, fps=config.simulated_fps, geometry=cine[0].geometry, name="simulated")


def _code() -> str:
    return code_sha256(
        "edge_runtime.streaming", "edge_runtime.preprocess", "edge_runtime.sources", "edge_sdk.demo.streaming"
    )


def _stream(
    folder: Path, config: DemoConfig, bundle: Path, public_key: Path, source: Source, loop_s: float | None
) -> tuple[dict[str, Any], _Rows]:
    rows = _Rows()
    settings = RunSettings(
        budget_ms=config.budget_ms,
        loop_s=loop_s,
        threads=config.threads,
        require_signature=True,
        trust=(str(public_key),),
    )
    report = run_stream(bundle, source, settings, record=folder, sinks={"figures": CallbackSink(rows, capacity=64)})
    arrival = rows.column("arrival_s")
    plot_latency(folder / "latency.svg", arrival - arrival.min(), rows.column("latency_ms"), config.budget_ms)
    withheld = sorted({row.withheld for row in rows.rows if row.withheld})
    return {"report": report.to_dict(), "text": report.to_text(), "withheld": withheld, "results": len(rows.rows)}, rows


def _areas(folder: Path, config: DemoConfig, rows: _Rows, truth: npt.NDArray[np.float64]) -> dict[str, Any]:
    measured = rows.column("mm2")
    plot_areas(folder / "areas.svg", rows.column("index") / config.simulated_fps, truth, measured)
    error = np.abs(measured - truth) / truth
    return {
        "n": len(truth),
        "mean_error": float(error.mean()),
        "max_error": float(error.max()),
        "bias": float(((measured - truth) / truth).mean()),
        "truth_mm2": [float(truth.min()), float(truth.max())],
    }
