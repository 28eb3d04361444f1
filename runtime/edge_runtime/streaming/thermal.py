"""Heat and power mode cap the ladder: what a hook looks like, and the two that read Linux.

A hook is any callable without arguments that returns a `Cap` or None. It is asked a few times a second, away from the
frames, and the strictest answer holds for every branch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime._machine import power_mode
from edge_runtime.errors import ConfigError

__all__ = ["Cap", "CapHook", "PowerMode", "ThermalZones"]


@dataclass(frozen=True, slots=True)
class Cap:
    """The best rung that may be used (1: all but the first choice), and why."""

    rung: int
    reason: str


CapHook = Callable[[], Cap | None]


class ThermalZones:
    """Caps by the hottest thermal zone of the kernel (`/sys/class/thermal`, degrees Celsius).

    `steps` are (temperature, rung): from that temperature on at best that rung. A cap is let go `hysteresis_c` below
    its step. `zones` names the zones to read by their type (`cpu-thermal`); all without. A zone that is switched off
    cannot be read and is passed over. Raises `ConfigError` when no zone can be read, or a named one is not there.
    """

    def __init__(
        self,
        steps: Sequence[tuple[float, int]] = ((80.0, 1), (90.0, 2)),
        *,
        hysteresis_c: float = 5.0,
        zones: Sequence[str] | None = None,
        root: Path = Path("/"),
    ) -> None:
        rungs = [rung for _, rung in sorted(steps)]
        if not steps or rungs != sorted(set(rungs)) or min(rungs) < 1 or not hysteresis_c >= 0:
            raise ConfigError(
                f"steps {steps}, hysteresis_c {hysteresis_c}: rungs from 1 that rise with the heat, and >= 0"
            )
        self._steps = sorted(steps)
        self._hysteresis_c = hysteresis_c
        found = {
            folder: _text(folder / "type") for folder in sorted((root / "sys/class/thermal").glob("thermal_zone*"))
        }
        if zones is not None and (absent := sorted(set(zones) - set(found.values()))):
            raise ConfigError(f"thermal zone {absent} is not there; this machine has {sorted(set(found.values()))}")
        self._zones = {folder: kind for folder, kind in found.items() if zones is None or kind in zones}
        self._rung = 0
        if self.hottest() is None:
            raise ConfigError(
                f"no thermal zone can be read under {root / 'sys/class/thermal'}; leave ThermalZones out here"
            )

    def hottest(self) -> tuple[float, str] | None:
        """Temperature in degrees Celsius and type of the hottest zone; None when none can be read now."""
        found = [(_celsius(folder), kind) for folder, kind in self._zones.items()]
        known = [(celsius, kind) for celsius, kind in found if celsius is not None]
        return max(known) if known else None

    def __call__(self) -> Cap | None:
        hottest = self.hottest()
        if hottest is None:
            raise ConfigError("no thermal zone can be read any more; the temperature is not known")
        celsius, kind = hottest
        reached = max((rung for at, rung in self._steps if celsius >= at), default=0)
        kept = max((rung for at, rung in self._steps if celsius >= at - self._hysteresis_c), default=0)
        self._rung = max(reached, min(self._rung, kept))
        return Cap(self._rung, f"thermal zone {kind} at {celsius:.0f} C") if self._rung else None


class PowerMode:
    """Caps by the power mode of a Jetson (`nvpmodel`): `rungs` maps a mode's number or name to its best rung.

    A mode that is not named is not capped. Raises `ConfigError` on a machine without power modes.
    """

    def __init__(self, rungs: Mapping[str, int], *, root: Path = Path("/")) -> None:
        if not rungs or min(rungs.values()) < 1:
            raise ConfigError(f"rungs are {dict(rungs)}; at least one mode with a rung from 1 is needed")
        self._rungs, self._root = dict(rungs), root
        self._mode()

    def _mode(self) -> tuple[str, str]:
        found = power_mode(self._root)
        told = None if found is None else re.fullmatch(r"(\d+) \((.*)\)", found.detail)
        if told is None:
            raise ConfigError("the power mode cannot be read: no nvpmodel status here; leave PowerMode out")
        return told[1], told[2]

    def __call__(self) -> Cap | None:
        number, name = self._mode()
        rung = self._rungs.get(name, self._rungs.get(number))
        return None if rung is None else Cap(rung, f"power mode {number} ({name})")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _celsius(folder: Path) -> float | None:
    """The kernel writes thousandths of a degree."""
    text = _text(folder / "temp")
    return int(text) / 1000 if re.fullmatch(r"-?\d+", text) else None
