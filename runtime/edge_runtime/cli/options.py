"""Arguments and options that several commands of `edge-runtime` have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Edge", "Provider", "Runner", "Trust"]

Edge = Annotated[Path, typer.Argument(metavar="FILE.edge", help="The bundle.")]
Provider = Annotated[str | None, typer.Option(help="ONNX Runtime's execution provider, or OpenVINO's device.")]
Runner = Annotated[str | None, typer.Option(help="onnxruntime (without), openvino, tensorrt, or auto: measure all.")]
Trust = Annotated[list[Path] | None, typer.Option(help="Public key (PEM) to trust; may be repeated.", metavar="KEY")]
