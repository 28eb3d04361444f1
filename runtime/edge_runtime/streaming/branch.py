"""`Branch`: one model's way from frame to result, and the ladder it may step down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edge_runtime.errors import ConfigError
from edge_runtime.result import Result
from edge_runtime.runners.base import Runner
from edge_runtime.streaming.contracts import Postprocess, Preprocess
from edge_runtime.streaming.failing import ErrorPolicy
from edge_runtime.streaming.policy import LadderPolicy, Policy

__all__ = ["Branch", "Measured", "Rung", "RungReport"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rung:
    """One variant on one runner, and how its outputs are read.

    Rungs of equal `rank` (0 is the most accurate) are alternatives: warm-up tries the cheapest of them first. None
    stands for the position in the branch.
    """

    runner: Runner
    postprocess: Postprocess
    rank: int | None = None

    @property
    def name(self) -> str:
        """Variant and runner, for reports."""
        return f"{self.runner.variant} on {self.runner.name}"

    @property
    def probability_shape(self) -> tuple[int, int]:
        """(h, w) of the first image-shaped output; (0, 0) when there is none."""
        shapes = (output.shape for output in self.runner.outputs if len(output.shape) == 4)
        return next(((shape[2], shape[3]) for shape in shapes), (0, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class RungReport:
    """What was found about one declared rung; `median_ns` is inference plus postprocessing, None unmeasured."""

    variant: str
    runner: str
    median_ns: int | None
    runs: int
    kept: bool
    note: str = ""

    @property
    def name(self) -> str:
        """Variant and runner, for reports."""
        return f"{self.variant} on {self.runner}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A ladder that was measured before, on this machine: what was found about every declared rung, and the costs of
    those that were kept as (stage, rung, ns)."""

    reports: tuple[RungReport, ...]
    costs: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Branch:
    """What a pipeline does with each frame under one name.

    `rungs` go from the first choice down; warm-up removes those that are not cheaper. `cadence` n runs on every n-th
    frame. `budget_ms` counts from the frame's arrival; None sets no deadline. `refine` is an optional stage that may
    change the result in place before it is published; it is the first thing to be left out, and a result without it
    is `degraded`. `policy` makes a fresh policy for every stream. All rungs take the same input. `left_out` tells of
    rungs that could not be used before warm-up, for the report. `errors` says what happens when a stage raises.
    With `measured` the rungs are those that were kept: warm-up calls each once and measures nothing.
    """

    preprocess: Preprocess
    rungs: tuple[Rung, ...]
    cadence: int = 1
    budget_ms: float | None = None
    refine: Callable[[Result], None] | None = None
    policy: Callable[[], Policy] = LadderPolicy
    bundle_sha256: str = ""
    preprocess_sha256: str = ""
    left_out: tuple[RungReport, ...] = ()
    errors: ErrorPolicy = field(default_factory=ErrorPolicy)
    measured: Measured | None = None

    def __post_init__(self) -> None:
        if not self.rungs:
            raise ConfigError("a branch without rungs cannot run; give it at least one Rung")
        if self.cadence < 1:
            raise ConfigError(f"cadence is {self.cadence}; 1 means every frame, n every n-th")
        if self.budget_ms is not None and not self.budget_ms > 0:
            raise ConfigError(f"budget_ms is {self.budget_ms}; it must be above 0, or None for no deadline")
        if not callable(self.policy):
            raise ConfigError(
                f"policy is {self.policy!r}; give the class itself, or a function: each stream gets a policy of its own"
            )
        inputs = {rung.runner.input for rung in self.rungs}
        if len(inputs) > 1:
            raise ConfigError(f"the rungs of a branch take different inputs: {sorted(map(str, inputs))}")

    def reset(self) -> None:
        """Forget earlier frames, in the preprocessing and in every postprocessor that keeps any."""
        self.preprocess.reset()
        for rung in self.rungs:
            forget = getattr(rung.postprocess, "reset", None)
            if forget is not None:
                forget()
