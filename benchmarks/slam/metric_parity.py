"""Row `metric_parity`: GPE, GLE, LPE and LLE against their definitions, evaluated here in full and independently.

The definitions are followed as they are published (UCL/tus-rec-challenge, assessment.md): whole displacement fields of
every pixel of every frame, pixels counted from 1, landmarks looked up in the fields by their indices. Nothing of the
runtime takes part in them, and the random poses come from scipy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from benchmarks.figures import Figure, judged
from edge_runtime.metrics.trajectory import challenge_errors
from edge_runtime.metrics.trajectory_files import challenge_calibration, challenge_landmarks

__all__ = ["Case", "brute_force", "drawn", "measure_metric_parity", "streamed"]

Floats = npt.NDArray[np.float64]
METRICS = ("gpe", "gle", "lpe", "lle")
SHAPES = ((48, 64), (37, 53), (1, 9), (120, 160), (480, 640))
ROUNDS = 4


class Case:
    """A scan as the challenge gives it, drawn at random: true and estimated `tforms`, two calibrations, landmarks."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int], frames: int) -> None:
        self.shape = shape
        self.scale = np.diag([*rng.uniform(0.05, 0.5, 2), 1.0, 1.0])
        self.scale[:2, 3] = rng.normal(0, 5, 2)
        self.T_tool_mm = _rigid(rng, 1, 100.0)[0]
        self.true, self.estimated = (_walk(rng, frames) for _ in range(2))
        height, width = shape
        marks = 100
        self.landmarks = np.column_stack(
            [rng.integers(1, frames, marks), rng.integers(1, width + 1, marks), rng.integers(1, height + 1, marks)]
        )
        self.landmarks[0] = 1, 1, 1
        self.landmarks[1] = frames - 1, width, height


def _rigid(rng: np.random.Generator, count: int, reach_mm: float) -> Floats:
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, :3, :3] = Rotation.random(count, random_state=rng).as_matrix()
    T[:, :3, 3] = rng.normal(0, reach_mm, (count, 3))
    return T


def _walk(rng: np.random.Generator, frames: int) -> Floats:
    """Poses of a hand: small random steps from a random place some hundred mm from the camera."""
    T = [_rigid(rng, 1, 500.0)[0]]
    for _ in range(frames - 1):
        step = np.eye(4)
        step[:3, :3] = Rotation.from_rotvec(rng.normal(0, 0.02, 3)).as_matrix()
        step[:3, 3] = rng.normal(0, 0.5, 3)
        T.append(T[-1] @ step)
    return np.stack(T)


def drawn(seed: int, shape: tuple[int, int], frames: int) -> Case:
    """A case by its seed."""
    return Case(np.random.default_rng(seed), shape, frames)


def _fields(tforms: Floats, case: Case, pixels_mm: Floats) -> tuple[Floats, Floats]:
    """Global and local displacement fields (N - 1, 3, H * W) in mm of every pixel."""
    back = np.linalg.inv(case.T_tool_mm)
    count = len(tforms)
    fields = []
    for target in ([0] * (count - 1), range(count - 1)):
        moved = [
            (back @ np.linalg.inv(tforms[to]) @ tforms[k] @ case.T_tool_mm @ pixels_mm)[:3] - pixels_mm[:3]
            for to, k in zip(target, range(1, count), strict=True)
        ]
        fields.append(np.stack(moved))
    return fields[0], fields[1]


def brute_force(case: Case) -> dict[str, float]:
    """The four errors in mm, from whole displacement fields."""
    height, width = case.shape
    y, x = np.meshgrid(np.arange(1, height + 1), np.arange(1, width + 1), indexing="ij")
    pixels = np.stack([x.ravel(), y.ravel(), np.zeros(x.size), np.ones(x.size)]).astype(np.float64)
    pixels_mm = case.scale @ pixels
    frame, column, row = case.landmarks.T
    errors: dict[str, float] = {}
    true, estimated = _fields(case.true, case, pixels_mm), _fields(case.estimated, case, pixels_mm)
    for name, a, b in (("g", true[0], estimated[0]), ("l", true[1], estimated[1])):
        distance = np.sqrt(((a - b) ** 2).sum(axis=1))
        errors[f"{name}pe"] = float(distance.mean())
        errors[f"{name}le"] = float(distance.reshape(-1, height, width)[frame - 1, row - 1, column - 1].mean())
    return errors


def streamed(case: Case, landmarks: npt.ArrayLike | None = None) -> dict[str, float]:
    """The same four errors in mm by the runtime."""
    calibration = challenge_calibration(case.scale, case.T_tool_mm)
    marks = challenge_landmarks(case.landmarks if landmarks is None else landmarks, case.shape)
    poses = [T @ calibration.T_tool_image for T in (case.true, case.estimated)]
    errors = challenge_errors(poses[0], poses[1], calibration.geometry, case.shape, marks)
    return {name: float(getattr(errors, name)) for name in METRICS}


def _counting_error() -> float:
    """Largest deviation in mm of single landmarks from a closed form that holds for one way of counting alone.

    The sixth frame alone is turned by a tenth of a radian about the first pixel's centre: there the error is 0, one
    column to the right `2 sin(0.05)` columns, and on the frames before and after it is 0 everywhere.
    """
    case = drawn(99, (20, 30), 9)
    case.estimated = case.true.copy()
    place = np.eye(4)
    place[:3, 3] = (case.scale @ (1, 1, 0, 1))[:3]
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec((0, 0, 0.1)).as_matrix()
    about = case.T_tool_mm @ place
    case.estimated[5] = case.true[5] @ about @ turn @ np.linalg.inv(about)
    chord = 2 * np.sin(0.05)
    expected = {(5, 1, 1): 0.0, (5, 2, 1): chord * case.scale[0, 0], (5, 1, 2): chord * case.scale[1, 1]}
    expected |= {(4, 30, 20): 0.0, (6, 30, 20): 0.0}
    return max(abs(streamed(case, [mark])["gle"] - float(value)) for mark, value in expected.items())


def measure_metric_parity() -> list[Figure]:
    """The largest difference over random scans, metric by metric, and how landmarks are counted."""
    goal = "<= 1e-6 mm"
    worst = dict.fromkeys(METRICS, 0.0)
    sizes = dict.fromkeys(METRICS, 0.0)
    count = 0
    for seed in range(ROUNDS):
        for k, shape in enumerate(SHAPES):
            case = drawn(100 * seed + k, shape, 6 if shape[0] > 200 else 24)
            dense, ours = brute_force(case), streamed(case)
            count += 1
            for name in METRICS:
                worst[name] = max(worst[name], abs(ours[name] - dense[name]))
                sizes[name] = max(sizes[name], dense[name])
    figures = [
        judged(
            name=f"{name.upper()}, largest difference",
            value=worst[name],
            goal=goal,
            unit="mm",
            n=count,
            spread=f"errors up to {sizes[name]:.1f} mm",
        )
        for name in METRICS
    ]
    counting = judged(
        name="landmarks: pixels from 1, frames from 0", value=_counting_error(), goal=goal, unit="mm", n=5
    )
    return [*figures, counting]
