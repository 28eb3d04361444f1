"""`Result`: what leaves the pipeline for every frame that was not dropped, mapped back to the source."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.buffers import ImuSamples, InterpolatedPose, PoseRefusal
from edge_runtime.frame import Frame
from edge_runtime.geometry import Pose

__all__ = [
    "Area",
    "ClassScore",
    "Detection",
    "Finding",
    "GateScore",
    "Instance",
    "Lease",
    "Measurement",
    "Outcome",
    "Result",
    "State",
]

State = Literal["fresh", "degraded", "stale", "failed"]


class Lease(Protocol):
    """A counted hold on the buffers of a result (`edge_runtime.streaming.ResultPool` hands them out)."""

    def retain(self) -> None:
        """One holder more."""

    def release(self) -> None:
        """One holder less; the last one gives the buffers back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """Area of one class: pixels always, mm^2 or the reason why it is withheld."""

    label: str
    pixels: int
    mm2: float | None
    withheld: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """Probability, 0 to 1, that the frame is of the class `label`."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """A box in SOURCE pixels, half-open, pixel edges at integers, inside the frame; `score` is its probability."""

    label: str
    score: float
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One object of a class: `number` is its value in `Result.instances`, the box as in `Detection`."""

    number: int
    area: Area
    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """`quantity` of the class `label` in `unit`, with its standard uncertainty (1 sigma), or None and the reason."""

    label: str
    quantity: str
    unit: Literal["mm", "mm2"]
    value: float | None
    uncertainty: float | None
    withheld: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A plausibility rule that failed, by name, with the value found and what is allowed.

    A rule that could not be checked is a finding too: its `value` is None and `reason` says why.
    """

    rule: str
    label: str
    quantity: str
    value: float | None
    least: float | None
    most: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateScore:
    """How unlike the frames of the gate's fit a frame is; above `threshold` it is out of distribution."""

    output: str
    score: float
    threshold: float

    @property
    def beyond(self) -> bool:
        """Whether the frame is out of distribution."""
        return self.score > self.threshold


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What a postprocessor found in one frame; the fields are those of `Result`."""

    mask: npt.NDArray[np.uint8] | None = None
    probability: npt.NDArray[np.float32] | None = None
    areas: tuple[Area, ...] = ()
    uncertainty: float | None = None
    classes: tuple[ClassScore, ...] = ()
    detections: tuple[Detection, ...] = ()
    image: npt.NDArray[np.uint8] | None = None
    uncertainty_map: npt.NDArray[np.float32] | None = None
    instances: npt.NDArray[np.int32] | None = None
    objects: tuple[Instance, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    findings: tuple[Finding, ...] = ()
    gates: tuple[GateScore, ...] = ()


@dataclass(slots=True, kw_only=True, eq=False)
class Result:
    """The outcome of one frame on one branch.

    `state`: `fresh` first choice, in full; `degraded` a lower rung or a skipped stage; `stale` outputs of an
    earlier frame (`outputs_from`); `failed` no outputs (`reason`). `mask` (H, W) uint8 in SOURCE pixels: 0
    background, k the k-th class; `probability` (h, w) float32 at network size; both are read-only and belong to
    the result pool: they are valid until `release()`. `classes` has the scores of a classifier in the bundle's
    order, `detections` the boxes of a detector, best first; `image` is the enhanced frame, (H, W) uint8 in source
    pixels. `uncertainty` is one number for the frame, 0 (sure) and up, `uncertainty_map` (h, w) float32 that of
    every pixel at network size. `instances` (H, W) int32 numbers the objects of a mask in source pixels, 0 background,
    and `objects` lists them. `measurements` are in mm, `findings` the plausibility rules that this result breaks, and
    `gates` how unlike the frames that the model knows this one is. `image`, `uncertainty_map` and `instances` are
    read-only and stay valid. `tracked` is where the image lies, for the frame's own time, or why that is not known
    (None: the stream has no poses; `pose` is the short way), and `imu` the inertial samples since the result before
    (None: the stream has none). Times are host monotonic ns; `stages_ns` are the work of each stage and `waits_ns` the
    waits; their sum is `done_ns - frame.arrival_ns`.

    Whoever keeps a result beyond the call it was given in calls `retain()` and later `release()`, or takes a
    `copy()`. `extra` may hold text for the log (a message of an error); it is never recorded.
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
    classes: tuple[ClassScore, ...] = ()
    detections: tuple[Detection, ...] = ()
    image: npt.NDArray[np.uint8] | None = None
    uncertainty_map: npt.NDArray[np.float32] | None = None
    instances: npt.NDArray[np.int32] | None = None
    objects: tuple[Instance, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    findings: tuple[Finding, ...] = ()
    gates: tuple[GateScore, ...] = ()
    tracked: InterpolatedPose | PoseRefusal | None = None
    imu: ImuSamples | None = None
    variant: str = ""
    runner: str = ""
    bundle_sha256: str = ""
    preprocess_sha256: str = ""
    deadline_ns: int | None = None
    done_ns: int = 0
    stages_ns: dict[str, int] = field(default_factory=dict)
    waits_ns: dict[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    lease: Lease | None = field(default=None, repr=False)

    @property
    def pose(self) -> Pose | None:
        """`T_world_image` at the frame's time, with covariance; None when there is none (`tracked` says why)."""
        return self.tracked.pose if isinstance(self.tracked, InterpolatedPose) else None

    @property
    def latency_ns(self) -> int:
        """From the frame's arrival to the finished result."""
        return self.done_ns - self.frame.arrival_ns

    @property
    def late(self) -> bool:
        """Whether it was finished after its deadline."""
        return self.deadline_ns is not None and self.done_ns > self.deadline_ns

    @property
    def missed(self) -> bool:
        """Whether the frame had no fresh or degraded result by its deadline."""
        return self.late or self.state not in ("fresh", "degraded")

    @property
    def out_of_distribution(self) -> GateScore | None:
        """The first gate that this frame lies beyond, with score and threshold; None when there is none."""
        return next((gate for gate in self.gates if gate.beyond), None)

    def retain(self) -> None:
        """Hold the buffers once more; every `retain` needs its `release`."""
        if self.lease is not None:
            self.lease.retain()

    def release(self) -> None:
        """Let go of the buffers; `mask` and `probability` must not be read afterwards."""
        if self.lease is not None:
            self.lease.release()

    def copy(self) -> Result:
        """The same result with arrays of its own, free of the pool; the frame's image is shared."""
        return replace(
            self,
            mask=None if self.mask is None else self.mask.copy(),
            probability=None if self.probability is None else self.probability.copy(),
            stages_ns=dict(self.stages_ns),
            waits_ns=dict(self.waits_ns),
            extra=dict(self.extra),
            lease=None,
        )
