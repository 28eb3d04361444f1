"""Recorded inertial samples as CSV: the unit of each column stands in its name."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from edge_runtime.atomic import write_bytes
from edge_runtime.buffers import ImuSamples
from edge_runtime.errors import SourceFormatError
from edge_runtime.slam.imu import GRAVITY, check_samples

__all__ = ["read_imu", "write_imu"]

TIMES = {"time_ns": 1, "time_us": 1_000, "time_ms": 1_000_000, "time_s": 1_000_000_000}
RATES = {"rad_s": 1.0, "deg_s": np.pi / 180}
FORCES = {"m_s2": 1.0, "g": GRAVITY}
MAX_BYTES = 256 << 20


def write_imu(path: str | Path, samples: ImuSamples) -> None:
    """Write `samples` with columns `time_ns`, `gyro_x_rad_s` .., `accel_x_m_s2` ..; every float is kept to the bit.

    The file appears whole or not at all. Raises `ConfigError` for bad samples or a folder that is missing.
    """
    check_samples(samples)
    names = ["time_ns", *(f"gyro_{c}_rad_s" for c in "xyz"), *(f"accel_{c}_m_s2" for c in "xyz")]
    rows = zip(samples.times_ns.tolist(), samples.gyro_rad_s.tolist(), samples.accel_m_s2.tolist(), strict=True)
    lines = [",".join(names), *(",".join(map(repr, (time, *gyro, *accel))) for time, gyro, accel in rows)]
    write_bytes(Path(path), ("\n".join(lines) + "\n").encode())


def read_imu(path: str | Path) -> ImuSamples:
    """Samples of a CSV file whose first line names the columns, in any order.

    Time: `time_ns`, `time_us`, `time_ms` or `time_s`; `gyro_x`, `_y`, `_z` each with `_rad_s` or `_deg_s`; `accel_x`,
    `_y`, `_z` each with `_m_s2` or `_g` (9.80665 m/s^2). Raises `SourceFormatError`, with the line, for a file that
    cannot be read, a column that is missing, unknown or twice there, a value that is no number, or a time that does not
    rise.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise SourceFormatError(f"{path} has {size >> 20} MiB; up to {MAX_BYTES >> 20} are read: split it")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceFormatError(f"{path} cannot be read as text: {error}; name a CSV file") from error
    rows = csv.reader(io.StringIO(text, newline=""))
    names = [name.strip() for name in next(rows, [])]
    columns = _columns(path, names)
    times: list[int] = []
    values: list[list[float]] = []
    for row in rows:
        if not row:
            continue
        try:
            if len(row) != len(names):
                raise ValueError(f"{len(row)} values for {len(names)} columns")
            times.append(_time(row[columns[0][0]].strip(), int(columns[0][1])))
            values.append([float(row[k]) * scale for k, scale in columns[1:]])
            if not np.isfinite(values[-1]).all():
                raise ValueError("a value is not finite")
            if len(times) > 1 and times[-1] <= times[-2]:
                raise ValueError(f"time {times[-1]} ns does not follow {times[-2]} ns")
        except (ValueError, OverflowError) as error:
            raise SourceFormatError(f"{path}, line {rows.line_num}: {error}; mend or remove the line") from error
    if not times:
        raise SourceFormatError(f"{path} holds no samples; a line of names and then lines of numbers are needed")
    data = np.array(values, np.float64)
    return ImuSamples(times_ns=np.array(times, np.int64), gyro_rad_s=data[:, :3], accel_m_s2=data[:, 3:])


def _time(text: str, unit_ns: int) -> int:
    """Nanoseconds; whole numbers exactly, however large."""
    found = int(text) * unit_ns if text.lstrip("+-").isdigit() else round(float(text) * unit_ns)
    if abs(found) >= 1 << 62:
        raise ValueError(f"time {text} lies beyond 2^62 ns")
    return found


def _columns(path: Path, names: list[str]) -> list[tuple[int, float]]:
    """Place and factor of time, gyro x y z, accel x y z."""
    wanted: list[dict[str, float]] = [{name: float(factor) for name, factor in TIMES.items()}]
    for what, units in (("gyro", RATES), ("accel", FORCES)):
        wanted += [{f"{what}_{c}_{unit}": factor for unit, factor in units.items()} for c in "xyz"]
    found = []
    for choices in wanted:
        there = [k for k, name in enumerate(names) if name in choices]
        if len(there) != 1:
            raise SourceFormatError(
                f"{path} has {len(there)} of the columns {', '.join(choices)}, exactly one is needed; its first line "
                f"is {','.join(names)[:200]!r}"
            )
        found.append((there[0], choices[names[there[0]]]))
    if len(names) != len(found):
        known = {name for choices in wanted for name in choices}
        raise SourceFormatError(f"{path}: unknown columns {[n for n in names if n not in known]}; remove them")
    return found
