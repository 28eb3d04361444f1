"""Segmentation rows: teachers, distilled students, and the same student from labels alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.distill.cases import HC18, USGRA
from benchmarks.distill.segmentation import Case, logits_of, network, settings, train_all
from benchmarks.distill.stored import SeedRecord, check_fresh, load_records, load_weights, paired_bootstrap
from benchmarks.figures import Figure, judged
from edge_runtime.errors import ConfigError
from edge_runtime.preprocess import Preprocessor
from edge_sdk.progress import Progress
from edge_sdk.students import count_macs, count_parameters

__all__ = [
    "measure_hc18_student",
    "measure_hc18_teacher",
    "measure_kd_gain",
    "measure_ultra_light",
    "measure_usgra_student",
    "train_hc18",
    "train_usgra",
]

_FLOOR = {"dice": 0.938, "hc_error_mm": 5.1}  # a U-Net of 31 k parameters at 144 x 96, 50 s on one thread


def _records(case: Case) -> list[SeedRecord]:
    """The stored seeds, checked against the tree's settings and data; the stored weights must give their scores."""
    records = load_records(case.name)
    for record in records:
        reason = check_fresh(record, settings(case), case.sha256())
        if reason:
            raise ConfigError(reason)
    return records


def _again(case: Case, record: SeedRecord, name: str) -> dict[str, npt.NDArray[np.float64]]:
    """Scores of the stored weights of seed 0, measured now; they must agree with the stored ones.

    The weights are kept as float16, so a pixel at the border may turn: 0.002 of Dice per image is allowed.
    """
    images = case.read("test")
    module = load_weights(case.name, name, network(case, "teacher" if name == "member" else name))
    found = {key: np.asarray(values) for key, values in case.score(logits_of(module, case, images), images).items()}
    worst = float(np.abs(found["dice"] - record.array(f"{name}.dice")).max())
    if worst > 0.002:
        raise ConfigError(
            f"{case.name}: the stored weights of {name} score up to {worst:.4f} Dice off the stored scores"
        )
    return found


def _stack(records: Sequence[SeedRecord], name: str) -> npt.NDArray[np.float64]:
    return np.stack([record.array(name) for record in records])


def _seeds(values: npt.NDArray[np.float64], form: str = ".4f") -> str:
    means = values.mean(axis=1)
    return "seeds " + ", ".join(format(mean, form) for mean in means)


def _cost(case: Case, name: str) -> tuple[int, int]:
    shape = Preprocessor(case.spec).output_shape
    module = network(case, name)
    return count_parameters(module), count_macs(module, shape)


def measure_hc18_teacher() -> list[Figure]:
    """The ensemble on the test split; its members beside it."""
    records = _records(HC18)
    _again(HC18, records[0], "member")
    joined, error = records[0].array("teacher.dice"), np.abs(records[0].array("teacher.hc_error_mm"))
    members, member_error = _stack(records, "member.dice"), np.abs(_stack(records, "member.hc_error_mm"))
    n = len(joined)
    e_low, e_high = paired_bootstrap(error[None])
    parameters, macs = _cost(HC18, "teacher")
    detail: dict[str, object] = {
        "parameters_of_a_member": parameters,
        "macs_of_a_member": macs,
        "members": HC18.members,
    }
    return [
        *_dice_figures("teacher (ensemble, mirrored)", joined, records[0].array("teacher.ellipse_dice"), detail),
        judged(
            name="teacher, circumference error, mean",
            value=error.mean(),
            goal="<= 2.0 mm",
            unit="mm",
            n=n,
            spread=f"95 % {e_low:.2f} to {e_high:.2f}, median {np.median(error):.2f}",
        ),
        Figure(
            name="one member alone, Dice",
            value=float(members.mean()),
            goal="none",
            unit="",
            n=members.size,
            met=None,
            spread=f"{_seeds(members)}; circumference {_seeds(member_error, '.2f')} mm",
        ),
    ]


def _dice_figures(
    who: str,
    masks: npt.NDArray[np.float64],
    ellipses: npt.NDArray[np.float64],
    detail: dict[str, object],
) -> list[Figure]:
    """Mean and worst Dice of the network's mask, and of the ellipse that the circumference is taken from."""
    figures = []
    for what, values in (("the network's mask", masks), ("the fitted ellipse", ellipses)):
        low, high = paired_bootstrap(values[None])
        figures += [
            judged(
                name=f"{who}, Dice of {what}",
                value=values.mean(),
                goal=">= 0.976",
                unit="",
                n=len(values),
                spread=f"95 % {low:.4f} to {high:.4f}",
                detail=detail,
            ),
            judged(
                name=f"{who}, worst Dice of {what}",
                value=values.min(),
                goal=">= 0.93",
                unit="",
                n=len(values),
            ),
        ]
    return figures


