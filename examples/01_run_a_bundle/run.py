"""Run a bundle on a real ultrasound cine within a budget. See the README beside this file."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pydicom import examples
from tiny import build

from edge_runtime.frame import FrameGeometry, Rectangle
from edge_runtime.result import Result
from edge_runtime.session import RunSettings, run_stream
from edge_runtime.sinks import CallbackSink
from edge_runtime.sources import Source, open_source

# the file's own region describes another screen; this is where the sector lies in the picture
SECTOR = FrameGeometry(scan_area=Rectangle(x0=41, y0=18, x1=297, y1=202), origin="user", reason="no pixel size given")


def cine() -> Source:
    return open_source(examples.get_path("ybr_color"), geometry=SECTOR)


def show(result: Result) -> None:
    if result.frame.index % 15 == 0 and result.areas:
        area = result.areas[0]
        size = f"{area.mm2:.0f} mm^2" if area.mm2 is not None else f"{area.pixels} pixels ({area.withheld})"
        print(f"frame {result.frame.index:3} {result.state:8} {result.latency_ns / 1e6:5.1f} ms  {area.label}: {size}")


with tempfile.TemporaryDirectory() as folder:
    known = [Path(argument) for argument in sys.argv[1:2]] or [Path("demo-out/demo.edge")]
    bundle = known[0] if sys.argv[1:] or known[0].exists() else build(Path(folder) / "tiny.edge", cine())
    settings = RunSettings(budget_ms=33.3, loop_s=3.0)
    report = run_stream(bundle, cine(), settings, sinks={"show": CallbackSink(show)})
print(report.to_text())
