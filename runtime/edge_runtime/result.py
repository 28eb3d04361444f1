"""`Result`: what leaves the pipeline for every frame that was not dropped, mapped back to the source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.frame import Frame

__all__ = ["Area", "Result", "State"]

State = Literal["fresh", "degraded", "stale", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """Area of one class: pixels always, mm^2 or the reason why it is withheld."""

    label: str
    pixels: int
    mm2: float | None
    withheld: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class Result:
    """The outcome of one frame on one branch.

    `state`: `fresh` first choice, in full; `degraded` a lower rung or a skipped stage; `stale` outputs of an
    earlier frame (`outputs_from`); `failed` no outputs (`reason`). `mask` (H, W) uint8 in SOURCE pixels: 0
    background, k the k-th class; `probability` (h, w) float32 at network size; both belong to the result pool: they are
    valid until `release()`. Times are host monotonic ns; `stages_ns` are the work of each stage and
    `waits_ns` the waits; their sum is `done_ns - frame.arrival_ns`.
    """

    frame: Frame
    branch: str
    state: State
    reason: str = ""
    outputs_from: int = -1
    mask: npt.NDArray[np.uint8] | None = None
    probability: npt.NDArray[np.float32] | None = None
    areas: tuple[Area, ...] = ()
    uncertainty: float | None = None
    variant: str = ""
    runner: str = ""
    bundle_sha256: str = ""
    preprocess_sha256: str = ""
    deadline_ns: int | None = None
    done_ns: int = 0
    stages_ns: dict[str, int] = field(default_factory=dict)
    waits_ns: dict[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