def _below(
    case: Case, name: str, records: Sequence[SeedRecord], limit: float, what: str, metric: str = "dice"
) -> Figure:
    """How many Dice points `name` lies below the teacher, over images and seeds."""
    drop = 100 * (_stack(records, f"teacher.{metric}") - _stack(records, f"{name}.{metric}"))
    low, high = paired_bootstrap(drop)
    return judged(
        name=f"{what} below the teacher",
        value=drop.mean(),
        goal=f"<= {limit} points",
        unit="points",
        n=drop.size,
        spread=f"95 % {low:+.2f} to {high:+.2f}; {_seeds(drop, '+.2f')}",
    )


def _cheaper(case: Case, name: str, most: int, least: float) -> list[Figure]:
    parameters, macs = _cost(case, name)
    _, teacher_macs = _cost(case, "teacher")
    ratio = teacher_macs / macs
    return [
        judged(name="parameters", value=parameters, goal=f"<= {most}", unit="", n=1),
        judged(
            name="multiply-adds, one teacher member over student",
            value=ratio,
            goal=f">= {least:g}",
            unit="x",
            n=1,
            spread=f"{macs / 1e6:.0f} M; the whole teacher {2 * case.members * ratio:.0f} x",
        ),
    ]


def measure_hc18_student() -> list[Figure]:
    """The distilled student of three seeds."""
    records = _records(HC18)
    _again(HC18, records[0], "student")
    own = np.abs(_stack(records, "student.hc_error_mm"))
    more = own - np.abs(_stack(records, "teacher.hc_error_mm"))
    low, high = paired_bootstrap(more)
    values = _stack(records, "student.dice")
    return [
        Figure(
            name="student, Dice",
            value=float(values.mean()),
            goal="none",
            unit="",
            n=values.size,
            met=None,
            spread=f"{_seeds(values)}; worst {values.min():.4f}; floor {_FLOOR['dice']}",
        ),
        _below(HC18, "student", records, 0.5, "student"),
        _below(HC18, "student", records, 0.5, "student's fitted ellipse", "ellipse_dice"),
        judged(
            name="student, circumference error above the teacher's",
            value=more.mean(),
            goal="<= 0.3 mm",
            unit="mm",
            n=more.size,
            spread=f"95 % {low:+.2f} to {high:+.2f}; error {own.mean():.2f} mm, floor {_FLOOR['hc_error_mm']} mm",
        ),
        *_cheaper(HC18, "student", 250_000, 10),
    ]


def measure_kd_gain() -> list[Figure]:
    """Distilled against labels alone: same network, same steps, same seeds."""
    records = _records(HC18)
    _again(HC18, records[0], "labels")
    gain = 100 * (_stack(records, "student.dice") - _stack(records, "labels.dice"))
    low, high = paired_bootstrap(gain)
    saved = np.abs(_stack(records, "labels.hc_error_mm")) - np.abs(_stack(records, "student.hc_error_mm"))
    s_low, s_high = paired_bootstrap(saved)
    return [
        Figure(
            name="Dice won by distillation",
            value=float(gain.mean()),
            goal="> 0, interval without 0",
            unit="points",
            n=gain.size,
            met=low > 0,
            spread=f"95 % {low:+.2f} to {high:+.2f}; {_seeds(gain, '+.2f')}",
        ),
        Figure(
            name="circumference error saved",
            value=float(saved.mean()),
            goal="none",
            unit="mm",
            n=saved.size,
            met=None,
            spread=f"95 % {s_low:+.2f} to {s_high:+.2f}; {_seeds(saved, '+.2f')}",
        ),
    ]


def measure_ultra_light() -> list[Figure]:
    """The smallest student."""
    records = _records(HC18)
    _again(HC18, records[0], "ultra")
    return [_below(HC18, "ultra", records, 1.5, "ultra-light student"), *_cheaper(HC18, "ultra", 35_000, 10)]


def measure_usgra_student() -> list[Figure]:
    """Nerve and vessel, two classes."""
    records = _records(USGRA)
    _again(USGRA, records[0], "student")
    teacher = records[0].array("teacher.dice")
    return [
        Figure(
            name="teacher, mean Dice of the classes",
            value=float(teacher.mean()),
            goal="none",
            unit="",
            n=teacher.size,
            met=None,
        ),
        _below(USGRA, "student", records, 1.0, "student"),
        *_cheaper(USGRA, "student", 250_000, 10),
    ]


def train_hc18(progress: Progress) -> None:
    """Repeat the trainings of the HC18 rows."""
    train_all(HC18, progress)


def train_usgra(progress: Progress) -> None:
    """Repeat the trainings of the usgra row."""
    train_all(USGRA, progress)
